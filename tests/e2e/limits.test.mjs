// Workers that are replaced although they are well: too much memory, enough requests, old age.

import assert from 'node:assert/strict';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { Load } from './lib/load.mjs';
import { needsProxy, withProxy } from './lib/proxy.mjs';
import { Watch, pidsOf, ready, steady, workers } from './lib/steer.mjs';
import { until } from './lib/wait.mjs';

const options = { timeout: 120_000, ...needsProxy };
const app = more => ({ apps: { web: { script: './roll.js', instances: 2, min_ready: '200ms', drain_window: '1s', min_uptime: '500ms', ...more } } });

/** Load while workers are replaced; `done` says when it is enough. */
async function through(t, proxy, done) {
  const before = await steady(proxy, 2);
  const watch = new Watch(proxy);
  const load = await new Load(proxy, { polling: 4, websocket: 4, raw: 6 }).start();
  await done(pidsOf(before));
  await load.more();
  await load.stop();
  await watch.end();
  t.diagnostic(load.summary());
  assert.deepEqual(load.failed, [], 'no request fails');
  assert.ok(watch.fewestReady >= 2, `${watch.fewestReady} of 2 ready at some time`);
  const alive = watch.seen.at(-1).workers.filter(worker => worker.state === 'ready').map(worker => worker.pid);
  assert.deepEqual(load.endsNotOf(watch.seen.flatMap(({ workers }) => pidsOf(workers)).filter(pid => !alive.includes(pid))), []);
  for (const end of load.ends.filter(end => end.kind === 'raw')) assert.equal(end.code, 1012);
  return watch;
}

test('max_memory_restart: a leaking worker is drained and replaced', options, t =>
  withProxy(app({ max_memory_restart: '180mib' }), proxy =>
    through(t, proxy, async before => {
      const rss = (await ready(proxy)).map(worker => Math.round(worker.rss_bytes / 2 ** 20));
      const each = Math.max(...rss);
      t.diagnostic(`at first ${rss} MiB`);
      assert.ok(each < 130, 'the app alone is far below');
      const leaker = Number((await request(proxy.port, { path: `/leak?mb=${195 - each}` })).text);
      const now = await steady(proxy, 2, { timeout: 30_000, fits: list => !pidsOf(list).includes(leaker) });
      assert.ok(pidsOf(now).some(pid => before.includes(pid)), 'its sibling stays');
      await proxy.line(/max_memory_restart/);
    })));

test('max_memory_restart: far beyond, a worker is killed', options, t =>
  withProxy(app({ max_memory_restart: '150mib' }), async proxy => {
    await steady(proxy, 2);
    const leaker = Number((await request(proxy.port, { path: '/leak?mb=300' })).text);
    const at = performance.now();
    await until(() => proxy.workerProcesses().every(({ pid }) => pid !== leaker), { what: 'its end' });
    t.diagnostic(`gone after ${Math.round(performance.now() - at)} ms`);
    await steady(proxy, 2);
    await proxy.line(/max_memory_restart/);
  }));

test('max_requests: worn workers are replaced, not all at once', options, t =>
  withProxy(app({ max_requests: 150 }), proxy =>
    through(t, proxy, async before => {
      // Under load the next ones wear out as well, so a moment without a replacement under way need not come.
      const gone = async () => pidsOf(await workers(proxy)).every(pid => !before.includes(pid));
      await until(gone, { timeout: 60_000, every: 200, what: 'the end of the first workers' });
      await proxy.line(/max_requests/);
    })));

test('max_lifetime: old workers are replaced, not all at once', options, t =>
  withProxy(app({ max_lifetime: '6s' }), async proxy => {
    const watch = await through(t, proxy, async before => {
      // Under load the next ones wear out as well, so a moment without a replacement under way need not come.
      const gone = async () => pidsOf(await workers(proxy)).every(pid => !before.includes(pid));
      await until(gone, { timeout: 60_000, every: 200, what: 'the end of the first workers' });
      await proxy.line(/max_lifetime/);
    });
    assert.ok(watch.mostProcesses <= 3, `one more at a time, not ${watch.mostProcesses - 2}`);
  }));
