// As many workers as the load needs.

import assert from 'node:assert/strict';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { Load } from './lib/load.mjs';
import { needsProxy, withProxy } from './lib/proxy.mjs';
import { connect } from './lib/sockets.mjs';
import { Watch, describe, pidsOf, ready, steady, workers } from './lib/steer.mjs';
import { open } from './lib/upgrade.mjs';
import { pooled, range, sleep, until } from './lib/wait.mjs';

const MAX = 4;
const IDLE = 300;
const LOOKS = process.env.SLOW ? 30 : 8;

test(`a heavy route: from 2 workers to ${MAX} and back; ${IDLE} idle WebSockets ask for nothing`, { timeout: 180_000, ...needsProxy }, t =>
  withProxy(
    {
      apps: {
        web: {
          script: './roll.js',
          instances: { min: 2, max: MAX },
          drain_window: '1s',
          scaling: { up_window: '2s', down_window: '4s', young: '1s', cordon_timeout: '60s' },
        },
      },
    },
    async proxy => {
      const first = pidsOf(await steady(proxy, 2));

      const idle = await pooled(range(IDLE), 10, () => open(proxy.port));
      const watch = new Watch(proxy);
      // Longer than the window in which load makes workers come.
      for (const _ of range(LOOKS)) {
        await sleep(500);
        assert.equal((await workers(proxy)).length, 2, 'idle WebSockets make no worker come');
      }
      const parked = (await ready(proxy)).reduce((sum, worker) => sum + worker.parked, 0);
      assert.ok(parked >= IDLE, `${parked} of ${IDLE} are open`);
      for (const socket of idle) socket.close(1000);
      await until(async () => (await ready(proxy)).every(worker => worker.parked === 0), { what: 'no WebSocket any more' });

      // Sessions that were there before, and all the time.
      const calm = await Load.only(proxy, { keepAlive: 1, polling: 4, websocket: 4, raw: 4, pause: 50, path: '/slow?ms=5' }).start();
      const heavy = await Load.only(proxy, { keepAlive: 10, pause: 0, path: '/burn?ms=25' }).start();
      const began = performance.now();
      await until(async () => (await ready(proxy)).length === MAX, {
        timeout: 30_000,
        every: 200,
        what: () => `${MAX} workers within 30 s; ${describe(watch.seen.at(-1).workers)}`,
      });
      t.diagnostic(`${MAX} workers after ${Math.round(performance.now() - began)} ms of load`);
      // New sessions on the new workers.
      const late = await pooled(range(6), 6, i => connect(4, proxy.url, { transports: [i % 2 ? 'polling' : 'websocket'] }));
      t.diagnostic(`sessions that came at the peak: ${late.map(client => `${client.hello.pid}${first.includes(client.hello.pid) ? ' (old)' : ''}`)}`);
      await heavy.stop();
      t.diagnostic(`heavy: ${heavy.summary()}`);
      assert.deepEqual(heavy.failed, []);

      const ended = performance.now();
      await until(async () => (await ready(proxy)).length === 2, { timeout: 40_000, every: 200, what: () => `2 workers; ${describe(watch.seen.at(-1).workers)}` });
      t.diagnostic(`2 workers take sessions ${Math.round(performance.now() - ended)} ms after the load's end`);
      for (const client of late) await client.echo('still here');
      assert.deepEqual(late.flatMap(client => client.trouble), [], 'a worker that is not needed keeps its sessions');
      const cordoned = (await workers(proxy)).filter(worker => worker.state === 'cordoned');
      t.diagnostic(describe(cordoned));
      for (const client of late) client.close();
      await steady(proxy, 2);
      await calm.more();
      await calm.stop();
      await watch.end();
      t.diagnostic(`calm: ${calm.summary()}`);
      assert.deepEqual(calm.failed, []);
      assert.deepEqual(calm.ends, [], 'no session is lost');
      assert.ok(watch.fewestReady >= 2);
    },
  ));

test('a worker that is not needed comes back without a boot', { timeout: 90_000, ...needsProxy }, t =>
  withProxy(
    {
      apps: {
        web: {
          script: './roll.js',
          instances: { min: 1, max: 2 },
          scaling: { up_window: '1s', down_window: '2s', young: '500ms', cordon_timeout: '60s' },
        },
      },
    },
    async proxy => {
      const burn = () => Load.only(proxy, { keepAlive: 4, pause: 0, path: '/burn?ms=25' }).start();
      let heavy = await burn();
      const two = pidsOf(await steady(proxy, 2, { timeout: 30_000 }));
      await heavy.stop();
      // Two sessions each, as without other load: the one that is to go has some.
      const clients = await pooled(range(4), 1, () => connect(4, proxy.url, { transports: ['websocket'] }));
      const cordoned = await until(async () => (await workers(proxy)).find(worker => worker.state === 'cordoned'), { timeout: 30_000, what: 'a cordoned worker' });
      // It gets nothing new: everyone else's requests go to the other one.
      for (const _ of range(10)) assert.notEqual(Number((await request(proxy.port, { path: '/pid' })).text), cordoned.pid);
      heavy = await burn();
      const now = await steady(proxy, 2, { timeout: 30_000 });
      assert.deepEqual(pidsOf(now), two, 'the same two processes');
      await heavy.stop();
      for (const client of clients) await client.echo('still here');
      assert.deepEqual(clients.flatMap(client => client.trouble), []);
      for (const client of clients) client.close();
      t.diagnostic(heavy.summary());
      assert.deepEqual(heavy.failed, []);
    },
  ));
