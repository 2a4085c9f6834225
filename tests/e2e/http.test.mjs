// What HTTP promises, through the proxy, with one worker unless a test says otherwise.

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import http from 'node:http';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { Raw, exchange, request } from './lib/http.mjs';
import { freePort, needsProxy, withProxy } from './lib/proxy.mjs';
import { sharing } from './lib/shared.mjs';
import { pooled, range, sleep, until } from './lib/wait.mjs';

const MIB = 1024 * 1024;
const sha256 = data => createHash('sha256').update(data).digest('hex');
const get = (path, more = '', version = '1.1') => `GET ${path} HTTP/${version}\r\nHost: app.example\r\n${more}\r\n`;
const post = (path, body, more = '') => `POST ${path} HTTP/1.1\r\nHost: app.example\r\nContent-Length: ${body.length}\r\n${more}\r\n${body}`;

/** The bytes that the app's /big sends. */
function bigHash(kib) {
  const hash = createHash('sha256');
  for (let i = 0; i < kib; i++) {
    const digest = createHash('sha256').update(String(i)).digest();
    for (let n = 0; n < 32; n++) hash.update(digest);
  }
  return hash.digest('hex');
}

sharing('connections', { apps: { web: { script: './http.js' } } }, check => {
  check('keep-alive: many requests of all kinds on one connection', async proxy => {
    const raw = await Raw.connect(proxy.port);
    for (const n of range(5)) {
      raw.write(get('/pid'));
      assert.equal((await raw.response()).status, 200);
      raw.write(post('/upload', `body ${n}`));
      const uploaded = JSON.parse((await raw.response()).body);
      assert.equal(uploaded.sha256, sha256(`body ${n}`));
      raw.write('POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\n');
      assert.equal(JSON.parse((await raw.response()).body).sha256, sha256('abcde'));
      raw.write('HEAD /big?kib=2 HTTP/1.1\r\nHost: x\r\n\r\n');
      const head = await raw.response({ method: 'HEAD' });
      assert.equal(head.headers['content-length'], '2048');
      raw.write(get('/status?code=204'));
      assert.equal((await raw.response()).status, 204);
      raw.write(get('/status?code=304'));
      assert.equal((await raw.response()).status, 304);
      raw.write(get('/big?kib=3&chunked=1'));
      assert.equal((await raw.response()).body.length, 3072);
      raw.write(get('/status?code=404'));
      assert.equal((await raw.response()).status, 404);
    }
    assert.equal(raw.buffer.length, 0, 'nothing but the answers');
    raw.destroy();
  });

  check('Node\'s keep-alive agent reuses its connections, POST included', async proxy => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 2 });
    let connections = 0;
    const create = agent.createConnection;
    agent.createConnection = function (...args) {
      connections++;
      return create.apply(this, args);
    };
    await pooled(range(100), 2, async i => {
      const body = 'x'.repeat(i * 300);
      const answer = await request(proxy.port, i % 2 ? { agent, method: 'POST', path: '/upload', body } : { agent, path: '/pid' });
      assert.equal(answer.status, 200);
      if (i % 2) assert.equal(answer.json.bytes, body.length);
    });
    assert.equal(connections, 2);
    agent.destroy();
  });

  check('Connection: close is obeyed', async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write(get('/pid', 'Connection: close\r\n'));
    const answer = await raw.response();
    assert.equal(answer.headers.connection?.toLowerCase(), 'close');
    await raw.closed();
  });

  check('five pipelined requests are answered in order', async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write([60, 0, 30, 0, 10].map((ms, i) => get(`/slow?ms=${ms}&n=${i}`)).join(''));
    for (const _ of range(5)) assert.match((await raw.response()).body.toString(), /^slow \d+$/);
    // Different answers, so that an exchange of two would show.
    raw.write(get('/status?code=201') + post('/upload', 'one') + get('/status?code=404') + get('/big?kib=1') + get('/status?code=202'));
    assert.equal((await raw.response()).status, 201);
    assert.equal(JSON.parse((await raw.response()).body).sha256, sha256('one'));
    assert.equal((await raw.response()).status, 404);
    assert.equal((await raw.response()).body.length, 1024);
    assert.equal((await raw.response()).status, 202);
    raw.destroy();
  });

  check('a request that comes byte by byte', async proxy => {
    const raw = await Raw.connect(proxy.port);
    for (const byte of post('/upload', 'slowly', 'X-Padding: abc\r\n')) {
      raw.write(byte);
      await sleep(1);
    }
    assert.equal(JSON.parse((await raw.response()).body).sha256, sha256('slowly'));
    raw.destroy();
  });

  check('a leading empty line is forgiven', async proxy => {
    assert.equal((await exchange(proxy.port, `\r\n${get('/pid')}`)).status, 200);
  });

  check('HTTP/1.0: closes, unless keep-alive is asked for; never chunked', async proxy => {
    const plain = await Raw.connect(proxy.port);
    plain.write(get('/pid', '', '1.0'));
    const answer = await plain.response();
    assert.equal(answer.status, 200);
    assert.match(answer.body.toString(), /^\d+$/);
    await plain.closed();

    const stream = await Raw.connect(proxy.port);
    stream.write(get('/big?kib=64&chunked=1', '', '1.0'));
    const streamed = await stream.response();
    assert.equal(streamed.headers['transfer-encoding'], undefined, 'HTTP/1.0 does not know chunks');
    assert.equal(sha256(streamed.body), bigHash(64));

    const bare = await exchange(proxy.port, 'GET /pid HTTP/1.0\r\n\r\n');
    assert.equal(bare.status, 200, 'HTTP/1.0 needs no Host');

    const upload = await exchange(proxy.port, 'POST /upload HTTP/1.0\r\nContent-Length: 4\r\n\r\nfour');
    assert.equal(JSON.parse(upload.body).sha256, sha256('four'));
  });

  check('a client that half-closes after its request still gets the answer', needsProxy, async proxy => {
    const raw = await Raw.connect(proxy.port, { allowHalfOpen: true });
    raw.end(get('/slow?ms=200', 'Connection: close\r\n'));
    assert.match((await raw.response()).body.toString(), /^slow/);
  });

  for (const [name, requests] of Object.entries({
    'at once': [get('/pid'), get('/pid'), get('/pid')],
    'slowly': [get('/slow?ms=300'), get('/slow?ms=300'), get('/slow?ms=300')],
    'behind uploads': [post('/upload', 'one'), post('/upload', 'two'), get('/pid')],
    'behind an answer before its upload was read': [post('/refuse', 'x'.repeat(3000)), get('/pid')],
  })) {
    for (const later of [false, true]) {
      check(`requests in one packet, answered ${name}, then ${later ? 'a half-close' : 'the half-close with them'}: all get their answers, and the end`, needsProxy, async proxy => {
        const raw = await Raw.connect(proxy.port, { allowHalfOpen: true });
        if (later) {
          raw.write(requests.join(''));
          await sleep(100);
          raw.end();
        } else {
          raw.end(requests.join(''));
        }
        const statuses = [];
        for (const _ of requests) statuses.push((await raw.response()).status);
        assert.deepEqual(statuses, requests.map(request_ => (request_.includes('/refuse') ? 413 : 200)));
        await raw.closed();
        raw.destroy();
      });
    }
  }

  check('100-continue: asked, told, sent', async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\nExpect: 100-continue\r\n\r\n');
    assert.equal((await raw.head()).status, 100);
    raw.write('continue');
    let answer = await raw.response();
    // The proxy and the worker may both have said it.
    if (answer.status === 100) answer = await raw.response();
    assert.equal(JSON.parse(answer.body).sha256, sha256('continue'));
    raw.destroy();
  });

  check('100-continue: a client that does not wait', async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write(post('/upload', 'at once', 'Expect: 100-continue\r\n'));
    let answer = await raw.response();
    while (answer.status === 100) answer = await raw.response();
    assert.equal(JSON.parse(answer.body).sha256, sha256('at once'));
    raw.destroy();
  });

  check('a worker that refuses a body: its answer arrives', async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write(`POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: ${MIB}\r\nExpect: 100-continue\r\n\r\n`);
    let answer = await raw.response();
    while (answer.status === 100) answer = await raw.response();
    assert.equal(answer.status, 413);
    raw.destroy();
  });

  check('an answer before the end of an upload arrives', async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.socket.on('error', () => {});
    raw.write(`POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: ${50 * MIB}\r\n\r\n`);
    raw.write(Buffer.alloc(64 * 1024));
    assert.equal((await raw.response()).status, 413);
    raw.destroy();
  });

  check('a client that leaves is noticed by the app, before and after the head of the answer', async proxy => {
    for (const head of ['', '&head=1']) {
      const id = randomBytes(4).toString('hex');
      const raw = await Raw.connect(proxy.port);
      raw.write(get(`/hang?id=${id}${head}`));
      const state = async () => (await request(proxy.port, { path: `/gone?id=${id}` })).text;
      await until(async () => (await state()) === 'open', { what: 'the request at the app' });
      if (head) await raw.head();
      raw.destroy();
      await until(async () => (await state()) === 'closed', { timeout: 5000, what: `'close' in the app${head}` });
    }
  });

  check('a client that leaves in the middle of an upload is noticed', async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write('POST /hang?id=up HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc');
    const state = async () => (await request(proxy.port, { path: '/gone?id=up' })).text;
    await until(async () => (await state()) === 'open', { what: 'the request at the app' });
    raw.destroy();
    await until(async () => (await state()) === 'closed', { timeout: 5000, what: '\'close\' in the app' });
  });

  check('early hints do not break the answer', async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write(get('/early'));
    let answer = await raw.response();
    if (answer.status === 103) answer = await raw.response();
    assert.equal(answer.status, 200);
    assert.equal(answer.body.toString(), 'late');
    raw.destroy();
  });
});

sharing('bodies', { apps: { web: { script: './http.js' } } }, check => {
  const size = 20 * MIB;

  check('server-sent events arrive as they are sent', async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write(get('/sse?id=1', 'Accept: text/event-stream\r\nAccept-Encoding: gzip\r\n'));
    const head = await raw.head();
    assert.match(head.headers['content-type'], /event-stream/);
    for (const n of range(5)) {
      // The next event is only produced when we have seen this one.
      await raw.through(`data: ${n + 1}\n\n`, 3000);
      await request(proxy.port, { method: 'POST', path: '/sse-next?id=1' });
    }
    raw.destroy();
  });

  check('20 MB up by Content-Length', async proxy => {
    const body = randomBytes(size);
    const answer = await request(proxy.port, { method: 'POST', path: '/upload', body, headers: { 'content-length': size } });
    assert.deepEqual(answer.json, { bytes: size, sha256: sha256(body), encoding: null });
  });

  check('20 MB up in chunks', async proxy => {
    const body = randomBytes(size);
    const answer = await request(proxy.port, { method: 'POST', path: '/upload', body: Readable.from(slices(body, 70_001)) });
    assert.deepEqual(answer.json, { bytes: size, sha256: sha256(body), encoding: 'chunked' });
  });

  check('20 MB down by Content-Length and in chunks', async proxy => {
    const expected = bigHash(size / 1024);
    const exact = await request(proxy.port, { path: `/big?kib=${size / 1024}` });
    assert.equal(exact.headers['content-length'], String(size));
    assert.equal(sha256(exact.body), expected);
    const chunked = await request(proxy.port, { path: `/big?kib=${size / 1024}&chunked=1` });
    assert.equal(chunked.headers['transfer-encoding'], 'chunked');
    assert.equal(sha256(chunked.body), expected);
  });

  for (const how of ['content-length', 'chunked']) {
    check(`8 MB flow back while they upload, ${how}`, async proxy => {
      const body = randomBytes(8 * MIB);
      const options = how === 'chunked' ? { body: Readable.from(slices(body, 65_000)) } : { body, headers: { 'content-length': body.length } };
      const answer = await request(proxy.port, { method: 'POST', path: '/echo', ...options });
      assert.equal(answer.status, 200);
      assert.equal(sha256(answer.body), sha256(body));
    });
  }

  check('an echo answers before its upload is complete', async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write('POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n');
    await raw.head();
    await raw.through('first');
    raw.write('6\r\nsecond\r\n');
    await raw.through('second');
    raw.write('0\r\n\r\n');
    await raw.through('0\r\n\r\n');
    raw.destroy();
  });

  check('a slow reader gets everything', async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write(get(`/big?kib=${8 * 1024}`));
    raw.socket.pause();
    await sleep(500);
    raw.socket.resume();
    assert.equal(sha256((await raw.response()).body), bigHash(8 * 1024));
    raw.destroy();
  });

  check('empty bodies', async proxy => {
    const none = await exchange(proxy.port, 'POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n');
    assert.equal(JSON.parse(none.body).bytes, 0);
    const chunked = await exchange(proxy.port, 'POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n');
    assert.equal(JSON.parse(chunked.body).bytes, 0);
    const absent = await exchange(proxy.port, 'DELETE /upload HTTP/1.1\r\nHost: x\r\n\r\n');
    assert.equal(JSON.parse(absent.body).bytes, 0);
  });

  check('a GET and a DELETE with a body', async proxy => {
    for (const method of ['GET', 'DELETE', 'PATCH', 'PUT', 'OPTIONS']) {
      const answer = await exchange(proxy.port, `${method} /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc`);
      assert.equal(JSON.parse(answer.body).sha256, sha256('abc'), method);
    }
  });

  check('several cookies stay several', async proxy => {
    const answer = await request(proxy.port, { path: '/cookies' });
    assert.deepEqual(answer.headers['set-cookie'], ['a=1; Path=/', 'b=2; HttpOnly', 'c=3']);
  });
});

function* slices(buffer, size) {
  for (let at = 0; at < buffer.length; at += size) yield buffer.subarray(at, at + size);
}

sharing('heads', { apps: { web: { script: './http.js', instances: 2 } } }, check => {
  check('method, target and the app\'s headers pass unchanged', async proxy => {
    const target = '/head/../head?a=%20b&c=d//e&utf=%C3%BC&x=[1]';
    for (const path of [target, '/head?', '/head']) {
      const answer = await exchange(proxy.port, `PROPFIND ${path} HTTP/1.1\r\nHost: App.Example:81\r\nX-Own: a  b\r\nx-own: c\r\nCookie: a=1; b=2\r\nAuthorization: Basic eA==\r\n\r\n`);
      if (path === target) {
        // URL normalisation is the app's business: here its router resolves the dots.
        assert.equal(answer.status, 200);
      }
      const seen = JSON.parse(answer.body);
      assert.equal(seen.method, 'PROPFIND');
      assert.equal(seen.url, path);
      assert.equal(seen.headers.host, 'App.Example:81');
      assert.equal(seen.headers['x-own'], 'a  b, c');
      assert.equal(seen.headers.cookie, 'a=1; b=2');
      assert.equal(seen.headers.authorization, 'Basic eA==');
    }
  });

  check('forwarded headers are ours, whatever the client says', needsProxy, async proxy => {
    const forged = [
      'X-Forwarded-For: 9.9.9.9', 'x-forwarded-for: 8.8.8.8', 'X-Forwarded-Proto: https', 'X-Forwarded-Host: evil.example',
      'X-Forwarded-Port: 1', 'X-Real-IP: 9.9.9.9', 'Forwarded: for=9.9.9.9;proto=https',
    ].join('\r\n');
    const answer = await exchange(proxy.port, get('/head', `${forged}\r\n`));
    const { headers, remoteAddress, raw } = JSON.parse(answer.body);
    assert.equal(headers['x-forwarded-for'], '127.0.0.1');
    assert.equal(headers['x-forwarded-proto'], 'http');
    assert.equal(headers['x-forwarded-host'], 'app.example');
    assert.ok([undefined, '127.0.0.1'].includes(headers['x-real-ip']), headers['x-real-ip']);
    assert.equal(remoteAddress, '127.0.0.1');
    assert.doesNotMatch(JSON.stringify(raw), /9\.9\.9\.9|8\.8\.8\.8|evil/);
  });

  check('naming a forwarded header in Connection does not remove it', needsProxy, async proxy => {
    for (const name of ['X-Forwarded-For', 'X-Real-IP', 'X-Forwarded-Proto', 'X-Forwarded-Host', 'Host']) {
      const answer = await exchange(proxy.port, get('/head', `Connection: close, ${name}\r\n${name === 'Host' ? '' : `${name}: 9.9.9.9\r\n`}`));
      if (answer.status === 400) continue;
      const { headers, remoteAddress } = JSON.parse(answer.body);
      assert.equal(headers['x-forwarded-for'], '127.0.0.1', name);
      assert.equal(headers['x-forwarded-proto'], 'http', name);
      assert.equal(headers.host, 'app.example', name);
      assert.equal(remoteAddress, '127.0.0.1', name);
    }
  });

  check('hop-by-hop headers stay here', needsProxy, async proxy => {
    const answer = await exchange(proxy.port, get('/head', 'Connection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nProxy-Connection: keep-alive\r\n'));
    const { headers } = JSON.parse(answer.body);
    assert.equal(headers['x-secret'], undefined);
    assert.equal(headers['keep-alive'], undefined);
    assert.equal(headers['proxy-connection'], undefined);
  });
});

sharing('limits', {
  apps: { web: { script: './http.js', response_timeout: '700ms' } },
  limits: { head_timeout: '800ms', head_size: '8kib', body_size: '1mib', body_timeout: '800ms', keepalive_timeout: '1s' },
}, check => {
  check('a head that drips in is a 408', needsProxy, async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write('GET /pid HTTP/1.1\r\nHost: x\r\n');
    let more = true;
    const drip = (async () => {
      while (more) {
        raw.write('X-A: b\r\n');
        await sleep(100);
      }
    })();
    raw.socket.on('error', () => {});
    const answer = await raw.response({ timeout: 5000 });
    more = false;
    await drip;
    assert.equal(answer.status, 408);
    await raw.closed();
  });

  check('many dripping heads are all cut, and others are served meanwhile', needsProxy, async proxy => {
    const slow = await Promise.all(range(200).map(async () => {
      const raw = await Raw.connect(proxy.port);
      raw.socket.on('error', () => {});
      raw.write('GET / HTTP/1.1\r\nX-');
      return raw;
    }));
    assert.equal((await request(proxy.port, { path: '/pid' })).status, 200);
    const answers = await Promise.all(slow.map(raw => raw.response({ timeout: 8000 })));
    assert.deepEqual([...new Set(answers.map(answer => answer.status))], [408]);
    await Promise.all(slow.map(raw => raw.closed()));
  });

  check('a head that is too long is a 431', needsProxy, async proxy => {
    for (const head of [get('/pid', `X-Long: ${'x'.repeat(9000)}\r\n`), get('/pid', 'X-Many: y\r\n'.repeat(900)), get(`/pid?${'q'.repeat(9000)}`)]) {
      const raw = await Raw.connect(proxy.port);
      raw.socket.on('error', () => {});
      raw.write(head);
      const answer = await raw.response();
      assert.ok([431, 414].includes(answer.status), `${answer.status}`);
      await raw.closed();
    }
    assert.equal((await exchange(proxy.port, get('/pid', `X-Long: ${'x'.repeat(7000)}\r\n`))).status, 200);
  });

  check('an endless head does not grow without a limit', needsProxy, async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.socket.on('error', () => {});
    raw.write(`GET /${'a'.repeat(3 * MIB)}`);
    assert.ok([431, 414].includes((await raw.response()).status));
    raw.destroy();
  });

  check('a body that is too long is a 413, announced or not', needsProxy, async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.socket.on('error', () => {});
    raw.write(`POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: ${2 * MIB}\r\n\r\n`);
    assert.equal((await raw.response()).status, 413);
    const chunked = await Raw.connect(proxy.port);
    chunked.socket.on('error', () => {});
    chunked.write('POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n');
    for (const _ of range(24)) chunked.write(`10000\r\n${'x'.repeat(65_536)}\r\n`);
    assert.equal((await chunked.response()).status, 413);
    const fits = await request(proxy.port, { method: 'POST', path: '/upload', body: Buffer.alloc(MIB) });
    assert.equal(fits.json.bytes, MIB);
  });

  check('a body that stops coming is a 408', needsProxy, async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nnot all');
    assert.equal((await raw.response()).status, 408);
    await raw.closed();
  });

  check('a worker that does not answer in time is a 504', needsProxy, async proxy => {
    const answer = await request(proxy.port, { path: '/slow?ms=3000' });
    assert.equal(answer.status, 504);
    assert.ok(answer.text.length > 0, 'with a body that a person can read');
    assert.equal((await request(proxy.port, { path: '/pid' })).status, 200);
  });

  check('a stream that has begun may be silent for longer than that', needsProxy, async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write(get('/sse?id=quiet'));
    await raw.through('data: 1\n\n');
    await sleep(1500);
    await request(proxy.port, { method: 'POST', path: '/sse-next?id=quiet' });
    await raw.through('data: 2\n\n', 3000);
    raw.destroy();
  });

  check('an idle connection is closed, without an answer', needsProxy, async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write(get('/pid'));
    await raw.response();
    assert.equal((await raw.rest(8000)).length, 0);
  });
});

test('no worker ready: 503 soon, with a body; no such route: 404', { timeout: 60_000, ...needsProxy }, () =>
  withProxy(
    {
      apps: { web: { script: './never.js', start_timeout: '30s', queue: { timeout: '100ms' } }, other: { script: './http.js' } },
      routes: [{ path: '/web', app: 'web' }, { host: 'other.example', app: 'other' }],
    },
    { ready: false },
    async proxy => {
      await proxy.ready({ path: '/web', status: 503 });
      const started = performance.now();
      const answer = await request(proxy.port, { path: '/web/x' });
      assert.equal(answer.status, 503);
      assert.ok(answer.text.length > 10, 'a body that a person can read');
      assert.ok(performance.now() - started < 2000, `took ${performance.now() - started} ms`);
      const upgrade = await exchange(proxy.port, 'GET /web HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n');
      assert.equal(upgrade.status, 503);
      // The connection goes on, or the answer says that it does not.
      const raw = await Raw.connect(proxy.port);
      raw.write(get('/web') + get('/web'));
      const first = await raw.response();
      assert.equal(first.status, 503);
      if (first.headers.connection?.toLowerCase() === 'close') await raw.closed();
      else assert.equal((await raw.response()).status, 503);
      raw.destroy();
      await until(async () => (await request(proxy.port, { path: '/pid', headers: { host: 'other.example' } })).status === 200, { what: 'the other app' });
      assert.equal((await request(proxy.port, { path: '/elsewhere' })).status, 404);
    },
  ));

test('answers of a worker that breaks', { timeout: 60_000, ...needsProxy }, t =>
  withProxy({ apps: { web: { script: './http.js', backoff: { min: '50ms', max: '200ms' }, min_uptime: '10ms', crash_loop: { max: 100 } } } }, async proxy => {
    for (const how of ['kill', 'exit', 'throw', 'reset', 'garbage']) {
      await t.test(`${how}: 502 with a body`, async () => {
        await proxy.ready();
        const answer = await request(proxy.port, { method: 'POST', path: `/crash?how=${how}` });
        assert.equal(answer.status, 502);
        assert.ok(answer.text.length > 0);
      });
    }
    for (const how of ['middle', 'middle-chunked']) {
      await t.test(`${how}: the client can tell that the answer is not whole`, async () => {
        await proxy.ready();
        await assert.rejects(request(proxy.port, { path: `/crash?how=${how}` }));
      });
    }
    await proxy.ready();
  }));

test('routes by host and path, two listeners', { timeout: 60_000, ...needsProxy }, async () => {
  const second = await freePort();
  await withProxy(
    proxy => ({
      listeners: [{ address: `127.0.0.1:${proxy.port}` }, { address: `127.0.0.1:${second}` }],
      apps: { a: { script: './http.js', env: { WHO: 'a' } }, b: { script: './http.js', env: { WHO: 'b' } }, c: { script: './http.js', env: { WHO: 'c' } } },
      routes: [{ host: 'b.example', app: 'b' }, { host: '*.c.example', app: 'c' }, { path: '/env', app: 'a' }, { path: '/', app: 'b' }],
    }),
    { ready: false },
    async proxy => {
      const who = async (path, host, port = proxy.port) => (await request(port, { path, headers: { host } })).json.env.WHO;
      await proxy.ready();
      for (const host of ['b.example', 'x.c.example', 'any.example']) await until(async () => (await request(proxy.port, { path: '/env', headers: { host } })).status === 200);
      assert.equal(await who('/env', 'any.example'), 'a');
      assert.equal(await who('/env', 'B.Example:99'), 'b');
      assert.equal(await who('/env?x', 'one.two.c.example'), 'c');
      assert.equal(await who('/env', 'c.example'), 'a');
      assert.equal(await who('/env', 'any.example', second), 'a');
      // /envy is not below /env: another app answers, with 404.
      assert.equal((await request(proxy.port, { path: '/envy' })).status, 404);
    },
  );
});
