// The siege itself: an untroubled proxy passes it, and it sees what goes wrong.

import assert from 'node:assert/strict';
import test from 'node:test';
import { connections } from './lib/connections.mjs';
import { Lines, owned, ownsAll } from './lib/handoff.mjs';
import { needsProxy, withProxy } from './lib/proxy.mjs';
import { Siege, besiege, siegeApp } from './lib/siege.mjs';
import { pidsOf, steady } from './lib/steer.mjs';
import { sleep, until } from './lib/wait.mjs';

const options = { timeout: 300_000, ...needsProxy };
const SECONDS = Number(process.env.SIEGE_SECONDS ?? 2);

test('nothing happens: nothing fails', options, t =>
  withProxy(proxy => ({ apps: { web: siegeApp(proxy, { env: { LINES_MS: '30' } }) } }), async proxy => {
    const lines = new Lines(proxy);
    await besiege(t, proxy, { share: Number(process.env.SIEGE_SHARE ?? 0.2) }, async siege => {
      await sleep(SECONDS * 1000);
      await siege.more();
      assert.deepEqual(siege.pids, pidsOf(await steady(proxy, 2)));
      assert.deepEqual(siege.lost, []);
      // The looks at the kernel's tables see what is there.
      const { open } = siege;
      assert.equal(connections(proxy.port).size > open.size && siege.websockets.length > 30, true, `${siege.websockets.length} of ${connections(proxy.port).size}`);
      ownsAll(proxy, proxy.pid);
      assert.throws(() => ownsAll(proxy, process.pid), /does not have/);
      await owned(siege, { pid: proxy.pid, old: 0 });
      const last = await siege.lastRequestOf(proxy.pid);
      assert.ok(last > performance.now() - 6000 && last <= performance.now());
    });
    assert.ok(lines.check() > 50);
    assert.equal(lines.workers.size, 2);
  }));

test('a worker is killed: its sessions and WebSockets are lost, those of the other are not', options, t =>
  withProxy(proxy => ({ apps: { web: siegeApp(proxy, { min_uptime: '100ms' }) } }), async proxy => {
    const siege = await new Siege(proxy, { share: 0.2 }).start();
    try {
      const victim = siege.pids[0];
      const hit = siege.besiegers.filter(one => one.pid === victim && one.lively);
      assert.ok(hit.length > 10, `${hit.length} sessions of the victim`);
      proxy.kill(victim);
      await until(() => hit.every(one => one.broken), { timeout: 20_000, what: 'every session of the victim lost' });
      await siege.stop();
      t.diagnostic(JSON.stringify(siege.reasons));
      for (const one of siege.besiegers.filter(one => one.pid)) {
        assert.equal(Boolean(one.broken), one.pid === victim, `${one.name} of ${one.pid}`);
      }
      assert.ok(siege.failed.length >= hit.length);
      assert.throws(() => siege.assertUnharmed(), /failures/);
    } finally {
      siege.abandon();
    }
  }));

for (const [plant, told] of Object.entries({ gap: /a gap/, double: /double or late/, swap: /a gap/, damage: /damaged/, twice: /carried out 2 times/ })) {
  test(`a planted fault is seen: ${plant}`, options, () =>
    withProxy(proxy => ({ apps: { web: siegeApp(proxy, { instances: 1, env: { PLANT: plant } }) } }), async proxy => {
      const sizes = { rest: 0, polling: 1, polling2: 1, sio: 1, sockets: 1, big: 1, posts: 1 };
      const siege = await new Siege(proxy, { sizes, pace: 5 }).start();
      const talking = siege.besiegers.filter(one => one.count);
      await until(() => talking.every(one => one.count.last >= 7), { what: 'seven messages' });
      await siege.stop();
      assert.throws(() => siege.assertUnharmed(), told);
      for (const kind of plant === 'twice' ? [] : ['polling', 'polling2', 'sio', 'sockets', 'big']) {
        assert.ok(siege.tallies[kind].failed.some(text => told.test(text)), `${kind}: ${siege.tallies[kind].failed}`);
      }
    }));
}
