// What the proxy passes on must be taken by the server behind it, and read as the proxy has read it. Requests are made by chance, from a
// seed that is printed; see README.md.

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { request as get } from '../e2e/lib/http.mjs';
import { PLAIN, startProxy } from '../e2e/lib/proxy.mjs';
import { until } from '../e2e/lib/wait.mjs';
import { fixed } from './lib/fixed.mjs';
import { pipeline } from './lib/generator.mjs';
import { plain } from './lib/request.mjs';
import { Run } from './lib/run.mjs';
import { configuration, servers } from './lib/servers.mjs';

const { apps, shares, missing } = await servers();
const names = Object.keys(apps);
for (const what of missing) console.log(`skipped: servers of ${what}`);

const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000_000);
const REQUESTS = Number(process.env.REQUESTS ?? (process.env.SLOW === '1' ? 500_000 : 50_000));
/** The account is made up after so many. */
const ROUND = 25_000;
const ONLY = process.env.ONLY;

describe('what the proxy passes on', { skip: PLAIN && 'needs the proxy' }, () => {
  let proxy;
  before(async () => {
    proxy = await startProxy(configuration(apps), { ready: false });
    for (const app of names) await until(() => answers(app), { timeout: 60_000, what: `${app} to answer` });
  });
  after(() => proxy?.stop());

  async function answers(app) {
    return (await get(proxy.port, { path: '/report', headers: { host: `${app}.test`, 'x-report': 'yes' } })).status === 200;
  }

  if (!ONLY && process.env.FIXED !== '0') {
    for (const [number, { name, make }] of fixed.entries()) {
      test(name, { timeout: 60_000 }, async () => {
        const run = new Run(proxy.port, names);
        const id = (server, place) => `f${number}z${names.indexOf(server)}z${place}q`;
        await Promise.all(names.map(server => {
          const [behind, ...others] = [1, 2, 3].map(i => plain(id(server, i), server));
          return each(run, server, [make(id(server, 0), server), behind], [make(id(server, 4), server)], others);
        }));
        await run.settle();
        assert.equal(run.findings.count, 0, `\n${run.findings.show()}`);
      });
    }
  }

  test('the account sees a request that came to a server past the proxy, and one that came twice', { timeout: 60_000 }, async () => {
    const run = new Run(proxy.port, names);
    const [server] = names;
    const sockets = readdirSync(proxy.runtime, { recursive: true }).filter(file => file.includes(server) && file.endsWith('.sock'));
    assert.equal(sockets.length, 1, `one socket of ${server}, not ${sockets}`);
    await each(run, server, [plain('a1q', server)]);
    for (const id of ['sa1q', 'a1q']) {
      await new Promise((resolve, reject) => {
        const past = http.get({ socketPath: path.join(proxy.runtime, sockets[0]), headers: { 'x-case': id } }, res => res.resume().once('end', resolve));
        past.once('error', reject);
      });
    }
    await run.settle();
    const found = [
      'a smuggled request was read', 'read 2 times, answered 1 times', 'read whole 1 times, answered 0 times', 'read whole 2 times, answered 1 times',
    ];
    assert.deepEqual(run.findings.kinds.sort(), found.map(kind => `${server}: ${kind}`));
  });

  test(`${REQUESTS} requests by chance are read alike by all servers`, { timeout: 1_200_000 }, async () => {
    const run = new Run(proxy.port, names);
    const began = performance.now();
    let index = Number(ONLY ?? 0);
    for (let goal = 0; ONLY ? index === Number(ONLY) : run.counts.judged < REQUESTS;) {
      goal = Math.min(goal + ROUND, REQUESTS);
      const more = () => (ONLY ? index === Number(ONLY) : run.counts.judged < goal);
      await run.drive(() => (more() ? pipeline(SEED, index++, shares) : undefined));
      await run.settle();
    }
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    console.log(`SEED=${SEED}: ${JSON.stringify(run.counts)} in ${seconds} s, up to ${run.deepest} on one connection of a worker`);
    if (!ONLY) assert.ok(run.deepest > 20, 'the connections of workers are used again and again');
    assert.equal(run.findings.count, 0, `SEED=${SEED}\n${run.findings.show()}`);
  });
});

/** Pipelines one after the other, each on a connection of its own: a later one may get the worker's connection that an earlier had. */
async function each(run, server, ...pipelines) {
  for (const requests of pipelines) {
    const left = [{ server, requests, cuts: [] }];
    await run.drive(() => left.shift(), 1);
  }
}
