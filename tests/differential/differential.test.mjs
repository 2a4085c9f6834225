import assert from 'node:assert/strict';
import test from 'node:test';
import { withProxy } from '../e2e/lib/proxy.mjs';
import { request as get } from '../e2e/lib/http.mjs';
import { until } from '../e2e/lib/wait.mjs';
import { pipeline } from './lib/generator.mjs';
import { Run } from './lib/run.mjs';
import { configuration, servers } from './lib/servers.mjs';

const { apps, shares, missing } = await servers();
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000_000);
const REQUESTS = Number(process.env.REQUESTS ?? (process.env.SLOW === '1' ? 500_000 : 50_000));

async function ready(proxy) {
  for (const app of Object.keys(apps)) {
    const headers = { host: `${app}.test`, 'x-report': 'yes' };
    await until(async () => (await get(proxy.port, { path: '/report', headers })).status === 200, { timeout: 30_000, what: `${app} to answer` });
  }
}

test(`what passes is read alike by all servers (SEED=${SEED})`, { timeout: 900_000 }, () =>
  withProxy(configuration(apps), { ready: false }, async proxy => {
    await ready(proxy);
    const run = new Run(proxy.port, Object.keys(apps));
    const began = performance.now();
    let index = Number(process.env.FROM ?? 0);
    const last = process.env.FROM ? index : Infinity;
    await run.drive(() => (run.counts.requests < REQUESTS && index <= last ? pipeline(SEED, index++, shares) : undefined));
    await run.settle();
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    console.log(`SEED=${SEED} ${JSON.stringify(run.counts)} in ${seconds} s, up to ${run.deepest} requests on a worker's connection`);
    console.log(run.findings.show());
    assert.equal(run.findings.count, 0, 'findings');
  }));
