// What the proxy knows goes with it into the next process.

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import test from 'node:test';
import { alone, upgraded } from './lib/handoff.mjs';
import { request } from './lib/http.mjs';
import { withListener } from './lib/listener.mjs';
import { needsUpgrade, withProxy } from './lib/proxy.mjs';
import { connect } from './lib/sockets.mjs';
import { pidsOf, residentBytes, steady } from './lib/steer.mjs';
import { pooled, range, sleep, until } from './lib/wait.mjs';

const options = { timeout: 120_000, ...needsUpgrade };

test('sessions whose ids say nothing of their worker stay on it', options, () =>
  withProxy({ apps: { chat: { script: './sio.js', instances: 3, env: { OWN_IDS: '1' } } } }, async proxy => {
    const clients = await pooled(range(24), 8, n => connect(n % 3 ? 4 : 2, proxy.url, { transports: n % 2 ? ['polling'] : ['polling', 'websocket'] }));
    try {
      const said = round => Promise.all(clients.map((client, n) => client.echo(`${n}/${round}`)));
      await said(0);
      for (const round of [1, 2]) {
        await upgraded(proxy);
        await said(round);
        await said(`${round}b`);
      }
      assert.deepEqual(clients.flatMap((client, n) => client.trouble.map(text => `client ${n}: ${text}`)), []);
      assert.equal(new Set(clients.map(client => client.hello.pid)).size, 3);
    } finally {
      for (const client of clients) client.close();
    }
    await alone(proxy);
  }));

for (const [name, affinity, headers] of [
  ['cookie', { cookie: 'who' }, n => ({ cookie: `who=${n}` })],
  ['header', { header: 'x-who' }, n => ({ 'x-who': `${n}` })],
]) {
  test(`affinity by ${name}: everybody is led to the same worker as before`, options, () =>
    withProxy({ apps: { web: { script: './http.js', instances: 4, affinity } } }, async proxy => {
      const led = () => Promise.all(range(40).map(async n => (await request(proxy.port, { path: '/pid', headers: headers(n) })).text));
      const before = await led();
      assert.ok(new Set(before).size >= 3);
      await upgraded(proxy);
      assert.deepEqual(await led(), before);
    }));
}

test('workers without the preload script are taken over too, and missed when they die', options, () =>
  withProxy(
    { apps: { web: { command: [process.execPath, './bare.js', '{socket}'], preload: false, instances: 2, min_uptime: '100ms' } } },
    async proxy => {
      const before = pidsOf(await steady(proxy, 2));
      const slow = request(proxy.port, { path: '/?ms=2500' });
      await upgraded(proxy);
      assert.deepEqual(pidsOf(await steady(proxy, 2)), before);
      assert.ok(before.includes(Number((await slow).text)));
      await upgraded(proxy);
      const [victim, other] = before;
      const at = proxy.kill(victim);
      await proxy.line(new RegExp(`pid ${victim}\\): (killed by|exited)`), { from: at });
      const now = pidsOf(await steady(proxy, 2, { fits: list => !pidsOf(list).includes(victim) }));
      assert.ok(now.includes(other));
      for (const pid of await proxy.pids(2)) assert.ok(now.includes(pid));
    },
  ));

test('an alarm that was told is not told anew, and its end is told by the next process', options, () =>
  withListener({}, listener =>
    withProxy(
      {
        apps: { web: { script: './alarm.js', node_args: ['--expose-gc'] } },
        alarms: { lag: 'none', elu: 'none', for: '1s', memory: '200mib', repeat: '1h', webhook: { url: `http://127.0.0.1:${listener.port}/` } },
      },
      async proxy => {
        await request(proxy.port, { path: '/hold?mb=250' });
        await listener.notice(body => body.status === 'raised');
        await upgraded(proxy);
        // Longer than an alarm needs to be raised.
        await sleep(4000);
        assert.deepEqual(listener.taken.map(({ body }) => body.status), ['raised']);
        await request(proxy.port, { path: '/hold?mb=0' });
        await listener.notice(body => body.status === 'resolved');
        assert.equal(listener.taken.length, 2);
      },
    )));

test('many upgrades in a row: descriptors and memory do not grow', options, t =>
  withProxy({ apps: { chat: { script: './sio.js', instances: 2 } } }, async proxy => {
    const clients = await pooled(range(20), 10, n => connect(4, proxy.url, { transports: n % 2 ? ['polling'] : ['websocket'] }));
    const count = () => readdirSync(`/proc/${proxy.pid}/fd`).length;
    const seen = [];
    try {
      for (const round of range(8)) {
        await upgraded(proxy);
        await Promise.all(clients.map((client, n) => client.echo(`${n}/${round}`)));
        await alone(proxy);
        await until(() => count() <= (seen[1]?.fds ?? Infinity) + 15, { timeout: 5000 }).catch(() => {});
        seen.push({ fds: count(), mb: Math.round(residentBytes(proxy.pid) / 1e6) });
      }
      assert.deepEqual(clients.flatMap(client => client.trouble), []);
    } finally {
      for (const client of clients) client.close();
    }
    t.diagnostic(JSON.stringify(seen));
    assert.ok(seen.at(-1).fds <= seen[1].fds + 15, JSON.stringify(seen));
    assert.ok(seen.at(-1).mb <= seen[1].mb * 1.3 + 5, JSON.stringify(seen));
  }));
