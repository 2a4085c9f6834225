// A worker that writes 50 MB of log lines a second.

import assert from 'node:assert/strict';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { Load } from './lib/load.mjs';
import { freePort, needsProxy, withProxy } from './lib/proxy.mjs';
import { pidsOf, residentBytes, steady } from './lib/steer.mjs';
import { sleep } from './lib/wait.mjs';

const SECONDS = process.env.SLOW ? 30 : 6;
const MOST = 150 * 2 ** 20;

test('50 MB/s of log lines: siblings serve, memory is bounded, drops are counted', { timeout: 120_000, ...needsProxy }, async t => {
  const metrics = await freePort();
  const config = proxy => ({
    metrics: { address: `127.0.0.1:${metrics}` },
    // A file that is put aside early: at most two of them stay.
    logs: { output: 'file', path: proxy.file('logs/{app}.log'), rotate: { size: '20mb', keep: 1 } },
    apps: { web: { script: './roll.js', instances: 3 } },
  });
  await withProxy(config, async proxy => {
    const pids = pidsOf(await steady(proxy, 3));
    const load = () => Load.only(proxy, { keepAlive: 4, pause: 10 }).start();
    const quiet = await load();
    await sleep(2500);
    await quiet.stop();

    const hog = Number((await request(proxy.port, { path: `/hog?mb=50&ms=${SECONDS * 1000}` })).text);
    const loud = await load();
    let most = 0;
    for (const end = performance.now() + SECONDS * 1000; performance.now() < end;) {
      most = Math.max(most, residentBytes(proxy.child.pid));
      await sleep(100);
    }
    await loud.stop();
    const p99 = tally => Math.round(tally.tallies.keepAlive.percentile(0.99));
    t.diagnostic(`all workers: p99 ${p99(quiet)} ms before, ${p99(loud)} ms while one writes; the proxy's memory at most ${Math.round(most / 2 ** 20)} MiB`);
    assert.deepEqual([...quiet.failed, ...loud.failed], []);
    assert.ok(most < MOST, `${most} bytes`);
    assert.deepEqual(pidsOf(await steady(proxy, 3)), pids, 'nobody was replaced');

    const dir = path.dirname(proxy.file('logs/x'));
    const written = readdirSync(dir).map(name => readFileSync(path.join(dir, name), 'utf8'));
    const noted = [...written.join('').matchAll(/… (\d+) lines? dropped/g)].reduce((sum, [, n]) => sum + Number(n), 0);
    const text = (await request(metrics, { path: '/metrics' })).text;
    const found = text.split('\n').filter(line => /drop/.test(line) && !line.startsWith('#'));
    const counted = found.map(line => Number(line.split(' ').at(-1))).reduce((sum, n) => sum + n, 0);
    const lines = written.join('').split('xxxx\n').length;
    t.diagnostic(`${lines} lines of ${hog} in the files that are left, ${noted} noted there as dropped, ${counted} in the metrics`);
    assert.ok(found.length > 0, 'a metric of dropped lines');
    assert.ok(noted === 0 || counted >= noted, 'what the files tell is counted');

    // Where its output cannot be written at all, it is dropped and counted.
    assert.ok(readdirSync(dir).length <= 2, `${readdirSync(dir)}`);
    rmSync(dir, { recursive: true });
  });
});
