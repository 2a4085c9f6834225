// HTTP over TLS with the clients that people use, and the handshakes of those that nobody wants.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import net from 'node:net';
import { after, before, describe, test } from 'node:test';
import { createRequire } from 'node:module';
import { Raw, request as plain } from './lib/http.mjs';
import { keepsSessions } from './lib/sessions.mjs';
import { freePort, needsProxy, startProxy, withProxy } from './lib/proxy.mjs';
import { SClient, ask, connect, listener, request, session } from './lib/tls.mjs';
import { range, sleep, until, within } from './lib/wait.mjs';

const { WebSocket } = createRequire(import.meta.url)('ws');
const options = { timeout: 120_000, ...needsProxy };
const VERSIONS = ['TLSv1.2', 'TLSv1.3'];
const only = version => ({ minVersion: version, maxVersion: version });
const HANDSHAKE_MS = 1500;

/** A proxy whose second listener speaks TLS, at `proxy.tls`. */
async function secured(app, more = {}, tlsMore = {}) {
  const [tls, metrics] = [await freePort(), await freePort()];
  const proxy = await startProxy(at => ({
    listeners: [{ address: `127.0.0.1:${at.port}` }, { ...listener(at, tls), ...more.listener, tls: { ...listener(at, tls).tls, handshake_timeout: `${HANDSHAKE_MS}ms`, ...tlsMore } }],
    metrics: { address: `127.0.0.1:${metrics}` },
    apps: { web: app },
    ...more.config,
  }));
  return Object.assign(proxy, { tls, metrics });
}

const curl = (...args) => new Promise((resolve, reject) => {
  execFile('curl', ['-sk', '--max-time', '30', ...args], { encoding: 'buffer', maxBuffer: 64 << 20 }, (error, out) => (error ? reject(error) : resolve(out)));
});

/** Failed handshakes by reason. */
async function failures(proxy) {
  const { text } = await plain(proxy.metrics, { path: '/metrics' });
  const all = [...text.matchAll(/tls_handshake_failures_total\{reason="(\w+)"\} (\d+)/g)];
  assert.ok(all.length > 5, text);
  return Object.fromEntries(all.map(([, reason, count]) => [reason, Number(count)]));
}

async function counts(proxy, reason, body, times = 1) {
  const first = (await failures(proxy))[reason];
  await body();
  await until(async () => (await failures(proxy))[reason] >= first + times, { what: `${times} more failures by ${reason}` });
}

const sha = bytes => createHash('sha256').update(bytes).digest('hex');

describe('requests', () => {
  let proxy;
  before(async () => (proxy = await secured({ script: './http.js', instances: 2, affinity: 'none' }, {}, { hsts: '365d' })));
  after(() => proxy?.stop());
  const check = (name, body) => test(name, options, async t => {
    try {
      await body(t);
    } catch (error) {
      proxy.show();
      throw error;
    }
  });

  for (const [args, said] of [
    [['--http1.1', '--tls-max', '1.2'], '1.1'], [['--http1.1', '--tlsv1.3'], '1.1'], [['--http2', '--tls-max', '1.2'], '2'], [['--http2', '--tlsv1.3'], '2'],
    [['--no-alpn'], '1.1'], [['--http1.0'], '1.1'],
  ]) {
    check(`curl ${args.join(' ')}`, async () => {
      const out = (await curl(...args, '-w', '\n%{http_version} %{response_code}', `https://127.0.0.1:${proxy.tls}/head`)).toString();
      const [body, told] = out.split('\n');
      assert.equal(told, `${said} 200`);
      assert.equal(JSON.parse(body).headers['x-forwarded-proto'], 'https');
    });
  }

  for (const version of VERSIONS) {
    check(`large bodies both ways over ${version}, HTTP/1 and HTTP/2`, async () => {
      const sent = randomBytes(8 << 20);
      const up = await request(proxy.tls, { path: '/upload', method: 'POST', body: sent, ...only(version) });
      assert.deepEqual(JSON.parse(up.text), { bytes: sent.length, sha256: sha(sent), encoding: null });
      const expected = sha((await plain(proxy.port, { path: '/big?kib=8192' })).body);
      assert.equal(sha((await request(proxy.tls, { path: '/big?kib=8192', ...only(version) })).body), expected);
      assert.equal(sha((await request(proxy.tls, { path: '/big?kib=8192&chunked', ...only(version) })).body), expected);
      const echoed = await request(proxy.tls, { path: '/echo', method: 'POST', body: sent, ...only(version) });
      assert.equal(sha(echoed.body), sha(sent), 'both ways at a time');
      const two = await session(proxy.tls, only(version));
      assert.equal(sha((await ask(two, '/big?kib=8192')).body), expected);
      assert.equal(JSON.parse((await ask(two, '/upload', { body: sent })).text).sha256, sha(sent));
      two.destroy();
    });

    check(`keep-alive, pipelining and a body in pieces over ${version}`, async () => {
      const raw = Raw.over(await connect(proxy.tls, only(version)));
      const get = path => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`;
      for (const _ of range(20)) {
        raw.write(get('/pid'));
        assert.equal((await raw.response()).status, 200);
      }
      raw.write(get('/slow?ms=50') + get('/pid') + get('/big?kib=100') + get('/pid'));
      const answers = [];
      for (const _ of range(4)) answers.push(await raw.response());
      assert.deepEqual(answers.map(answer => answer.status), [200, 200, 200, 200]);
      assert.equal(answers[2].body.length, 100 * 1024);
      raw.write('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n');
      for (const _ of range(1000)) raw.write('a');
      assert.equal(JSON.parse((await raw.response()).body).bytes, 1000);
      raw.end(get('/pid'));
      assert.equal((await raw.response()).status, 200, 'asked for before the close_notify');
      await raw.closed();
      assert.equal(raw.error, undefined);
    });
  }

  check('a slow reader gets all of a large answer', async () => {
    const socket = await connect(proxy.tls);
    const raw = Raw.over(socket);
    raw.write('GET /big?kib=16384 HTTP/1.1\r\nHost: x\r\n\r\n');
    socket.pause();
    await sleep(500);
    socket.resume();
    assert.equal((await raw.response({ timeout: 30_000 })).body.length, 16 << 20);
    raw.destroy();
  });

  check('Strict-Transport-Security once, over TLS alone', async () => {
    const name = 'strict-transport-security';
    assert.equal((await plain(proxy.port, { path: '/pid' })).headers[name], undefined);
    assert.equal((await request(proxy.tls, { path: '/pid' })).headers[name], 'max-age=31536000');
    const two = await session(proxy.tls);
    assert.equal((await ask(two, '/pid')).headers[name], 'max-age=31536000');
    two.destroy();
  });

  check('a truncated upload is no whole request', async () => {
    const socket = await connect(proxy.tls);
    socket.on('error', () => {});
    socket.write('POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n');
    await sleep(100);
    socket._handle && socket.destroy();
    assert.equal((await request(proxy.tls, { path: '/pid' })).status, 200);
  });

  check('keys are updated while requests go on (openssl s_client)', async () => {
    const client = new SClient(proxy.tls, ['-tls1_3', '-alpn', 'http/1.1']);
    await client.sees(/Verify return code/);
    for (const letter of ['', 'K\n', 'k\n', 'K\n']) {
      client.out = '';
      if (letter) client.write(letter);
      if (letter) await client.sees(/KEYUPDATE/);
      // Whole lines: s_client takes a line of one letter for a command.
      client.write('GET /pid HTTP/1.1\r\nHost: x\r\n\r\n');
      await client.sees(/HTTP\/1\.1 200 OK/);
    }
    await client.end();
  });

  check('renegotiation is refused (openssl s_client)', async () => {
    const client = new SClient(proxy.tls, ['-tls1_2']);
    await client.sees(/Secure Renegotiation|---/);
    await client.sees(/Verify return code/);
    client.write('R\n');
    const { code } = await within(10_000, 'the end of s_client', client.exit);
    assert.notEqual(code, 0);
    assert.equal((await request(proxy.tls, { path: '/pid' })).status, 200);
  });

  check('an answer that ends its connection ends it with a close_notify (openssl s_client)', async () => {
    for (const version of ['-tls1_2', '-tls1_3']) {
      const client = new SClient(proxy.tls, [version, '-quiet']);
      client.write('GET /pid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
      await client.sees(/HTTP\/1\.1 200 OK/);
      await within(10_000, 'the end of s_client', client.exit);
      assert.doesNotMatch(client.out, /unexpected eof/i);
    }
  });

  check('plain HTTP on the port of TLS is told so, and the address that was meant', async () => {
    await counts(proxy, 'plain_http', async () => {
      const answer = await plain(proxy.tls, { path: '/a?b=c', headers: { host: 'chat.example:80' } });
      assert.equal(answer.status, 400);
      assert.match(answer.headers['content-type'], /^text\/plain/);
      assert.match(answer.text, new RegExp(`https://chat.example:${proxy.tls}/a\\?b=c`));
    });
  });

  check('TLS on a plain port is ended by an alert, and counted', async () => {
    await counts(proxy, 'plain_listener', () => assert.rejects(connect(proxy.port), /alert|SSL/i));
  });

  check('garbage, a version that nobody speaks and a ClientHello without end are ended and counted', async () => {
    await counts(proxy, 'not_tls', async () => {
      const raw = await Raw.connect(proxy.tls);
      raw.write(Buffer.concat([Buffer.from([0]), randomBytes(300)]));
      await raw.closed();
    });
    await counts(proxy, 'incompatible', () => assert.rejects(connect(proxy.tls, { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' })));
    await counts(proxy, 'incompatible', () => assert.rejects(connect(proxy.tls, { ALPNProtocols: ['spdy/1'] })));
    await counts(proxy, 'too_large', async () => {
      const raw = await Raw.connect(proxy.tls);
      // One handshake message of 65,535 bytes, in records of 4 KiB.
      const record = body => Buffer.concat([Buffer.from([22, 3, 1, body.length >> 8, body.length & 255]), body]);
      raw.write(record(Buffer.concat([Buffer.from([1, 0, 0xff, 0xff, 3, 3]), Buffer.alloc(4090)])));
      for (const _ of range(4)) raw.write(record(Buffer.alloc(4096)));
      await raw.closed();
    });
    assert.equal((await request(proxy.tls, { path: '/pid' })).status, 200);
  });

  check('a ClientHello in single bytes, and one in small records', async () => {
    for (const size of [1, 7, 100]) {
      // A relay that passes the client's bytes in pieces.
      const relay = net.createServer(client => {
        const up = net.connect(proxy.tls, '127.0.0.1');
        up.setNoDelay(true);
        up.pipe(client);
        for (const socket of [up, client]) socket.on('error', () => {});
        client.on('data', async data => {
          client.pause();
          for (let at = 0; at < data.length; at += size) {
            up.write(data.subarray(at, at + size));
            await new Promise(setImmediate);
          }
          client.resume();
        });
        client.on('end', () => up.end());
      });
      await new Promise(resolve => relay.listen(0, '127.0.0.1', resolve));
      assert.equal((await request(relay.address().port, { path: '/pid' })).status, 200, `pieces of ${size}`);
      relay.close();
    }
  });

  check('200 clients that say nothing keep nobody waiting, are cut at the deadline and counted', async t => {
    await counts(proxy, 'timeout', async () => {
      const began = performance.now();
      const silent = await Promise.all(range(200).map(i => Raw.connect(proxy.tls).then(raw => (i % 2 ? raw.write(Buffer.from([22, 3, 1])) : raw))));
      const times = [];
      for (const _ of range(10)) {
        const from = performance.now();
        assert.equal((await request(proxy.tls, { path: '/pid' })).status, 200);
        times.push(performance.now() - from);
      }
      t.diagnostic(`slowest of others: ${Math.round(Math.max(...times))} ms`);
      assert.ok(Math.max(...times) < HANDSHAKE_MS, `${times}`);
      await Promise.all(silent.map(raw => raw.closed(HANDSHAKE_MS + 8000)));
      t.diagnostic(`all cut after ${Math.round(performance.now() - began)} ms`);
    }, 200);
  });
});

describe('WebSockets', () => {
  for (const version of VERSIONS) {
    test(`messages of many sizes over ${version}, and each kind of end`, options, async () => {
      const proxy = await secured({ script: './ws.js', affinity: 'none' });
      try {
        const open = () => new Promise((resolve, reject) => {
          const socket = new WebSocket(`wss://127.0.0.1:${proxy.tls}/ws`, { perMessageDeflate: false, rejectUnauthorized: false, ...only(version) });
          socket.once('open', () => resolve(socket));
          socket.once('error', reject);
        });
        const socket = await open();
        const sent = [0, 1, 125, 126, 4096, 16_384, 65_536, 1_000_000, 5_000_000].map(size => randomBytes(size));
        const got = [];
        const all = new Promise(resolve => socket.on('message', data => got.push(sha(data)) === sent.length && resolve()));
        for (const data of sent) socket.send(data);
        await within(30_000, 'all messages', all);
        assert.deepEqual(got, sent.map(sha));
        const closed = new Promise(resolve => socket.once('close', code => resolve(code)));
        socket.send('close 4001');
        assert.equal(await within(5000, 'the close', closed), 4001);
        const gone = await open();
        gone.terminate();
        await until(async () => (await plain(proxy.port, { path: '/open' })).text === '0', { what: 'no open socket at the worker' });
      } finally {
        await proxy.stop();
      }
    });
  }

  test('Socket.IO: polling and upgrades over TLS stay with their worker', options, async () => {
    const proxy = await secured({ script: './sio.js', instances: 3 });
    try {
      await keepsSessions({ url: `https://127.0.0.1:${proxy.tls}` }, { clients: 10, options: { rejectUnauthorized: false, agent: undefined } });
    } finally {
      await proxy.stop();
    }
  });

  test('Socket.IO: polling over HTTP/2, the WebSocket over HTTP/1, one session', options, async () => {
    const proxy = await secured({ script: './sio.js', instances: 3 });
    try {
      const two = await session(proxy.tls);
      for (const _ of range(6)) {
        const opened = await ask(two, '/socket.io/?EIO=4&transport=polling');
        const { sid } = JSON.parse(opened.text.slice(1));
        await ask(two, `/socket.io/?EIO=4&transport=polling&sid=${sid}`, { body: '40' });
        const hello = await ask(two, `/socket.io/?EIO=4&transport=polling&sid=${sid}`);
        assert.equal(hello.headers['x-pid'], opened.headers['x-pid']);
        const socket = new WebSocket(`wss://127.0.0.1:${proxy.tls}/socket.io/?EIO=4&transport=websocket&sid=${sid}`, { rejectUnauthorized: false });
        await within(5000, 'the upgrade', new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject)));
        const probed = new Promise(resolve => socket.once('message', data => resolve(data.toString())));
        socket.send('2probe');
        assert.equal(await within(5000, 'the probe', probed), '3probe');
        socket.terminate();
      }
      two.destroy();
    } finally {
      await proxy.stop();
    }
  });
});

test('redirect: https sends all but challenges to https, upgrades too', options, async () => {
  const [port, tls] = [await freePort(), await freePort()];
  await withProxy(at => ({
    listeners: [{ address: `127.0.0.1:${at.port}` }, { address: `127.0.0.1:${port}`, redirect: 'https' }, listener(at, tls)],
    apps: { web: { script: './http.js', affinity: 'none' } },
  }), async () => {
    const answer = await plain(port, { path: '/a%20b?c=d', headers: { host: `chat.example:${port}` } });
    assert.equal(answer.status, 308);
    assert.equal(answer.headers.location, `https://chat.example:${tls}/a%20b?c=d`);
    assert.equal((await plain(port, { path: '/x', method: 'POST', body: 'x'.repeat(100_000) })).status, 308);
    assert.notEqual((await plain(port, { path: '/.well-known/acme-challenge/x' })).status, 308);
    const raw = await Raw.connect(port);
    raw.write('GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n');
    assert.equal((await raw.response()).status, 308);
    const old = await Raw.connect(port);
    old.write('GET / HTTP/1.0\r\n\r\n');
    assert.equal((await old.response()).status, 400);
  });
});
