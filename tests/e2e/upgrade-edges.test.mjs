// Connections in awkward states while the proxy is replaced.

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { createRequire } from 'node:module';
import test from 'node:test';
import { connections, socketsOf } from './lib/connections.mjs';
import { alone, upgraded } from './lib/handoff.mjs';
import { Raw, request } from './lib/http.mjs';
import { needsUpgrade, withProxy } from './lib/proxy.mjs';
import { command, status, steady, workers } from './lib/steer.mjs';
import { WebSocket, open, rawUpgrade } from './lib/upgrade.mjs';
import { pooled, range, until, within } from './lib/wait.mjs';

const { pattern } = createRequire(import.meta.url)('./apps/numbers.js');
const options = { timeout: 120_000, ...needsUpgrade };
const edges = (more = {}) => ({ limits: { head_timeout: '60s' }, apps: { web: { script: './edges.js', affinity: 'none', ...more } } });

const get = async (proxy, path) => (await request(proxy.port, { path })).text;
const go = (proxy, name) => get(proxy, `/go?name=${name}`);
const sha256 = data => createHash('sha256').update(data).digest('hex');
const blocks = kib => Buffer.concat(range(kib).map(n => pattern(n + 1, 1024)));

/** A frame as clients send it. */
function masked(payload, opcode = 1) {
  const key = randomBytes(4);
  const { length } = payload;
  const head = length < 126 ? Buffer.from([0x80 | opcode, 0x80 | length]) : Buffer.from([0x80 | opcode, 0x80 | 126, length >> 8, length & 255]);
  return Buffer.concat([head, key, payload.map((byte, i) => byte ^ key[i % 4])]);
}

/** The old process alone is left with what it has; nothing of it may be these connections. */
async function moved(proxy, ports, { old, pid }) {
  const strays = () => {
    const all = connections(proxy.port);
    const [its, olds] = [socketsOf(pid), socketsOf(old)];
    return ports.filter(port => !its.has(all.get(port)) || olds.has(all.get(port)));
  };
  await until(() => strays().length === 0, { what: () => `${strays().length} of ${ports.length} connections in ${pid}` });
}

test('a frame that is cut anywhere: the rest comes after the upgrade', options, () =>
  withProxy(edges(), async proxy => {
    const payload = pattern('cut', 300);
    const cuts = [1, 2, 3, 4, 5, 7, 8, 9, 100, 307];
    const raws = await Promise.all(cuts.map(() => rawUpgrade(proxy.port, '/ws?name=cut')));
    const frames = cuts.map(() => masked(payload));
    raws.forEach((raw, i) => raw.write(frames[i].subarray(0, cuts[i])));
    // And a second time in other places.
    await moved(proxy, raws.map(raw => raw.socket.localPort), await upgraded(proxy));
    raws.forEach((raw, i) => raw.write(frames[i].subarray(cuts[i], cuts[i] + 1)));
    await moved(proxy, raws.map(raw => raw.socket.localPort), await upgraded(proxy));
    for (const [i, raw] of raws.entries()) {
      raw.write(frames[i].subarray(cuts[i] + 1));
      const back = await raw.take(4 + payload.length, `the echo of the frame cut at ${cuts[i]}`);
      assert.deepEqual([...back.subarray(0, 4)], [0x81, 126, 300 >> 8, 300 & 255]);
      assert.ok(back.subarray(4).equals(payload));
      raw.destroy();
    }
  }));

test('a client that does not read, and a worker that does not: no byte is lost or doubled', options, () =>
  withProxy(edges(), async proxy => {
    const kib = 12_000;
    const all = blocks(kib);
    const deaf = await Promise.all(range(3).map(() => rawUpgrade(proxy.port, `/numbers?kib=${kib}`)));
    for (const raw of deaf) raw.socket.pause();
    const pushing = await Promise.all(range(3).map(n => rawUpgrade(proxy.port, `/sluggish?name=s${n}`)));
    for (const raw of pushing) raw.write(all).end();
    for (const _ of range(2)) await moved(proxy, [...deaf, ...pushing].map(raw => raw.socket.localPort), await upgraded(proxy));
    for (const raw of deaf) {
      raw.socket.resume();
      const got = await raw.rest(30_000);
      assert.equal(got.length, all.length);
      assert.ok(got.equals(all), 'the blocks in their order');
    }
    for (const [n, raw] of pushing.entries()) {
      await go(proxy, `s${n}`);
      assert.equal((await raw.rest(30_000)).toString(), `${all.length} ${sha256(all)}`);
    }
  }));

test('tunnels of which one side has finished', options, () =>
  withProxy(edges(), async proxy => {
    const last = await Promise.all(range(3).map(n => rawUpgrade(proxy.port, `/last-words?name=l${n}`)));
    for (const raw of last) {
      raw.end('my all');
      await raw.through('end seen;');
    }
    const first = await Promise.all(range(3).map(n => rawUpgrade(proxy.port, `/first-end?name=f${n}`)));
    for (const raw of first) {
      assert.equal((await raw.rest()).toString(), 'that is all');
      raw.write('one ');
    }
    // A half-closed connection is not ESTABLISHED any more: who has it shows when the old process has gone.
    const { old } = await upgraded(proxy);
    await proxy.gone(old);
    for (const [n, raw] of last.entries()) {
      await go(proxy, `l${n}`);
      assert.equal((await raw.rest()).toString(), 'last words after my all');
    }
    for (const [n, raw] of first.entries()) {
      raw.end('two');
      await until(async () => (await get(proxy, `/result?name=f${n}`)) === 'one two, end', { what: 'all that the client said' });
    }
  }));

test('HTTP connections in every state between two requests: each is answered, and the old process goes', options, t =>
  withProxy(edges(), async proxy => {
    const ask = (name, more = '', ms = 0) => `GET /ask?name=${name}&ms=${ms} HTTP/1.1\r\nHost: x\r\n${more}\r\n`;
    const connect = () => Raw.connect(proxy.port);
    const answered = async (raw, name) => {
      const { status: code, body, headers } = await raw.response({ timeout: 30_000 });
      assert.deepEqual([code, body.toString().split(' ')[0]], [200, name]);
      return headers;
    };
    const silent = await connect();
    const idle = await connect();
    idle.write(ask('idle1'));
    await answered(idle, 'idle1');
    const halfHead = await connect();
    halfHead.write(ask('half').slice(0, 12));
    const secondHead = await connect();
    secondHead.write(ask('second1') + ask('second2').slice(0, 30));
    await answered(secondHead, 'second1');
    const expecting = await connect();
    expecting.write('POST /ask?name=expect HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n');
    const chunked = await connect();
    chunked.write('POST /ask?name=chunked HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel');
    const pipelined = await connect();
    pipelined.write(ask('p1', '', 1500) + ask('p2') + ask('p3', '', 20) + ask('p4').slice(0, 9));
    const leaving = await connect();
    leaving.write(ask('leaving', '', 1000)).end();
    await until(async () => (await workers(proxy)).reduce((sum, worker) => sum + worker.active, 0) >= 3, { what: 'requests under way' });

    const step = await upgraded(proxy);
    await moved(proxy, [silent.socket.localPort, idle.socket.localPort], step);
    silent.write(ask('silent'));
    await answered(silent, 'silent');
    idle.write(ask('idle2'));
    await answered(idle, 'idle2');
    halfHead.write(ask('half').slice(12));
    await answered(halfHead, 'half');
    secondHead.write(ask('second2').slice(30));
    await answered(secondHead, 'second2');
    await go(proxy, 'expect');
    assert.match(await expecting.through('\r\n\r\n').then(String), /^HTTP\/1\.1 100 /);
    expecting.write('12345');
    await answered(expecting, 'expect');
    chunked.write('lo\r\n0\r\n\r\n');
    await answered(chunked, 'chunked');
    await answered(leaving, 'leaving');
    for (const name of ['p1', 'p2', 'p3']) await answered(pipelined, name);
    pipelined.write(ask('p4').slice(9));
    await answered(pipelined, 'p4');
    const last = performance.now();
    const gone = await proxy.gone(step.old);
    t.diagnostic(`the old process is gone ${Math.round(gone - last)} ms after the last answer`);
    assert.ok(gone - last < 2000);

    // All of them live on.
    const kept = { silent, idle, halfHead, secondHead, expecting, chunked, pipelined };
    for (const [name, raw] of Object.entries(kept)) {
      assert.ok(!raw.ended, `${name} is open`);
      raw.write(ask(name));
      await answered(raw, name);
    }
    assert.equal(await get(proxy, '/address'), '127.0.0.1 127.0.0.1');
    for (const raw of Object.values(kept)) raw.destroy();
  }));

test('the address of a client goes with its connection', options, () =>
  withProxy(edges(), async proxy => {
    const raw = await Raw.connect(proxy.port, { localAddress: '127.0.0.7' });
    const ask = async () => {
      raw.write('GET /address HTTP/1.1\r\nHost: x\r\n\r\n');
      return (await raw.response()).body.toString();
    };
    assert.equal(await ask(), '127.0.0.7 127.0.0.7');
    const { old } = await upgraded(proxy);
    await proxy.gone(old);
    assert.equal(await ask(), '127.0.0.7 127.0.0.7');
    raw.destroy();
  }));

test('what the status counts is the same afterwards; a drain closes WebSockets that were moved, with whole frames', options, t =>
  withProxy(edges({ instances: 2, min_ready: '100ms', drain_window: '1s', drain_timeout: '5s' }), async proxy => {
    await steady(proxy, 2);
    const quiet = await pooled(range(20), 10, n => open(proxy.port, `/ws?name=q${n}`));
    const codes = [];
    const wrong = [];
    // The first message may come with the answer to the upgrade.
    const busy = range(6).map(n => {
      const socket = new WebSocket(`ws://127.0.0.1:${proxy.port}/ws?name=b${n}&flow=50000`, { perMessageDeflate: false });
      let count = 0;
      socket.on('message', data => data.equals(pattern(++count, 50_000)) || wrong.push(`${n}: message ${count}`));
      return socket;
    });
    await until(() => busy.every(socket => socket.readyState === WebSocket.OPEN), { what: 'busy WebSockets' });
    for (const socket of [...quiet, ...busy]) {
      socket.on('error', error => wrong.push(error.message));
      socket.on('close', code => codes.push(code));
    }
    const counts = async () =>
      (await workers(proxy)).map(({ slot, pid, incarnation, generation, state, active, parked, restarts, failures }) =>
        ({ slot, pid, incarnation, generation, state, active, parked, restarts, failures }));
    const since = async () => (await workers(proxy)).map(worker => worker.since_seconds);
    const [before, from] = [await counts(), await since()];
    const { old } = await upgraded(proxy);
    await proxy.gone(old);
    t.diagnostic(JSON.stringify(before));
    await until(async () => JSON.stringify(await counts()) === JSON.stringify(before), {
      what: `the same counts as before: ${JSON.stringify(before)}`,
      timeout: 5000,
    }).catch(async error => {
      throw new Error(`${error.message}; now ${JSON.stringify(await counts())}`);
    });
    (await since()).forEach((seconds, i) => assert.ok(seconds >= from[i], `since ${seconds}, before ${from[i]}`));
    const { code, err } = await command(proxy, ['restart']);
    assert.equal(code, 0, err);
    await until(() => codes.length === 26, { timeout: 30_000, what: () => `26 WebSockets closed; ${codes.length}, ${wrong}` });
    assert.deepEqual([...new Set(codes)], [1012]);
    assert.deepEqual(wrong, []);
    await alone(proxy);
  }));

test('a WebSocket that was moved is closed with 1001 when the new process stops', options, () =>
  withProxy(edges(), async proxy => {
    const sockets = await pooled(range(5), 5, n => open(proxy.port, `/ws?name=${n}`));
    const closed = Promise.all(sockets.map(socket => new Promise(resolve => socket.on('close', resolve))));
    await upgraded(proxy);
    const echo = new Promise(resolve => sockets[0].once('message', data => resolve(data.toString())));
    sockets[0].send('hello');
    assert.equal(await echo, 'hello');
    proxy.kill(proxy.pid, 'SIGTERM');
    const codes = await within(15_000, 'close frames', closed);
    assert.deepEqual([...new Set(codes)].filter(code => ![1001, 1012].includes(code)), [], `${codes}`);
    assert.ok(sockets.every(socket => socket.readyState === WebSocket.CLOSED));
  }));

test('hundreds of idle WebSockets move in batches', options, t =>
  withProxy(edges(), async proxy => {
    const sockets = await pooled(range(1500), 50, n => open(proxy.port, `/ws?name=${n}`));
    const lost = [];
    for (const socket of sockets) socket.on('close', code => lost.push(code));
    const step = await upgraded(proxy);
    t.diagnostic(`1500 WebSockets, ${Math.round(step.ms)} ms in all`);
    await proxy.gone(step.old);
    assert.equal((await status(proxy)).pid, step.pid);
    await pooled(sockets, 50, (socket, n) => within(20_000, `echo ${n}`, new Promise(resolve => {
      socket.once('message', data => data.toString() === `m${n}` && resolve());
      socket.send(`m${n}`);
    })));
    assert.deepEqual(lost, []);
    for (const socket of sockets) socket.terminate();
  }));
