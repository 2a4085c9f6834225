// What a reload, an upgrade and a stop do to connections over TLS.

import assert from 'node:assert/strict';
import https from 'node:https';
import test from 'node:test';
import { alone, upgraded } from './lib/handoff.mjs';
import { Raw, request as plain } from './lib/http.mjs';
import { configure, freePort, needsProxy, needsUpgrade, withProxy } from './lib/proxy.mjs';
import { succeed } from './lib/steer.mjs';
import { ask, connect, listener, request, session } from './lib/tls.mjs';
import { range, sleep, until, within } from './lib/wait.mjs';

const apps = { web: { script: './http.js', instances: 2, affinity: 'none' } };
const options = { timeout: 120_000, ...needsProxy };

async function withTls(body) {
  const tls = await freePort();
  return withProxy(at => ({ listeners: [{ address: `127.0.0.1:${at.port}` }, listener(at, tls)], apps }), proxy => body(Object.assign(proxy, { tls })));
}

test('a reload turns TLS, h2c and redirect on and off; the address keeps its socket, connections go on', options, () =>
  withTls(async proxy => {
    const before = Raw.over(await connect(proxy.tls));
    const get = 'GET /pid HTTP/1.1\r\nHost: x\r\n\r\n';
    before.write(get);
    assert.equal((await before.response()).status, 200);
    const first = { address: `127.0.0.1:${proxy.port}` };
    const reload = async second => {
      configure(proxy, { listeners: [first, second], apps });
      await succeed(proxy, ['reload']);
    };
    const kept = await Raw.connect(proxy.tls);
    await reload({ address: `127.0.0.1:${proxy.tls}` });
    assert.equal((await plain(proxy.tls, { path: '/pid' })).status, 200, 'plain now');
    await assert.rejects(request(proxy.tls, { path: '/pid' }));
    before.write(get);
    assert.equal((await before.response()).status, 200, 'what was there goes on over TLS');
    await reload({ address: `127.0.0.1:${proxy.tls}`, redirect: 'https' });
    assert.equal((await plain(proxy.tls, { path: '/pid' })).status, 308);
    await reload(listener(proxy, proxy.tls));
    assert.equal((await request(proxy.tls, { path: '/pid' })).status, 200, 'TLS again');
    assert.equal((await plain(proxy.tls, { path: '/pid' })).status, 400);
    const two = await session(proxy.tls);
    assert.equal((await ask(two, '/pid')).status, 200);
    two.destroy();
    await reload({ ...listener(proxy, proxy.tls), tls: { ...listener(proxy, proxy.tls).tls, http2: false } });
    assert.equal((await connect(proxy.tls, { ALPNProtocols: ['h2', 'http/1.1'] })).alpnProtocol, 'http/1.1');
    before.write(get);
    assert.equal((await before.response()).status, 200);
    before.destroy();
    kept.destroy();
  }));

test('requests over TLS all the time while the proxy is upgraded three times: none fails', { timeout: 180_000, ...needsUpgrade }, t =>
  withTls(async proxy => {
    const agent = new https.Agent({ keepAlive: true, rejectUnauthorized: false });
    const failed = [];
    let [over, asked] = [false, 0];
    const lanes = range(12).map(async lane => {
      for (; !over; asked++) {
        const answer = await request(proxy.tls, { path: '/slow?ms=5', agent: lane % 3 > 0 && agent }).catch(error => ({ status: error.message }));
        if (answer.status !== 200) failed.push(`${lane}: ${answer.status}`);
      }
    });
    const two = range(2).map(async () => {
      while (!over) {
        const made = await session(proxy.tls);
        // After a GOAWAY a client asks on another connection.
        while (!over && !made.closed && !made.destroyed && !made.goaway) {
          const answer = await ask(made, '/slow?ms=5').catch(error => ({ status: error.message }));
          if (answer.status !== 200 && !made.closed) failed.push(`h2: ${answer.status}`);
          asked++;
        }
        made.close();
      }
    });
    for (const _ of range(3)) {
      await upgraded(proxy);
      await sleep(300);
    }
    over = true;
    await within(30_000, 'the last answers', Promise.all([...lanes, ...two]));
    agent.destroy();
    await alone(proxy);
    t.diagnostic(`${asked} requests, ${failed.length} failed`);
    assert.deepEqual(failed, []);
    assert.ok(asked > 200, `${asked}`);
  }));

test('at an upgrade a slow answer ends, a handshake under way too, and idle connections end with a close_notify', { timeout: 90_000, ...needsUpgrade }, () =>
  withTls(async proxy => {
    const get = path => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`;
    const slow = Raw.over(await connect(proxy.tls));
    slow.write(get('/slow?ms=3000'));
    const idle = Raw.over(await connect(proxy.tls));
    idle.write(get('/pid'));
    await idle.response();
    const beginning = await Raw.connect(proxy.tls);
    await sleep(100);
    await upgraded(proxy);
    await idle.closed();
    assert.equal(idle.error, undefined, 'a whole end');
    const socket = await connect(null, { socket: beginning.socket, port: undefined, host: undefined });
    const late = Raw.over(socket);
    late.write(get('/pid'));
    assert.equal((await late.response()).headers.connection, 'close');
    const answer = await slow.response();
    assert.equal(answer.status, 200);
    assert.equal(answer.headers.connection, 'close');
    assert.equal((await request(proxy.tls, { path: '/pid' })).status, 200);
    await alone(proxy, 20_000);
  }));

test('a stop lets what has begun over TLS end, and says so to the rest', options, () =>
  withTls(async proxy => {
    const slow = Raw.over(await connect(proxy.tls));
    slow.write('GET /slow?ms=1500 HTTP/1.1\r\nHost: x\r\n\r\n');
    const two = await session(proxy.tls);
    const asked = ask(two, '/slow?ms=1500');
    const idle = Raw.over(await connect(proxy.tls));
    idle.write('GET /pid HTTP/1.1\r\nHost: x\r\n\r\n');
    await idle.response();
    const goaway = new Promise(resolve => two.once('goaway', code => resolve(code)));
    await sleep(200);
    process.kill(proxy.pid, 'SIGTERM');
    await idle.closed();
    assert.equal(idle.error, undefined);
    assert.equal((await slow.response()).headers.connection, 'close');
    assert.equal((await asked).status, 200);
    assert.equal(await within(5000, 'a GOAWAY', goaway), 0);
    await until(() => proxy.ended, { what: 'the end' });
  }));
