// gRPC through the proxy: workers that speak HTTP/2 on their sockets (`protocol: http2`), clients of grpc-js on a listener with h2c.

import assert from 'node:assert/strict';
import path from 'node:path';
import test, { after, before, describe } from 'node:test';
import { call, connect, grpc } from './lib/grpc.mjs';
import { PLAIN, apps, configure, needsProxy, startProxy, withProxy } from './lib/proxy.mjs';
import { pidsOf, steady, succeed } from './lib/steer.mjs';
import { pooled, range, sleep, until } from './lib/wait.mjs';

const options = { timeout: 60_000 };
const echo = (more = {}) => ({ command: [process.execPath, path.join(apps, 'grpc-worker.js'), '{socket}'], protocol: 'http2', preload: false, instances: 2, min_ready: '100ms', ...more });
const config = more => proxy => ({ listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }], apps: { echo: echo(more) } });

/** Waits for an answer by gRPC: there may be none by HTTP/1. */
const answers = proxy =>
  until(async () => {
    if (proxy.ended) throw Object.assign(new Error(`it ended: ${JSON.stringify(proxy.ended)}`), { fatal: true });
    const client = connect(proxy.port);
    try {
      return (await call(client, 'unary', { deadline: 2000 })).code === grpc.status.OK;
    } finally {
      client.close();
    }
  }, { timeout: 30_000, every: 100, what: 'an answer by gRPC' });

async function withEcho(more, body) {
  await withProxy(config(more), { ready: false }, async proxy => {
    await answers(proxy);
    await steady(proxy, more.instances ?? 2);
    const client = connect(proxy.port);
    try {
      await body(proxy, client);
    } finally {
      client.close();
    }
  });
}

describe('gRPC echo', () => {
  let proxy;
  let client;
  before(async () => {
    proxy = await startProxy(config(), { ready: false });
    await answers(proxy).catch(error => {
      proxy.show();
      throw error;
    });
    client = connect(proxy.port);
  });
  after(async () => {
    client?.close();
    await proxy?.stop();
  });
  const check = (name, settings, body) => {
    if (typeof settings === 'function') [settings, body] = [{}, settings];
    test(name, { ...options, ...settings }, async t => {
      try {
        await body(t);
      } catch (error) {
        proxy.show();
        throw error;
      }
    });
  };
  const ok = (outcome, messages) => {
    assert.deepEqual([outcome.name, outcome.details], ['OK', outcome.details]);
    if (messages) assert.deepEqual(outcome.messages.map(String), messages);
  };

  for (const size of [0, 1, 5000, 3_000_000]) {
    check(`unary: a message of ${size} bytes`, async () => {
      const outcome = await call(client, 'unary', { message: Buffer.alloc(size, 'm') });
      ok(outcome);
      assert.deepEqual(outcome.messages.map(message => message.length), [size]);
    });
  }

  check('metadata both ways, at the beginning and as trailers, text and bytes', async () => {
    const blob = Buffer.from([0, 1, 2, 253, 254, 255]);
    const outcome = await call(client, 'unary', { fields: { 'x-request': 'red, green', 'x-blob-bin': blob } });
    ok(outcome, ['hello']);
    assert.equal(outcome.initial['x-saw-x-request'], 'red, green');
    assert.match(outcome.initial['x-saw-user-agent'], /grpc-node-js/);
    assert.equal(outcome.trailing['x-sum'], '42');
    assert.deepEqual(outcome.trailing['x-blob-bin'], blob);
  });

  check('the worker sees the client\'s address and authority', needsProxy, async () => {
    const outcome = await call(client, 'unary', { fields: { 'x-forwarded-for': '9.9.9.9' } });
    assert.equal(outcome.initial['x-saw-x-forwarded-for'], '127.0.0.1');
    assert.equal(outcome.initial['x-authority'], `127.0.0.1:${proxy.port}`);
  });

  check('client stream: 200 messages', async () => {
    const outcome = await call(client, 'collect', { send: made => (range(200).forEach(n => made.write(Buffer.from(`${n},`))), made.end()) });
    ok(outcome, [range(200).map(n => `${n},`).join('')]);
    assert.equal(outcome.trailing['x-sum'], '42');
  });

  check('client stream: 8 MB', async () => {
    const piece = Buffer.alloc(64 * 1024, 'p');
    const outcome = await call(client, 'collect', { send: made => (range(128).forEach(() => made.write(piece)), made.end()) });
    ok(outcome);
    assert.equal(outcome.messages[0].length, 128 * piece.length);
  });

  check('server stream: 200 messages, in order', async () => {
    const outcome = await call(client, 'spread', { fields: { 'x-count': '200' } });
    ok(outcome, range(200).map(n => `${n + 1}:hello`));
    assert.equal(outcome.trailing['x-sum'], '42');
  });

  check('server stream: 16 MB to a client that is slow at first', async () => {
    const outcome = await call(client, 'spread', {
      message: Buffer.alloc(64 * 1024, 'p'), fields: { 'x-count': '256' },
      onCall: made => (made.pause(), setTimeout(() => made.resume(), 500)),
    });
    ok(outcome);
    assert.equal(outcome.messages.length, 256);
  });

  check('both streams: 50 messages, each sent when the last one has come back', async () => {
    const outcome = await call(client, 'talk', {
      send: made => {
        let n = 0;
        made.on('data', () => (++n < 50 ? made.write(Buffer.from(String(n))) : made.end()));
        made.write(Buffer.from('0'));
      },
    });
    ok(outcome, range(50).map(String));
    assert.equal(outcome.trailing['x-sum'], '42');
  });

  check('both streams at once: 1,000 messages', async () => {
    const outcome = await call(client, 'talk', { send: made => (range(1000).forEach(n => made.write(Buffer.from(String(n)))), made.end()) });
    ok(outcome, range(1000).map(String));
  });

  check('a deadline: the worker is told, and the client is released', async () => {
    const outcome = await call(client, 'unary', { fields: { 'x-wait': '10000' }, deadline: 400 });
    assert.equal(outcome.name, 'DEADLINE_EXCEEDED');
    const told = await call(client, 'unary', { deadline: 5000 });
    const left = Number(told.initial['x-left-ms']);
    assert.ok(left > 3000 && left <= 5000, `${left} ms left`);
  });

  check('a client that cancels: the worker hears of it', async () => {
    const count = async () => {
      const all = await Promise.all(range(20).map(() => call(client, 'unary')));
      const byWorker = new Map(all.map(one => [one.initial['x-pid'], Number(one.initial['x-cancelled'])]));
      return [...byWorker.values()].reduce((sum, n) => sum + n, 0);
    };
    const before = await count();
    const outcome = await call(client, 'spread', { fields: { 'x-count': '3', 'x-hang': '1' }, onCall: made => made.on('data', () => made.cancel()) });
    assert.equal(outcome.name, 'CANCELLED');
    await until(async () => (await count()) > before, { what: 'the worker to hear of it', every: 100 });
  });

  check('an error status with words and trailers', async () => {
    const outcome = await call(client, 'unary', { fields: { 'x-fail': String(grpc.status.NOT_FOUND) } });
    assert.deepEqual([outcome.name, outcome.details, outcome.trailing['x-sum']], ['NOT_FOUND', 'not today: ä, %, ✓', '42']);
  });

  check('an error status in the first and only head', async () => {
    const outcome = await call(client, 'unary', { fields: { 'x-fail-at-once': '1' } });
    assert.deepEqual([outcome.name, outcome.details], ['PERMISSION_DENIED', 'at once']);
  });

  check('an error status in the middle of a stream', async () => {
    const outcome = await call(client, 'spread', { fields: { 'x-count': '3', 'x-fail': String(grpc.status.ABORTED) } });
    assert.deepEqual([outcome.name, outcome.messages.map(String)], ['ABORTED', ['1:hello', '2:hello', '3:hello']]);
  });

  check('a method that is not there', async () => {
    const none = { path: '/echo.Echo/None', requestStream: false, responseStream: false, requestSerialize: b => b, responseDeserialize: b => b };
    const missing = grpc.makeGenericClientConstructor({ none }, 'None');
    const other = new missing(`127.0.0.1:${proxy.port}`, grpc.credentials.createInsecure());
    const code = await new Promise(resolve => other.none(Buffer.from('x'), error => resolve(error?.code)));
    other.close();
    assert.equal(code, grpc.status.UNIMPLEMENTED);
  });

  check('many calls on one connection go to all workers', needsProxy, async () => {
    const all = await pooled(range(200), 40, n => call(client, 'unary', { message: Buffer.from(String(n)), fields: { 'x-wait': '5' } }));
    assert.deepEqual(all.map(one => String(one.messages[0])), range(200).map(String));
    assert.equal(new Set(all.map(one => one.initial['x-pid'])).size, 2);
  });
});

/** A call on both streams that stays open: {pid, heard, made, done}. */
function openCall(client) {
  const one = { heard: 0 };
  const send = made => {
    one.made = made;
    made.on('metadata', found => (one.pid = found.getMap()['x-pid']));
    made.on('data', () => one.heard++);
    made.write(Buffer.from('0'));
  };
  one.done = call(client, 'talk', { send });
  return one;
}

test('gRPC: a worker that dies ends its calls, not those of the other', { ...options, ...needsProxy }, () =>
  withEcho({}, async (proxy, client) => {
    const open = range(6).map(() => openCall(client));
    try {
      await until(() => open.every(one => one.heard === 1 && one.pid), { what: () => `every call to be answered; ${JSON.stringify(open.map(one => [one.pid, one.heard]))}` });
      const [victim] = open;
      const others = open.filter(one => one.pid !== victim.pid);
      assert.ok(others.length > 0, 'calls on both workers');
      victim.made.write(Buffer.from('die'));
      for (const one of open.filter(({ pid }) => pid === victim.pid)) {
        const { name } = await one.done;
        assert.ok(['UNAVAILABLE', 'INTERNAL', 'UNKNOWN'].includes(name), name);
      }
      for (const one of others) {
        one.made.write(Buffer.from('1'));
        one.made.end();
        const outcome = await one.done;
        assert.deepEqual([outcome.name, outcome.messages.map(String)], ['OK', ['0', '1']]);
      }
    } finally {
      for (const one of open) one.made.cancel();
    }
    const pids = async () => new Set((await Promise.all(range(10).map(() => call(client, 'unary')))).map(one => one.initial?.['x-pid']));
    await until(async () => (await pids()).size === 2, { what: 'two workers again', every: 200 });
  }));

test('gRPC: reload replaces the workers, no call fails', { ...options, ...needsProxy }, t =>
  withEcho({}, async (proxy, client) => {
    const failed = [];
    let over = false;
    let done = 0;
    const lane = async (kind, more) => {
      while (!over) {
        const outcome = await call(client, kind, more);
        if (outcome.name !== 'OK') failed.push(`${kind}: ${outcome.name} ${outcome.details}`);
        done += 1;
        await sleep(5);
      }
    };
    const lanes = [lane('unary'), lane('unary', { fields: { 'x-wait': '100' } }), lane('spread', { fields: { 'x-count': '50' } })];
    try {
      const before = pidsOf(await steady(proxy, 2));
      configure(proxy, config({ env: { ROUND: '2' } })(proxy));
      await succeed(proxy, ['reload']);
      await steady(proxy, 2, { fits: list => list.every(worker => !before.includes(worker.pid)) });
    } finally {
      over = true;
      await Promise.all(lanes);
    }
    t.diagnostic(`${done} calls`);
    assert.deepEqual(failed, []);
  }));

test('gRPC: response_timeout ends a call that the worker does not answer', { ...options, ...needsProxy }, t =>
  withEcho({ response_timeout: '500ms', instances: 1 }, async (proxy, client) => {
    // No head for longer than that: 504, which gRPC calls UNAVAILABLE.
    const from = performance.now();
    const outcome = await call(client, 'unary', { fields: { 'x-silent': '1' }, deadline: 10_000 });
    assert.equal(outcome.name, 'UNAVAILABLE', outcome.details);
    assert.ok(performance.now() - from < 5000);
    // One that has begun should be let be; Pingora has one time-out for all reads from a worker, as nginx has.
    const slow = await call(client, 'unary', { fields: { 'x-wait': '1200' }, deadline: 10_000 });
    if (slow.name !== 'OK') t.diagnostic(`differs: response_timeout also ends an answer that pauses (${slow.name})`);
    assert.ok(['OK', 'CANCELLED', 'INTERNAL', 'UNAVAILABLE'].includes(slow.name), `${slow.name} ${slow.details}`);
  }));

if (PLAIN) console.log('skipped: what only the proxy can do, as the target is the worker itself');
