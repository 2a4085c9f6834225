// Workers that speak HTTP/2 (`protocol: http2`) for clients of either kind, and beside workers that speak HTTP/1.

import assert from 'node:assert/strict';
import http2 from 'node:http2';
import { Raw, exchange, request } from './lib/http.mjs';
import { ask, withSession } from './lib/http2.mjs';
import { PLAIN, needsProxy } from './lib/proxy.mjs';
import { sharing } from './lib/shared.mjs';
import { workers } from './lib/steer.mjs';
import { pooled, range, until, within } from './lib/wait.mjs';
import { upgradeHead } from './lib/upgrade.mjs';

const share = PLAIN ? title => console.log(`skipped: ${title}: needs the proxy`) : sharing;
const two = (more = {}) => ({ command: [process.execPath, 'http2-worker.js', '{socket}'], protocol: 'http2', preload: false, instances: 2, ...more });
const only = proxy => ({ listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }], apps: { two: two() } });
const both = proxy => ({
  listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
  apps: { one: { script: './frames.js', instances: 2 }, two: two() },
  routes: [{ path: '/', app: 'one' }, { host: 'two.example', app: 'two' }],
});

/** Reads the beginning of an answer, and resets its stream. */
const left = stream => within(20_000, 'the end of a stream that its client resets', new Promise(resolve => {
  stream.on('error', () => {}).once('data', () => stream.close(http2.constants.NGHTTP2_CANCEL)).once('close', resolve).end();
}));

/** A connection is given back a moment after the answer's end, before its worker counts as idle. */
const isGivenBack = proxy =>
  until(async () => (await workers(proxy, 'two')).every(worker => worker.active === 0), { every: 2, what: 'workers without a request' });

share('a client with HTTP/1, workers with HTTP/2', only, check => {
  check('a request as the worker sees it', needsProxy, async proxy => {
    const answer = await request(proxy.port, { path: '/head?a=b', headers: { 'x-forwarded-for': '9.9.9.9', 'keep-alive': 'timeout=5', cookie: 'a=1; b=2', host: 'app.example' } });
    const seen = answer.json;
    assert.deepEqual([answer.status, answer.version, seen.version, seen.method, seen.url, seen.authority], [200, '1.1', '2.0', 'GET', '/head?a=b', 'app.example']);
    assert.equal(seen.headers['x-forwarded-for'], '127.0.0.1');
    assert.equal(seen.headers.cookie, 'a=1; b=2');
    for (const name of ['connection', 'keep-alive', 'transfer-encoding', 'upgrade']) assert.equal(seen.headers[name], undefined, name);
  });

  check('bodies: with a length, chunked, none', needsProxy, async proxy => {
    const body = Buffer.alloc(300_000, 'b');
    assert.deepEqual((await request(proxy.port, { method: 'POST', path: '/upload', body })).json, { bytes: 300_000, length: '300000', trailers: {} });
    const chunked = await exchange(proxy.port, 'POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n');
    assert.equal(JSON.parse(chunked.body).bytes, 5);
    assert.equal((await request(proxy.port, { method: 'POST', path: '/upload', headers: { 'content-length': '0' } })).json.bytes, 0);
  });

  check('a large answer, HEAD, 204, 304, cookies', needsProxy, async proxy => {
    assert.equal((await request(proxy.port, { path: '/big?kib=3000' })).body.length, 3000 * 1024);
    assert.equal((await request(proxy.port, { path: '/big?kib=3', method: 'HEAD' })).body.length, 0);
    for (const code of [204, 304]) {
      const answer = await exchange(proxy.port, `GET /status?code=${code} HTTP/1.1\r\nHost: x\r\n\r\n`);
      assert.deepEqual([answer.status, answer.headers['transfer-encoding'], answer.headers['content-length']], [code, undefined, undefined]);
    }
    assert.deepEqual((await request(proxy.port, { path: '/cookies' })).headers['set-cookie'], ['a=1', 'b=2']);
  });

  check('one connection, 50 requests one after another', needsProxy, async proxy => {
    const raw = await Raw.connect(proxy.port);
    try {
      for (const n of range(50)) {
        raw.write(`POST /upload?n=${n} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc`);
        const answer = await raw.response();
        assert.deepEqual([answer.status, JSON.parse(answer.body).bytes], [200, 3]);
      }
    } finally {
      raw.destroy();
    }
  });

  check('an answer that breaks off is cut, not completed', needsProxy, async proxy => {
    const raw = await Raw.connect(proxy.port);
    try {
      raw.write('GET /cut HTTP/1.1\r\nHost: x\r\n\r\n');
      const all = (await raw.rest()).toString('latin1');
      assert.match(all, /^HTTP\/1\.1 200 /);
      assert.match(all, /half of it/);
      assert.doesNotMatch(all, /\r\n0\r\n\r\n/, 'no last chunk');
    } finally {
      raw.destroy();
    }
    assert.equal((await request(proxy.port, { path: '/refused' })).status, 502);
  });

  check('an upgrade to a WebSocket is refused, not left waiting', needsProxy, async proxy => {
    const answer = await exchange(proxy.port, upgradeHead('/ws'));
    assert.ok(answer.status >= 400 && answer.status < 600, `answered ${answer.status}`);
  });

  check('the connections to a worker are kept for the requests that follow', needsProxy, async proxy => {
    const seen = new Set();
    for (const n of range(20)) {
      seen.add((await request(proxy.port, { path: '/connection', ...(n % 2 ? { method: 'POST', body: 'abc' } : {}) })).text);
      await isGivenBack(proxy);
    }
    assert.ok(seen.size <= 2, `${seen.size} connections for 20 requests in turn to two workers`);
  });

  check('many at a time go to both workers', needsProxy, async proxy => {
    const pids = await pooled(range(100), 20, async () => (await request(proxy.port, { path: '/pid' })).text);
    assert.equal(new Set(pids).size, 2);
  });
});

share('one connection with HTTP/2, workers of both kinds by route', both, check => {
  const to = host => (headers, more) => [{ ':authority': host, ...headers }, more];
  const [toOne, toTwo] = [to('one.example'), to('two.example')];

  check('requests in turn', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const answers = await pooled(range(80), 16, n => ask(session, ...(n % 2 ? toTwo : toOne)({ ':path': `/head?n=${n}`, 'x-forwarded-for': '9.9.9.9', cookie: ['a=1', 'b=2'] })));
      for (const [n, answer] of answers.entries()) {
        assert.equal(answer.status, 200, `${n}: ${answer.code}`);
        const seen = JSON.parse(answer.text);
        assert.deepEqual([seen.url, seen.headers['x-forwarded-for'], seen.headers.cookie], [`/head?n=${n}`, '127.0.0.1', 'a=1; b=2']);
        assert.equal(seen.version, n % 2 ? '2.0' : undefined);
      }
    }));

  check('bodies and large answers at the same time', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      await pooled(range(20), 10, async n => {
        const where = n % 2 ? toTwo : toOne;
        const up = await ask(session, ...where({ ':path': '/upload', ':method': 'POST' }, { body: Buffer.alloc(100_000 + n) }));
        assert.equal(JSON.parse(up.text).bytes, 100_000 + n);
        assert.equal((await ask(session, ...where({ ':path': '/big?kib=500' }))).body.length, 500 * 1024);
      });
    }));

  check('a connection to a worker is not used again after a client left within an answer', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      for (const n of range(4)) {
        // More than Node.js has for all streams of a connection: it counts that as held, and refuses what follows there.
        await left(session.request(toTwo({ ':path': `/big?kib=${24 * 1024}` })[0]));
        // Nobody may send these again.
        const answers = await pooled(range(4), 4, () => ask(session, ...toTwo({ ':path': '/upload', ':method': 'POST' }, { body: 'abc' })));
        assert.deepEqual(answers.map(answer => answer.status), [200, 200, 200, 200], `round ${n}`);
      }
      assert.deepEqual(session.trouble, []);
    }));

  check('the connections to a worker are kept for the requests that follow', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const seen = new Set();
      for (const _ of range(20)) {
        seen.add((await ask(session, ...toTwo({ ':path': '/connection' }))).text);
        await isGivenBack(proxy);
      }
      assert.ok(seen.size <= 2, `${seen.size} connections for 20 requests in turn to two workers`);
    }));

  for (const [kind, where] of [['HTTP/1', toOne], ['HTTP/2', toTwo]]) {
    check(`trailers of an answer, by a worker with ${kind}`, needsProxy, proxy =>
      withSession(proxy.port, async session => {
        const answer = await ask(session, ...where({ ':path': '/trailers', te: 'trailers' }));
        assert.deepEqual([answer.status, answer.text, answer.code], [200, 'body', 'NO_ERROR']);
        assert.equal(answer.trailers?.['x-sum'], '42');
      }));

    check(`trailers of a request, to a worker with ${kind}`, needsProxy, proxy =>
      withSession(proxy.port, async session => {
        const answer = await ask(session, ...where({ ':path': '/upload', ':method': 'POST' }, { body: 'abc', trailers: { 'x-checksum': '7' } }));
        const seen = JSON.parse(answer.text);
        assert.equal(seen.bytes, 3);
        // Pingora writes the request to a worker with HTTP/2, and drops its trailers.
        assert.equal(seen.trailers['x-checksum'], kind === 'HTTP/1' ? '7' : undefined);
      }));

    check(`an answer that a worker with ${kind} breaks off is an error of its stream alone`, needsProxy, proxy =>
      withSession(proxy.port, async session => {
        const others = [toOne, toTwo].map(other => ask(session, ...other({ ':path': '/slow?ms=300' })));
        const answer = await ask(session, ...where({ ':path': '/cut' }));
        assert.deepEqual([answer.status, answer.text], [200, 'half of it']);
        assert.equal(answer.code, 'INTERNAL_ERROR');
        for (const other of await Promise.all(others)) assert.deepEqual([other.status, other.text], [200, 'slow']);
        assert.deepEqual(session.trouble, []);
      }));
  }

  check('uploads without a length to workers with HTTP/1, beside GETs: each is answered 200', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const send = stream => (stream.write('abc'), setTimeout(() => stream.end(), 5));
      const bad = [];
      await pooled(range(100), 10, async n => {
        const upload = n % 2 === 0;
        const answer = upload ? await ask(session, ...toOne({ ':path': '/upload', ':method': 'POST' }, { send })) : await request(proxy.port, { path: '/pid', headers: { host: 'one.example' } });
        if (answer.status !== 200) bad.push(`${upload ? 'upload' : 'GET'}: ${answer.status}`);
      });
      assert.deepEqual(bad, []);
    }));

  check('the body flows back while it still comes in', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      for (const where of [toOne, toTwo]) {
        let got = 0;
        const answer = await ask(session, ...where({ ':path': '/echo', ':method': 'POST' }, {
          send: stream => {
            let count = 0;
            const next = () => (count++ < 10 ? stream.write('x'.repeat(1000)) : stream.end());
            stream.on('data', data => (got += data.length) === count * 1000 && next());
            next();
          },
        }));
        assert.deepEqual([answer.status, answer.body.length], [200, 10_000]);
      }
    }));

  check('HTTP/1 on the same listener reaches both', needsProxy, async proxy => {
    for (const [host, version] of [['one.example', undefined], ['two.example', '2.0']]) {
      assert.equal((await request(proxy.port, { path: '/head', headers: { host } })).json.version, version);
    }
  });
});

share('workers with HTTP/2 that take 1000 bytes of a body before they read', proxy => ({
  listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
  apps: { two: two({ instances: 1, env: { WINDOW: '1000' } }) },
}), check => {
  // The worker resets the stream behind its answer (RFC 9113, section 8.1) while the first part of the body waits for a window.
  check('an answer before the body is complete arrives', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      assert.equal(JSON.parse((await ask(session, { ':path': '/upload', ':method': 'POST' }, { body: Buffer.alloc(50_000) })).text).bytes, 50_000);
      for (const n of range(20)) {
        const begins = stream => stream.write(Buffer.alloc(50_000));
        const answer = await ask(session, { ':path': `/nothing?n=${n}`, ':method': 'POST', 'content-length': '100000' }, { send: begins });
        assert.deepEqual([answer.status, answer.text], [404, 'not here'], `${n}`);
        const short = await ask(session, { ':path': `/nothing?n=${n}`, ':method': 'POST' }, { body: Buffer.alloc(10_000) });
        assert.deepEqual([short.status, short.text], [404, 'not here'], `${n}, short`);
      }
      assert.equal(JSON.parse((await ask(session, { ':path': '/upload', ':method': 'POST' }, { body: Buffer.alloc(50_000) })).text).bytes, 50_000);
    }));
});
