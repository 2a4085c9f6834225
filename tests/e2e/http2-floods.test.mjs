// HTTP/2 clients that want too much: streams that hang, answers that nobody reads, streams that are reset at once. Whoever else is
// there is served, and what they cost is bounded.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { connections } from './lib/connections.mjs';
import { CODE, Frames, TYPE, get, reset } from './lib/frames.mjs';
import { Raw, request } from './lib/http.mjs';
import { ask, withSession } from './lib/http2.mjs';
import { BIN, needsProxy, withProxy } from './lib/proxy.mjs';
import { residentBytes, status } from './lib/steer.mjs';
import { pooled, range, sleep, until } from './lib/wait.mjs';

const options = { timeout: 120_000, ...needsProxy };
const SLOW = Boolean(process.env.SLOW);
const config = (more = {}, app = {}) => proxy => ({
  listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
  apps: { web: { script: './frames.js', instances: 2, ...app } },
  ...more,
});
const open = pid => readdirSync(`/proc/${pid}/fd`).length;
const mb = bytes => (bytes / 1e6).toFixed(1);

/** Starts the proxy again as from a shell with such a limit of open files. */
async function withFiles(proxy, limit) {
  await proxy.interrupt();
  proxy.run('sh', ['-c', `ulimit -n ${limit} && exec "$@"`, 'sh', BIN, '-c', path.join(proxy.dir, 'conf.yaml')]);
  await proxy.ready({ workers: 2 });
  assert.match(readFileSync(`/proc/${proxy.pid}/limits`, 'latin1'), new RegExp(`^Max open files +${limit} +${limit}`, 'm'));
}

/** Looks at descriptors and `status` all the time while `body` runs; every status must be answered. */
async function watched(proxy, body) {
  const seen = { files: 0, asked: 0, slowest: 0 };
  let over = false;
  const looking = (async () => {
    while (!over) {
      const from = performance.now();
      await status(proxy);
      seen.asked += 1;
      seen.slowest = Math.max(seen.slowest, performance.now() - from);
      seen.files = Math.max(seen.files, open(proxy.pid));
      await sleep(50);
    }
  })();
  try {
    await body();
  } finally {
    over = true;
    await looking;
  }
  return seen;
}

/** 15 connections with 100 streams each that are never answered. */
async function hanging(proxy) {
  const attackers = await pooled(range(15), 5, () => Frames.connect(proxy.port));
  for (const attacker of attackers) attacker.write(...range(100).map(n => get(2 * n + 1, '/hang?id=flood')));
  return attackers;
}

const resets = async attackers => (await Promise.all(attackers.map(one => one.frames()))).flat().filter(({ type }) => type === TYPE.reset).length;

for (const [name, limits] of [['limits.connections: 100', { limits: { connections: 100 } }], ['no limit but that of files', {}]]) {
  test(`15 connections x 100 hanging streams, 1,024 files, ${name}: others are served`, options, t =>
    withProxy(config(limits), {}, async proxy => {
      await withFiles(proxy, 1024);
      const before = open(proxy.pid);
      const attackers = [];
      const seen = await watched(proxy, async () => {
        try {
          attackers.push(...await hanging(proxy));
          const served = await pooled(range(SLOW ? 400 : 120), 10, n => (n % 2 ? request(proxy.port, { path: '/pid' }) : withSession(proxy.port, session => ask(session))));
          assert.deepEqual(served.map(answer => answer.status).filter(code => code !== 200), [], 'others are served');
          t.diagnostic(`${await resets(attackers)} of 1,500 streams were refused, ${attackers.filter(one => one.closed).length} of 15 connections ended`);
        } finally {
          for (const attacker of attackers) attacker.destroy();
        }
        const again = await withSession(proxy.port, session => Promise.all(range(50).map(() => ask(session))));
        assert.deepEqual(again.map(answer => answer.status).filter(code => code !== 200), [], 'and when they have gone');
      });
      t.diagnostic(`${seen.files} descriptors at most (${before} before), status asked ${seen.asked} times, at most ${Math.round(seen.slowest)} ms`);
      const account = limits.limits ? 2 * limits.limits.connections + before + 20 : 1000;
      assert.ok(seen.files <= account, `${seen.files} descriptors, more than ${account}`);
      assert.ok(seen.slowest < 3000, `status took ${Math.round(seen.slowest)} ms`);
    }));
}

test('limits.connections beside hanging streams: no more clients than that, and status answers', options, t =>
  withProxy(config({ limits: { connections: 100 } }), {}, async proxy => {
    await withFiles(proxy, 1024);
    const clients = [];
    try {
      const seen = await watched(proxy, async () => {
        clients.push(...await hanging(proxy));
        clients.push(...await pooled(range(150), 10, () => Raw.connect(proxy.port)));
        for (const client of clients) client.raw ?? client.socket.on('error', () => {});
        await until(() => connections(proxy.port).size <= 100, { what: () => `at most 100 connections, there are ${connections(proxy.port).size}` });
        await sleep(300);
      });
      const held = connections(proxy.port).size;
      t.diagnostic(`${held} connections, ${seen.files} descriptors, status at most ${Math.round(seen.slowest)} ms`);
      assert.ok(held <= 100, `${held} connections`);
    } finally {
      for (const client of clients) client.destroy();
    }
    await until(async () => (await request(proxy.port, { path: '/pid' })).status === 200, { what: 'an answer to others when they have gone' });
  }));

// Answers of 4 MiB each, and no one reads a byte of them. What windows let through may wait in a buffer of 64 KiB a stream, and
// of 1 MiB a connection.
const STREAMS = 50;
const unread = {
  'that open no window': { initial: 0 },
  'that leave the first window as it is': {},
  'that open every window and read nothing from the socket': { initial: 2 ** 31 - 1, connection: 2 ** 30, deaf: true, streams: 100 },
};

for (const [name, { deaf, streams = STREAMS, ...windows }] of Object.entries(unread)) {
  test(`4 clients ${name}: little memory, and cut in time`, options, t =>
    // A client may pause for as long as body_timeout, be its windows closed or its socket full.
    withProxy(config({ limits: { body_timeout: '4s', keepalive_timeout: '4s' } }), {}, async proxy => {
      // What a first use of everything costs.
      await withSession(proxy.port, session => Promise.all(range(STREAMS).map(() => ask(session, { ':path': '/big?kib=64' }))));
      const before = residentBytes(proxy.pid);
      const clients = await Promise.all(range(4).map(() => Frames.connect(proxy.port, windows)));
      try {
        const from = performance.now();
        if (deaf) for (const client of clients) client.raw.socket.pause();
        for (const client of clients) client.write(...range(streams).map(n => get(2 * n + 1, '/big?kib=4096')));
        let peak = 0;
        const ended = async () => {
          peak = Math.max(peak, residentBytes(proxy.pid) - before);
          if (connections(proxy.port).size === 0) return 'connections';
          return !deaf && (await resets(clients)) === 4 * streams && 'streams';
        };
        const what = await until(ended, { timeout: 30_000, every: 100, what: () => `their end; ${connections(proxy.port).size} connections, ${mb(peak)} MB` });
        t.diagnostic(`all ${what} ended after ${((performance.now() - from) / 1000).toFixed(1)} s, ${mb(peak)} MB more at most`);
        assert.ok(peak < 10e6, `${mb(peak)} MB`);
      } finally {
        for (const client of clients) client.destroy();
      }
      assert.equal((await request(proxy.port, { path: '/pid' })).status, 200);
    }));
}

test('a client that reads slowly, with 100 streams open: all its answers arrive', options, t =>
  withProxy(config({ limits: { body_timeout: '2s' } }), {}, async proxy => {
    const client = await Frames.connect(proxy.port, { initial: 2 ** 31 - 1, connection: 2 ** 30 });
    try {
      const { socket } = client.raw;
      socket.on('data', () => socket.pause());
      const from = performance.now();
      client.write(...range(100).map(n => get(2 * n + 1, '/big?kib=256')));
      // 25 MiB, of which at most 64 KiB are read at a time; the system's buffers hold a part.
      const reading = setInterval(() => socket.resume(), 15);
      const whole = 100 * 256 * 1024;
      const content = async () => (await client.frames()).filter(({ type }) => type === TYPE.data).reduce((sum, { length }) => sum + length, 0);
      try {
        await until(async () => (await content()) === whole || (await resets([client])) > 0, { timeout: 60_000, every: 200, what: 'all answers' });
      } finally {
        clearInterval(reading);
      }
      t.diagnostic(`after ${((performance.now() - from) / 1000).toFixed(1)} s`);
      assert.equal(await resets([client]), 0, 'streams that were cut');
      assert.equal(await content(), whole);
    } finally {
      client.destroy();
    }
  }));

/**
 * Opens and resets streams, on a new connection whenever the last one was ended; `late`: when they have been accepted, in packets of 20.
 * Returns how its connections ended.
 */
async function rapid(port, total, perSecond, late) {
  const codes = [];
  let sent = 0;
  const from = performance.now();
  while (sent < total) {
    const one = await Frames.connect(port);
    for (let at = 1; sent < total && at < 10_000 && !one.closed; at += 40, sent += 20) {
      const streams = range(20).map(n => at + 2 * n);
      if (late) {
        one.write(...streams.map(stream => get(stream, '/slow?ms=200')));
        await sleep(5);
        one.write(...streams.map(stream => reset(stream)));
      } else {
        one.write(...streams.flatMap(stream => [get(stream, '/slow?ms=200'), reset(stream)]));
      }
      const ahead = (1000 * sent) / perSecond - (performance.now() - from);
      if (ahead > 5) await sleep(ahead);
    }
    await sleep(20);
    codes.push((await one.goaway()) ?? (one.closed ? 'closed' : 'open'));
    one.destroy();
  }
  return codes;
}

/** Requests on one connection with HTTP/2, and on new ones with HTTP/1, while `body` runs. */
async function good(port, body) {
  const seen = { failed: [], asked: 0, slowest: 0 };
  let over = false;
  const lane = async (who, make) => {
    while (!over) {
      const from = performance.now();
      const { status: code, code: reason } = await make().catch(error => ({ status: error.message }));
      if (code !== 200) seen.failed.push(`${who}: ${code} ${reason ?? ''}`);
      seen.asked += 1;
      seen.slowest = Math.max(seen.slowest, performance.now() - from);
      await sleep(5);
    }
  };
  await withSession(port, async session => {
    const lanes = [...range(4).map(n => lane(`stream ${n}`, () => ask(session))), lane('HTTP/1', () => request(port, { path: '/pid' }))];
    try {
      await body();
    } finally {
      over = true;
      await Promise.all(lanes);
    }
    seen.failed.push(...session.trouble);
  });
  return seen;
}

for (const [name, late] of [['at once', false], ['when they were accepted', true]]) {
  test(`10,000 streams that are reset ${name}, beside good clients: none of their requests fails`, options, t =>
    withProxy(config(), {}, async proxy => {
      let codes;
      const seen = await good(proxy.port, async () => {
        codes = await rapid(proxy.port, SLOW ? 50_000 : 10_000, 2500, late);
      });
      const calm = codes.filter(code => code === CODE.enhanceYourCalm).length;
      t.diagnostic(`${seen.asked} good requests, the slowest ${Math.round(seen.slowest)} ms; the attacker had ${codes.length} connections, ${calm} of them ended by ENHANCE_YOUR_CALM`);
      assert.deepEqual(seen.failed, []);
      assert.ok(seen.asked >= 100, `${seen.asked} good requests`);
      // Who goes on writing to a connection that was ended may not get to read why.
      assert.deepEqual(codes.slice(0, -1).filter(code => code !== CODE.enhanceYourCalm && code !== 'closed'), [], 'how its connections ended');
      assert.ok(calm >= 1, `no ENHANCE_YOUR_CALM but ${codes}`);
      assert.ok(codes.length >= 10, `only ${codes.length} connections for so many resets`);
    }));
}
