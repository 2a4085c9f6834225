// Workers that hang, answer wrongly, or keep crashing: what their siblings' clients notice.

import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { Load } from './lib/load.mjs';
import { needsProxy, withProxy } from './lib/proxy.mjs';
import { command, describe, pidsOf, ready, statusByCommand, steady, workers } from './lib/steer.mjs';
import { range, sleep, until } from './lib/wait.mjs';

const options = { timeout: 120_000, ...needsProxy };

const ways = {
  'SIGSTOP': async (proxy, pids) => {
    proxy.kill(pids[0], 'SIGSTOP');
    return pids[0];
  },
  'an endless loop': async proxy => Number((await request(proxy.port, { path: '/spin?ms=600000' })).text),
};

for (const [name, hang] of Object.entries(ways)) {
  test(`one of three workers hangs by ${name}: new requests do not meet it, those that it has wait for its end, it is replaced`, options, t =>
    withProxy({ apps: { web: { script: './roll.js', instances: 3, unhealthy_timeout: '5s', stop_timeout: '2s' } } }, async proxy => {
      const pids = pidsOf(await steady(proxy, 3));
      // Health counts from a worker's first beat.
      await until(async () => (await ready(proxy)).every(worker => worker.elu !== null), { what: 'statistics of all' });
      const load = await new Load(proxy, { polling: 3, websocket: 3, raw: 3, keepAlive: 6, fresh: 3 }).start();
      const at = performance.now();
      const victim = await hang(proxy, pids);
      await until(async () => (await workers(proxy)).some(worker => worker.pid === victim && worker.state !== 'ready'), { what: `${victim} out of the pool` });
      t.diagnostic(`out of the pool after ${Math.round(performance.now() - at)} ms: ${describe((await workers(proxy)).filter(w => w.pid === victim))}`);
      const from = performance.now();
      for (const _ of range(30)) assert.notEqual(Number((await request(proxy.port, { path: '/pid' })).text), victim);
      const each = (performance.now() - from) / 30;
      assert.ok(each < 500, `new requests take ${Math.round(each)} ms`);
      const now = await steady(proxy, 3, { timeout: 40_000, fits: list => !pidsOf(list).includes(victim) });
      t.diagnostic(`replaced after ${Math.round(performance.now() - at)} ms`);
      for (const pid of pids.filter(pid => pid !== victim)) assert.ok(pidsOf(now).includes(pid), 'the siblings live on');
      await load.settled(pidsOf(now), 60_000);
      await load.more();
      await load.stop();
      t.diagnostic(load.summary());
      assert.deepEqual(load.failed, [], 'no request fails: all of them are idempotent');
      // Nobody knows whether it works: what it has read is not done twice, and what it has not goes on once it is gone.
      assert.ok(load.longest < 15_000, `the longest request took ${Math.round(load.longest)} ms`);
      assert.deepEqual(load.endsNotOf([victim]), [], "the siblings' sessions stay");
      // What was seen of it before it was killed.
      await proxy.line(new RegExp(`${victim}.*(hung|stands still|does not answer)|(hung|stands still|does not answer).*${victim}`));
    }));
}

test('a health check that answers 500 takes a worker out, and back', options, t =>
  withProxy(
    proxy => ({
      apps: {
        web: {
          script: './roll.js',
          instances: 3,
          unhealthy_timeout: '60s',
          env: { FLAGS: path.dirname(proxy.file('flags/.keep', '')) },
          health_check: { path: '/healthz', interval: '300ms', timeout: '2s', unhealthy_threshold: 2, healthy_threshold: 2 },
        },
      },
    }),
    async proxy => {
      const before = await steady(proxy, 3);
      const load = await new Load(proxy, { polling: 6, websocket: 6, raw: 6 }).start();
      const victim = before.find(worker => worker.slot === 1);
      const flag = proxy.file('flags/sick.1', '');
      const sick = await until(async () => (await workers(proxy)).find(worker => worker.pid === victim.pid && worker.state === 'unhealthy'), { what: 'an unhealthy worker' });
      t.diagnostic(describe([sick]));
      assert.match(sick.reason, /500/);
      const { out } = await command(proxy, ['status']);
      assert.match(out, /unhealthy/);
      for (const _ of range(12)) assert.notEqual(Number((await request(proxy.port, { path: '/pid?ms=20' })).text), victim.pid, 'it gets no new request');
      rmSync(flag);
      await steady(proxy, 3);
      await until(async () => Number((await request(proxy.port, { path: '/pid' })).text) === victim.pid, { what: 'requests for it again' });
      await load.more();
      await load.stop();
      t.diagnostic(load.summary());
      assert.deepEqual(load.failed, []);
      // A session that polls may begin anew elsewhere; what is open stays open.
      assert.deepEqual(load.ends.filter(end => end.kind !== 'polling' || end.pid !== victim.pid), []);
      assert.deepEqual(pidsOf(await ready(proxy)), pidsOf(before), 'the same processes');
    },
  ));

const SECONDS = process.env.SLOW ? 60 : 16;

test('a six-second crash loop of one of three workers: over 95 % succeed', options, t =>
  withProxy({ apps: { web: { script: './roll.js', instances: 3, env: { CRASH_SLOT: '1', CRASH_MS: '6000' } } } }, async proxy => {
    const load = await new Load(proxy, { polling: 3, websocket: 3, raw: 3 }).start();
    await sleep(SECONDS * 1000);
    await load.stop();
    const [app] = (await statusByCommand(proxy)).apps;
    const slot = app.workers.find(worker => worker.slot === 1);
    t.diagnostic(`${load.summary()}; slot 1: ${slot.state}, ${slot.restarts} restarts`);
    assert.ok(slot.restarts >= 1, `slot 1 was started again ${slot.restarts} times`);
    const { done, failures } = load;
    t.diagnostic(`${((100 * done) / (done + failures)).toFixed(2)} % of ${done + failures} succeed; ${load.failed.slice(0, 5).join(' | ')}`);
    assert.ok(done > 300 && done / (done + failures) > 0.95, `${failures} of ${done + failures} fail: ${load.failed.join('\n')}`);
    const others = app.workers.filter(worker => worker.slot !== 1);
    for (const worker of others) assert.deepEqual([worker.state, worker.restarts], ['ready', 0]);
  }));

test('a crash loop of 1.5 s is found, shown, and costs nothing', options, t =>
  withProxy({ apps: { web: { script: './roll.js', instances: 3, crash_loop: { max: 3 }, env: { CRASH_SLOT: '1', CRASH_MS: '1500' } } } }, async proxy => {
    const load = await new Load(proxy, { polling: 3, websocket: 3, raw: 3, slow: 0 }).start();
    const began = performance.now();
    const failed = await until(async () => (await workers(proxy)).find(worker => worker.slot === 1 && worker.state === 'failed'), {
      timeout: 40_000,
      every: 100,
      what: 'a failed slot',
    });
    t.diagnostic(`failed after ${Math.round(performance.now() - began)} ms: ${failed.reason}, again in ${failed.retry_seconds} s`);
    assert.match(failed.reason, /crash loop|exited with code 1/);
    assert.ok(failed.retry_seconds > 5, 'it is not tried at once');
    assert.ok(failed.last_stderr.some(line => /slot 1 loses its mind/.test(line)), JSON.stringify(failed.last_stderr));
    const { out } = await command(proxy, ['status']);
    assert.match(out, /failed/);
    assert.match(out, /loses its mind/);
    await load.more();
    await load.stop();
    t.diagnostic(load.summary());
    assert.ok(load.failures <= load.done * 0.05, load.failed.join('\n'));
  }));
