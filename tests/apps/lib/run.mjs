// One app through all of it: prepared, asked alone, asked behind the proxy, compared, replaced under load, asked again.

import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import path from 'node:path';
import { freePort } from '../../e2e/lib/proxy.mjs';
import { steady } from '../../e2e/lib/steer.mjs';
import { until } from '../../e2e/lib/wait.mjs';
import { Alone, isReady } from './alone.mjs';
import { reloadUnderLoad, startBehind } from './behind.mjs';
import { ask, derived, differences } from './compare.mjs';
import { environmentFor, prepare } from './prepare.mjs';
import { Target } from './target.mjs';

const START = 90_000;

export async function runApp(app) {
  const cwd = await prepare(app);
  const env = environmentFor(app);
  // Ports that the app listens on besides: the same ones alone and behind the proxy, which never run together.
  const ports = {};
  for (const name of app.ports ?? []) ports[name] = await freePort();
  const context = { cwd, env, ports, timeout: app.startTimeout ?? START };
  forget(app, cwd);
  const alone = await askAlone(app, context);
  forget(app, cwd);
  return askBehind(app, context, alone);
}

/** What the app has written down in its folder; both times it starts without. */
function forget(app, cwd) {
  for (const name of app.state ?? []) rmSync(path.join(cwd, name), { recursive: true, force: true });
}

async function askAlone(app, context) {
  const process = await new Alone().start(app, context);
  const target = new Target({ port: process.port, scheme: app.scheme, alone: true, dir: context.cwd, ports: context.ports });
  try {
    await process.ready(target, app, context.timeout);
    const asked = await askAll(target, app);
    for (const [what, use] of Object.entries(app.uses ?? {})) await named(`${what}, alone`, use(target));
    return { target, asked };
  } catch (error) {
    console.error(`--- output of ${app.name} alone\n${process.output.slice(-2500)}\n---`);
    throw error;
  } finally {
    await process.stop();
  }
}

/** The app's requests and what is derived from them; behind the proxy the same ones as alone. */
async function askAll(target, app, before) {
  const asked = await ask(target, app);
  const more = before ? before.slice(asked.length).map(({ request }) => request) : derived(asked, app, target);
  return [...asked, ...(await ask(target, { requests: more }))];
}

async function askBehind(app, context, alone) {
  const workers = app.workers ?? 1;
  const proxy = await startBehind(app, context);
  const target = new Target({ port: proxy.port, alone: false, dir: context.cwd, workers, ports: context.ports });
  const report = { workers, differs: [] };
  let failed = true;
  try {
    await steady(proxy, workers, { timeout: context.timeout });
    // What counts as listening need not be able to answer yet: Node-RED, say, still loads its flows.
    const isThere = async () => isReady(await target.request({ path: app.ready ?? '/' }), app);
    await until(isThere, { timeout: context.timeout, every: 100, what: `${app.name} to answer behind the proxy` });
    report.differs = judge(app, differences(app, alone.asked, await askAll(target, app, alone.asked), { alone: alone.target, behind: target }));
    report.compared = alone.asked.length;
    await use(app, target);
    const lasting = app.lasting ? await named('what lasts', app.lasting(target)) : null;
    Object.assign(report, await reloadUnderLoad(proxy, target, app, context.timeout));
    if (lasting) await named('what lasts, after the reload', lasting());
    await ask(target, app);
    await use(app, target);
    for (const pattern of app.logs ?? []) await proxy.line(pattern);
    failed = false;
  } catch (error) {
    proxy.show();
    throw error;
  } finally {
    await proxy.stop({ timeout: 30_000 }).catch(error => {
      if (!failed) {
        proxy.show();
        throw error;
      }
    });
  }
  return report;
}

async function use(app, target) {
  for (const [what, use] of Object.entries(app.uses ?? {})) await named(what, use(target));
}

async function named(what, promise) {
  try {
    return await promise;
  } catch (error) {
    error.message = `${what}: ${error.message}`;
    throw error;
  }
}

/** Differences that the app's `expected` names must be there, and no others; returns their reasons. */
export function judge(app, found) {
  const expected = app.expected ?? {};
  const surprises = found.filter(({ request }) => !expected[request]).map(({ request, text }) => `${request}: ${text}`);
  assert.deepEqual(surprises, [], `${app.name} does not answer as it does alone`);
  const reasons = Object.entries(expected).map(([request, { differs, seen }]) => {
    const difference = found.find(one => one.request === request);
    assert.ok(difference, `${request} is as alone: the entry in "expected" (${differs}) has had its day`);
    if (seen) assert.match(difference.text, seen);
    return `${request}: ${differs}`;
  });
  return [...reasons, ...(app.notes ?? [])];
}
