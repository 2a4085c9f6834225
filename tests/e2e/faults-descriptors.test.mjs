// Descriptors are few: who holds them, who gets the next ones, and that commands are always answered.

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import test from 'node:test';
import { Raw, request } from './lib/http.mjs';
import { count } from './lib/load.mjs';
import { freePort, needsProxy, withProxy } from './lib/proxy.mjs';
import { status, steady } from './lib/steer.mjs';
import { pooled, range, sleep, until } from './lib/wait.mjs';

const options = { timeout: 120_000, ...needsProxy };
const SLOW = process.env.SLOW === '1';
const app = (instances, more = {}) => ({
  limits: { head_timeout: '60s' },
  apps: { web: { script: './faults.js', instances, ...more } },
});
const descriptors = pid => readdirSync(`/proc/${pid}/fd`).length;

/** So many clients at a time, each with a request under way on a connection of its own; counts their answers. */
async function atOnce(proxy, clients, ms) {
  const answers = await Promise.all(
    range(clients).map(() =>
      request(proxy.port, { path: `/page?ms=${ms}` }).then(
        answer => answer.status,
        error => error.code ?? error.message,
      ),
    ),
  );
  return count(answers);
}

/** Commands are answered: it fails after 10 s without an answer. */
const obeys = async proxy => assert.ok((await status(proxy)).apps.length);

for (const [nofile, clients] of [
  [256, 60],
  [1024, 400],
]) {
  test(`with ${nofile} descriptors and 4 workers, ${clients} clients are served at a time`, options, t =>
    withProxy(app(4), { nofile }, async proxy => {
      await steady(proxy, 4);
      const busy = atOnce(proxy, clients, 2000);
      await sleep(1000);
      await obeys(proxy);
      const answers = await busy;
      t.diagnostic(`${JSON.stringify(answers)}, ${descriptors(proxy.pid)} descriptors`);
      assert.deepEqual(answers, { 200: clients });
    }),
  );
}

test('idle connections to workers make room: after bursts to each, new clients and commands are served', options, t =>
  withProxy(app(6, { affinity: { header: 'x-key' } }), { nofile: 1024 }, async proxy => {
    await steady(proxy, 6);
    const keys = new Map();
    for (let key = 0; keys.size < 6; key++) {
      keys.set((await request(proxy.port, { path: '/pid', headers: { 'x-key': `key${key}` } })).text, `key${key}`);
    }
    // Each leaves as many idle connections to one worker; no more clients at a time than are let in.
    for (const key of keys.values()) {
      const answers = await Promise.all(
        range(250).map(() =>
          request(proxy.port, { path: '/page?ms=300', headers: { 'x-key': key } }).then(
            answer => answer.status,
            error => error.code ?? error.message,
          ),
        ),
      );
      t.diagnostic(`${JSON.stringify(count(answers))}, ${descriptors(proxy.pid)} descriptors`);
      assert.deepEqual(count(answers), { 200: 250 });
    }
    const silent = await pooled(range(250), 50, () => Raw.connect(proxy.port));
    try {
      await obeys(proxy);
      assert.deepEqual(await atOnce(proxy, 60, 100), { 200: 60 });
      assert.equal(silent.filter(raw => raw.ended).length, 0, 'clients that were let in and lost again');
    } finally {
      for (const raw of silent) raw.destroy();
    }
  }),
);

test('bursts of connections that wait for their threads take nothing from clients that are in', options, t =>
  withProxy({ server: { threads: 2 }, ...app(4) }, { nofile: 256 }, async proxy => {
    await steady(proxy, 4);
    const clients = await Promise.all(range(20).map(() => Raw.connect(proxy.port)));
    let over = false;
    // Each request takes a new connection to a worker: those that are kept are given up for the burst.
    const asking = clients.map(async client => {
      const answers = [];
      while (!over || answers.length < 3) {
        client.write('GET /page?ms=50 HTTP/1.1\r\nHost: x\r\n\r\n');
        answers.push(await client.response().then(({ status }) => status, error => error.message));
      }
      return answers;
    });
    try {
      for (const _ of range(6)) {
        const burst = await Promise.all(range(600).map(() => Raw.connect(proxy.port).catch(() => undefined)));
        for (const raw of burst) raw?.destroy();
      }
    } finally {
      over = true;
    }
    const answers = count((await Promise.all(asking)).flat());
    t.diagnostic(JSON.stringify(answers));
    for (const client of clients) client.destroy();
    assert.deepEqual(Object.keys(answers), ['200']);
    assert.doesNotMatch(proxy.output, /cannot accept a connection|cannot be connected to/);
  }),
);

test('with 256 descriptors silent clients take what they may, and commands are answered', options, t =>
  withProxy(app(4), { nofile: 256 }, async proxy => {
    await steady(proxy, 4);
    const silent = await pooled(range(600), 50, () => Raw.connect(proxy.port).catch(() => undefined));
    try {
      await sleep(500);
      await obeys(proxy);
      const open = silent.filter(raw => raw && !raw.ended).length;
      t.diagnostic(`${open} connections stay open, ${descriptors(proxy.pid)} descriptors`);
      assert.ok(open >= 60, `${open} connections`);
      assert.ok(open < 256);
    } finally {
      for (const raw of silent) raw?.destroy();
    }
    await until(async () => (await request(proxy.port, { path: '/pid', timeout: 3000 })).status === 200, {
      what: 'service afterwards',
    });
  }),
);

test('refused clients are counted', options, async () => {
  const metrics = await freePort();
  await withProxy({ ...app(1), limits: { connections: 10 }, metrics: { address: `127.0.0.1:${metrics}` } }, async proxy => {
    const clients = await pooled(range(30), 30, () => Raw.connect(proxy.port));
    try {
      for (const raw of clients) raw.socket.on('error', () => {});
      await until(() => clients.filter(raw => raw.ended).length >= 20, { what: 'those beyond the limit to be closed' });
      const { text } = await request(metrics, { path: '/metrics' });
      const [, refused] = /^\w*connections_refused_total(?:\{[^}]*\})? (\d+)/m.exec(text) ?? [];
      assert.ok(refused, 'a metric connections_refused_total');
      assert.ok(refused >= 20 && refused <= 30, `${refused} refused`);
    } finally {
      for (const raw of clients) raw.destroy();
    }
  });
});

test(
  'idle connections to workers are swept when they are too old to be used',
  { ...options, timeout: 200_000, skip: options.skip ?? (!SLOW && 'needs SLOW=1') },
  t =>
    withProxy(app(4), { nofile: 1024 }, async proxy => {
      await steady(proxy, 4);
      const before = descriptors(proxy.pid);
      t.diagnostic(JSON.stringify(await atOnce(proxy, 200, 300)));
      t.diagnostic(`${before} descriptors before, ${descriptors(proxy.pid)} after`);
      await until(() => descriptors(proxy.pid) <= before + 10, {
        timeout: 120_000,
        every: 1000,
        what: () => `the sweep; ${descriptors(proxy.pid)} descriptors are left of ${before}`,
      });
    }),
);
