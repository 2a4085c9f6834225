import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { Raw, exchange, request } from './lib/http.mjs';
import { needsProxy, startProxy, withProxy } from './lib/proxy.mjs';
import { WebSocket, echoOnce, open, rawUpgrade, upgradeHead } from './lib/upgrade.mjs';
import { pooled, range, sleep, until, within } from './lib/wait.mjs';

const UPGRADES = Number(process.env.UPGRADES ?? 10_000);
const WAVE = 500;

// Guards against the torn upgrades of Pingora 0.9.1 (cloudflare/pingora issue 946), about 0.2 % of them.
test(`${UPGRADES} upgrades in waves of ${WAVE}, each echoes a message`, { timeout: 240_000 }, t =>
  withProxy({ apps: { ws: { script: './ws.js', instances: 3 } } }, async proxy => {
    const started = performance.now();
    const trouble = new Map();
    for (const wave of range(Math.ceil(UPGRADES / WAVE))) {
      const results = await Promise.all(range(WAVE).map(i => echoOnce(proxy.port, `wave ${wave}, socket ${i}`)));
      for (const result of results) if (result) trouble.set(result, (trouble.get(result) ?? 0) + 1);
    }
    t.diagnostic(`${Math.round(performance.now() - started)} ms`);
    assert.deepEqual([...trouble], []);
    // Nothing lingers at the workers either.
    await until(async () => (await request(proxy.port, { path: '/open' })).text === '0', { what: 'no open sockets' });
  }));

describe('one WebSocket app, one worker', () => {
  let proxy;
  before(async () => (proxy = await startProxy({ apps: { ws: { script: './ws.js' } } })));
  after(() => proxy?.stop());
  const check = (name, options, body) => test(name, { timeout: 30_000, ...options }, async t => {
    try {
      await body(t);
    } catch (error) {
      proxy.show();
      throw error;
    }
  });

  check('the client address is known after an upgrade', needsProxy, async () => {
    const socket = new WebSocket(`ws://127.0.0.1:${proxy.port}/ws?hello=1`);
    const hello = JSON.parse(await within(5000, 'hello', new Promise(resolve => socket.once('message', resolve))));
    assert.equal(hello.address, '127.0.0.1');
    socket.terminate();
  });

  check('messages of many sizes, text and binary, in order', {}, async () => {
    const socket = await open(proxy.port);
    const sizes = [0, 1, 125, 126, 4095, 4096, 4097, 65_535, 65_536, 1_000_000, 5_000_000];
    const sent = sizes.map((size, i) => (i % 2 ? randomBytes(size) : Buffer.from('ü'.repeat(size >> 1))));
    const got = [];
    const all = new Promise(resolve => socket.on('message', (data, binary) => {
      got.push({ hash: createHash('sha256').update(data).digest('hex'), binary });
      if (got.length === sent.length) resolve();
    }));
    sent.forEach((data, i) => socket.send(data, { binary: i % 2 === 1 }));
    await within(20_000, () => `${sent.length} messages, got ${got.length}`, all);
    assert.deepEqual(got, sent.map((data, i) => ({ hash: createHash('sha256').update(data).digest('hex'), binary: i % 2 === 1 })));
    socket.close();
  });

  check('ping, pong and close codes pass both ways', {}, async () => {
    const socket = await open(proxy.port);
    const pong = new Promise(resolve => socket.once('pong', data => resolve(data.toString())));
    socket.ping('marco');
    assert.equal(await within(5000, 'a pong', pong), 'marco');
    const closed = new Promise(resolve => socket.once('close', (code, reason) => resolve([code, reason.toString()])));
    socket.send('close 4001');
    assert.deepEqual(await within(5000, 'the close', closed), [4001, 'as asked']);
  });

  check('a connection that the worker cuts is cut for the client', {}, async () => {
    const socket = await open(proxy.port);
    const closed = new Promise(resolve => socket.once('close', resolve));
    socket.on('error', () => {});
    socket.send('terminate');
    assert.equal(await within(5000, 'the close', closed), 1006);
  });

  check('a connection that the client cuts is closed at the worker', {}, async () => {
    const sockets = await Promise.all(range(20).map(() => open(proxy.port)));
    for (const socket of sockets) socket.terminate();
    await until(async () => (await request(proxy.port, { path: '/open' })).text === '0', { what: 'no open sockets' });
  });

  check('a refused upgrade: the worker\'s answer, body and all', {}, async () => {
    const answer = await exchange(proxy.port, upgradeHead('/refuse'));
    assert.equal(answer.status, 403);
    assert.equal(answer.headers['x-why'], 'test');
    assert.equal(answer.body.toString(), 'no sockets for you');
  });

  check('an upgrade to a protocol nobody knows is an ordinary request', {}, async () => {
    const answer = await exchange(proxy.port, 'GET /pid HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n');
    assert.ok([200, 404].includes(answer.status), `${answer.status}`);
  });

  check('bytes in the same packet as the request head arrive after the upgrade', {}, async () => {
    const raw = await rawUpgrade(proxy.port, '/eager', { early: 'early;' });
    assert.equal(raw.answer.status, 101);
    assert.equal((await raw.take(18)).toString(), 'eager bytes;early;');
    raw.destroy();
  });

  check('a half-closed client still gets the last bytes of its worker', {}, async () => {
    const raw = await rawUpgrade(proxy.port, '/last-words');
    assert.equal(raw.answer.status, 101);
    raw.end('goodbye');
    assert.equal((await raw.rest()).toString(), 'last words after 7 bytes');
  });

  check('many half-closed clients at once', {}, async () => {
    await pooled(range(200), 100, async i => {
      const raw = await rawUpgrade(proxy.port, '/last-words');
      const bytes = 1 + (i * 997) % 70_000;
      raw.end(Buffer.alloc(bytes));
      assert.equal((await raw.rest()).toString(), `last words after ${bytes} bytes`);
    });
  });

  check('a worker that has finished still gets the client\'s bytes', {}, async () => {
    const raw = await rawUpgrade(proxy.port, '/first-end?id=7');
    assert.equal((await raw.rest()).toString(), 'that is all');
    raw.write('I am not done. ');
    raw.end('Now I am.');
    await until(async () => (await request(proxy.port, { path: '/received?id=7' })).text === 'I am not done. Now I am., end',
      { what: 'all bytes at the worker' });
  });

  check('a flood to a slow reader arrives whole', {}, async () => {
    const raw = await rawUpgrade(proxy.port, '/flood?kib=20480');
    raw.socket.pause();
    // Long enough for every buffer on the way to fill.
    await sleep(300);
    raw.socket.resume();
    assert.equal((await raw.rest(20_000)).length, 20_480 * 1024);
  });

  check('an upgrade on a connection that was used before', {}, async () => {
    const again = await Raw.connect(proxy.port);
    again.write('GET /pid HTTP/1.1\r\nHost: x\r\n\r\n');
    assert.equal((await again.response()).status, 200);
    again.write(upgradeHead('/eager'));
    assert.equal((await again.head()).status, 101);
    assert.equal((await again.take(12)).toString(), 'eager bytes;');
    again.write('ping');
    assert.equal((await again.take(4)).toString(), 'ping');
    again.destroy();
  });
});

test('an upgrade that no worker answers is a 504', { timeout: 30_000, ...needsProxy }, () =>
  withProxy({ apps: { ws: { script: './ws.js', response_timeout: '500ms' } } }, async proxy => {
    const answer = await exchange(proxy.port, upgradeHead('/silent'));
    assert.equal(answer.status, 504);
    // The limit is for the answer only: an open tunnel may be silent for longer.
    const socket = await open(proxy.port);
    await sleep(1500);
    const echo = new Promise(resolve => socket.once('message', data => resolve(data.toString())));
    socket.send('still here');
    assert.equal(await within(5000, 'the echo', echo), 'still here');
    socket.terminate();
  }));

test('the tunnel\'s own idle limit', { timeout: 30_000, ...needsProxy }, () =>
  withProxy({ apps: { ws: { script: './ws.js' } }, limits: { tunnel_idle_timeout: '1s' } }, async proxy => {
    const quiet = await open(proxy.port);
    const busy = await open(proxy.port);
    const closed = new Promise(resolve => quiet.once('close', resolve));
    const talk = setInterval(() => busy.send('x'), 200);
    await within(10_000, 'the end of the silent one', closed);
    await sleep(500);
    clearInterval(talk);
    assert.equal(busy.readyState, WebSocket.OPEN, 'the busy one stays');
    busy.terminate();
  }));

test('a dead worker takes its own WebSockets with it, and no other', { timeout: 60_000, ...needsProxy }, () =>
  withProxy({ apps: { ws: { script: './ws.js', instances: 3 } } }, async proxy => {
    const sockets = await pooled(range(60), 20, async () => {
      const socket = new WebSocket(`ws://127.0.0.1:${proxy.port}/ws?hello=1`);
      socket.on('error', () => {});
      const hello = await within(5000, 'hello', new Promise(resolve => socket.once('message', resolve)));
      return { socket, pid: JSON.parse(hello).pid };
    });
    const victim = sockets[0].pid;
    const others = sockets.filter(({ pid }) => pid !== victim);
    const doomed = sockets.filter(({ pid }) => pid === victim);
    assert.ok(others.length > 0 && doomed.length > 0);
    const ends = Promise.all(doomed.map(({ socket }) => new Promise(resolve => socket.once('close', resolve))));
    proxy.kill(victim);
    await within(5000, 'the end of the sockets of the dead worker', ends);
    for (const { socket } of others) {
      const echo = new Promise(resolve => socket.once('message', data => resolve(data.toString())));
      socket.send('alive');
      assert.equal(await within(5000, 'an echo', echo), 'alive');
      socket.terminate();
    }
  }));

test('WebSockets silent for 90 s stay open', { timeout: 150_000, skip: process.env.SLOW ? false : 'set SLOW=1' }, () =>
  withProxy({ apps: { ws: { script: './ws.js' } } }, async proxy => {
    const sockets = await Promise.all(range(20).map(() => open(proxy.port)));
    await sleep(90_000);
    for (const socket of sockets) {
      assert.equal(socket.readyState, WebSocket.OPEN);
      const echo = new Promise(resolve => socket.once('message', data => resolve(data.toString())));
      socket.send('after all this time');
      assert.equal(await within(5000, 'an echo', echo), 'after all this time');
      socket.terminate();
    }
  }));
