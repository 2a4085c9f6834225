// The table: each rule on each path. What a rule expects stands once, in rules/*.mjs; the paths (rules/paths.mjs) only
// translate. A cell that makes no sense is left out with its reason in the table, and said so in the output.
//
// RULES=a,b runs the rules whose names hold one of these, COLUMNS=http2,upgrade only these paths.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { needsUpgrade } from './lib/proxy.mjs';
import { all } from './rules/all.mjs';
import { main } from './rules/config.mjs';
import { At, paths, prepared } from './rules/paths.mjs';

const list = name => process.env[name]?.split(',').map(word => word.trim()).filter(Boolean);
const wanted = list('RULES');
const columns = list('COLUMNS') ?? Object.keys(paths);
const rules = all.filter(rule => !wanted || wanted.some(word => rule.name.includes(word)));

const count = { cells: 0, passed: 0, failed: [], skipped: 0 };

/** What a rule says of a path, by its name or by its kind. */
function said(of, name) {
  const { http, two } = paths[name];
  return of?.[name] ?? (http === 'pingora' ? of?.pingora : undefined) ?? (two ? of?.http2 : undefined);
}

/** Why a cell is left out, or nothing. */
const reason = (rule, name) => said(rule.not, name);

/** What a path that cannot hold the rule does instead: {says, act, expect}. */
const instead = (rule, name) => said(rule.instead, name);

async function cell(rule, name, proxy) {
  const own = rule.own && await prepared(rule.own, { http: paths[name].http, protocol: paths[name].protocol, host: `${rule.app}.example`, connections: paths[name].adopted ? rule.connections ?? 1 : 0 });
  const at = new At(name, own || proxy, rule.app);
  try {
    const { act, expect } = { ...rule, ...instead(rule, name) };
    await expect(await act(at), at);
    at.close();
    if (own) await own.stop();
  } catch (error) {
    at.close();
    if (own) {
      own.show();
      await own.stop().catch(() => {});
    }
    throw error;
  }
}

/** Runs `body` when no other rule of the same app runs. */
function exclusive(locks, rule, body) {
  if (rule.app === 'web' || rule.own) return body();
  const turn = (locks.get(rule.app) ?? Promise.resolve()).then(body);
  locks.set(rule.app, turn.catch(() => {}));
  return turn;
}

/** All cells of a rule. */
async function row(t, rule, names, proxy) {
  const around = new At('http1', proxy, rule.app);
  try {
    await rule.before?.(around);
    await Promise.all(names.map(name => t.test(name, { timeout: 60_000 }, async () => {
      count.cells++;
      try {
        await cell(rule, name, proxy);
        count.passed++;
      } catch (error) {
        count.failed.push(`${rule.name} x ${name}: ${error.message.replace(/\s*\n\s*/g, ' ').slice(0, 300)}`);
        throw error;
      }
    })));
  } finally {
    await rule.behind?.(around);
  }
}

function table(http, only, protocol) {
  const chosen = only.filter(name => paths[name].http === http && paths[name].protocol === protocol);
  const runs = rules.map(rule => ({ rule, names: chosen.filter(name => !reason(rule, name)) })).filter(({ names }) => names.length > 0);
  const cells = ({ rule, names }) => names.filter(name => paths[name].adopted).length * (rule.own ? 0 : rule.connections ?? 1);
  describe(`carried by ${http}${protocol ? `, workers with ${protocol}` : ''}`, { ...needsUpgrade, timeout: 600_000 }, () => {
    let proxy;
    const shared = runs.some(({ rule }) => !rule.own);
    before(async () => {
      if (!shared) return;
      const connections = runs.reduce((sum, run) => sum + cells(run), 0);
      proxy = await prepared(main, { http, protocol, host: 'web.example', connections: Math.max(1, connections) });
    }, { timeout: 120_000 });
    after(async () => {
      for (const client of proxy?.adopted ?? []) client.close();
      await proxy?.stop();
    });
    // Several rules at a time; of those that share an app with a state of its own, one.
    describe('rules', { concurrency: 4 }, () => {
      const locks = new Map();
      for (const { rule, names } of runs) {
        test(rule.name, { concurrency: rule.alone === true ? 1 : names.length }, t => exclusive(locks, rule, () => row(t, rule, names, proxy)));
      }
    });
    if (shared) {
      test('afterwards no worker has anything left to do', async () => {
        for (const app of Object.keys(main(proxy).apps)) await new At('http1', proxy, app).quiet();
      });
    }
  });
}

table('own', columns);
table('own', columns, 'http2');
table('pingora', columns);

test('the table is complete', needsUpgrade, () => {
  for (const rule of rules) {
    for (const name of columns) {
      const why = reason(rule, name);
      if (!why) {
        const other = instead(rule, name);
        if (other) console.log(`instead: ${rule.name} x ${name}: ${other.says}`);
        continue;
      }
      count.skipped++;
      console.log(`skipped: ${rule.name} x ${name}: ${why}`);
    }
  }
  for (const line of count.failed) console.log(`failed: ${line}`);
  console.log(`cells: ${count.cells} run, ${count.passed} passed, ${count.failed.length} failed, ${count.skipped} skipped with a reason; `
    + `${rules.length} rules x ${columns.length} paths`);
  assert.equal(new Set(all.map(rule => rule.name)).size, all.length, 'each rule has a name of its own');
  if (!wanted && columns.length === Object.keys(paths).length) {
    assert.equal(count.cells + count.skipped, rules.length * columns.length, 'each cell was run or has a reason');
    assert.ok(rules.length >= 30 && count.cells >= 120, `${rules.length} rules, ${count.cells} cells`);
  }
});
