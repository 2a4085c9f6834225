import assert from 'node:assert/strict';
import http from 'node:http';
import net from 'node:net';
import { describe, it } from 'node:test';
import { Proxy, until } from './harness.mjs';

const CLIENT = { 'x-real-ip': '203.0.113.7', 'x-forwarded-for': '203.0.113.7', 'x-forwarded-proto': 'https' };

/** Sends raw bytes, and gives what comes back until `done` matches. */
function raw(proxy, bytes, done) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(proxy.socket, () => socket.write(bytes));
    let text = '';
    socket.setEncoding('latin1').on('data', (more) => {
      text += more;
      if (!done.test(text)) return;
      socket.destroy();
      resolve(text);
    });
    socket.on('end', () => reject(new Error(`ended after ${text}`)));
    socket.on('error', reject);
  });
}

describe('the client a request comes from', { concurrency: 3 }, () => {
  const frameworks = {
    express: `const app = require('express')(); app.get('/', (q, s) => s.json([q.ip, q.protocol, q.secure])); app.listen(3000);`,
    'express, trusting every proxy': `const app = require('express')(); app.set('trust proxy', true);
      app.get('/', (q, s) => s.json([q.ip, q.protocol, q.secure])); app.listen(3000);`,
    'express 5': `const app = require('express5')(); app.get('/', (q, s) => s.json([q.ip, q.protocol, q.secure])); app.listen(3000);`,
    koa: `const Koa = require('koa'); const App = Koa.default || Koa; const app = new App();
      app.use((c) => { c.body = JSON.stringify([c.ip, c.protocol, c.secure]); }); app.listen(3000);`,
    fastify: `const app = require('fastify')(); app.get('/', async (q) => [q.ip, q.protocol, q.protocol === 'https']);
      app.listen({ port: 3000, host: '0.0.0.0' });`,
    'fastify on localhost': `const app = require('fastify')(); app.get('/', async (q) => [q.ip, q.protocol, q.protocol === 'https']);
      app.listen({ port: 3000 });`,
  };
  for (const [name, code] of Object.entries(frameworks)) {
    it(name, async (t) => {
      const proxy = await Proxy.start(t);
      const worker = proxy.run(code);
      await proxy.main();
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
      const ask = async (headers) => JSON.parse((await proxy.get({ agent, headers })).body);
      // One connection, three clients: the proxy pools connections over clients.
      assert.deepEqual(await ask(CLIENT), ['203.0.113.7', 'https', true]);
      const v6 = { 'x-real-ip': '2001:db8::5', 'x-forwarded-for': '2001:db8::5', 'x-forwarded-proto': 'http' };
      assert.deepEqual(await ask(v6), ['2001:db8::5', 'http', false]);
      assert.deepEqual(await ask({}), ['127.0.0.1', 'http', false]);
      agent.destroy();
      assert.equal(worker.err, '');
    });
  }

  it('is on every event that carries a request, and on the socket', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.run(`
      const server = require('http').createServer();
      const who = (q) => [q.socket.remoteAddress, q.socket.remoteFamily, q.socket.localPort, q.socket.encrypted].join();
      server.on('connection', (s) => s.remoteAddress.replace('::ffff:', ''));
      server.on('request', (q, s) => s.end('request ' + who(q)));
      server.on('checkContinue', (q, s) => { s.writeContinue(); s.end('continue ' + who(q)); });
      server.on('checkExpectation', (q, s) => s.end('expectation ' + who(q)));
      server.on('upgrade', (q, s) => s.end('HTTP/1.1 101 x\\r\\n\\r\\nupgrade ' + who(q)));
      server.on('connect', (q, s) => s.end('HTTP/1.1 200 x\\r\\n\\r\\nconnect ' + who(q)));
      server.listen(3000);`);
    await proxy.main();
    const send = (method, more, word) =>
      raw(
        proxy,
        `${method} HTTP/1.1\r\nHost: a\r\nX-Real-IP: ::1\r\n${more}\r\n`,
        new RegExp(`${word} ::1,IPv6,3000,false`),
      );
    await send('GET /', '', 'request');
    await send('POST /', 'Expect: 100-continue\r\n', 'continue');
    await send('POST /', 'Expect: x\r\n', 'expectation');
    await send('GET /', 'Connection: upgrade\r\nUpgrade: x\r\n', 'upgrade');
    await send('CONNECT a:1', '', 'connect');
  });

  it('does not change what Node does without listeners', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.run(`require('http').createServer((q, s) => q.resume().on('end', () => s.end('done'))).listen(3000)`);
    await proxy.main();
    const head = 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n';
    assert.match(await raw(proxy, head + 'x', /done/), /^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200/);
    const upgrade = 'GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n';
    assert.match(await raw(proxy, upgrade, /done/), /^HTTP\/1\.1 200/);
  });
});

describe('keep-alive', () => {
  it('lasts longer than the proxy keeps idle connections, whatever the app sets', async (t) => {
    const proxy = await Proxy.start(t, { keep_alive_ms: 90000 });
    const worker = proxy.run(`
      const server = require('http').createServer((q, s) => s.end(String(server.keepAliveTimeout + ',' + server.headersTimeout)));
      server.keepAliveTimeout = 1;
      server.listen(3000, () => {
        const seen = [server.keepAliveTimeout, server.headersTimeout];
        for (const value of [5000, 120000, 0]) { server.keepAliveTimeout = value; seen.push(server.keepAliveTimeout); }
        server.keepAliveTimeout = 5000;
        console.log('seen', JSON.stringify(seen));
      });`);
    assert.deepEqual(JSON.parse(await worker.printed('seen')), [90000, 95000, 90000, 120000, 0]);
    const { body, headers } = await proxy.get({ agent: new http.Agent({ keepAlive: true }) });
    assert.equal(body, '90000,95000');
    assert.equal(headers['keep-alive'], 'timeout=90');
  });
});

describe('a server of another protocol serves plain HTTP/1.1', { concurrency: 3 }, () => {
  const HANDLER = `(q, s) => { let n = 0; q.on('data', (d) => (n += d.length)).on('end', () => {
    s.setHeader('x-length', n); s.end([q.method, q.url, q.headers.host || q.headers[':authority'], q.socket.remoteAddress, q.socket.encrypted].join()); }); }`;
  const apps = {
    https: `require('https').createServer(keys, ${HANDLER}).listen(3000)`,
    'https, asking for certificates': `require('https').createServer({ ...keys, requestCert: true }, (q, s) => {
      if (q.socket.authorized || Object.keys(q.socket.getPeerCertificate()).length) throw new Error('certified');
      (${HANDLER})(q, s); }).listen(3000)`,
    'https by express': `require('https').createServer(keys, require('express')().use(${HANDLER})).listen(3000)`,
    http2: `require('http2').createServer(${HANDLER}).listen(3000)`,
    'http2 secure': `require('http2').createSecureServer(keys, ${HANDLER}).listen(3000)`,
    'http2 secure with allowHTTP1': `require('http2').createSecureServer({ ...keys, allowHTTP1: true }, ${HANDLER}).listen(3000)`,
    'fastify with http2': `const f = require('fastify')({ http2: true, https: keys });
      f.addContentTypeParser('*', (q, body, done) => { let n = 0; body.on('data', (d) => (n += d.length)).on('end', () => done(null, n)); });
      f.all('*', (q, s) => { s.header('x-length', q.body || 0); s.send([q.method, q.url, q.host, q.ip, q.protocol === 'https'].join()); });
      f.listen({ port: 3000, host: '::' });`,
  };
  for (const [name, code] of Object.entries(apps)) {
    it(name, async (t) => {
      const proxy = await Proxy.start(t);
      const worker = proxy.run(`const keys = {}; ${code}`);
      await proxy.main();
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
      const headers = { ...CLIENT, host: 'a.example' };
      const got = await proxy.get({ agent, headers, path: '/p?q=1' });
      assert.deepEqual([got.status, got.body], [200, 'GET,/p?q=1,a.example,203.0.113.7,true'], worker.err);
      const body = Buffer.alloc(300_000);
      const type = { 'content-type': 'application/octet-stream' };
      const sent = await proxy.get({
        agent,
        method: 'POST',
        headers: { ...headers, ...type, 'x-forwarded-proto': 'http' },
        body,
      });
      assert.deepEqual([sent.body, sent.headers['x-length']], ['POST,/,a.example,203.0.113.7,false', '300000']);
      assert.equal(sent.headers['keep-alive'], 'timeout=75');
      agent.destroy();
      assert.equal(worker.err, '');
    });
  }

  it("http2 with 'stream' events only", async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`
      const server = require('http2').createServer();
      server.on('stream', (stream, headers) => {
        stream.respond({ ':status': 201, 'x-path': headers[':path'], 'x-who': headers['x-real-ip'] });
        stream.pipe(stream);
      });
      server.listen(3000);`);
    await proxy.main();
    const body = 'x'.repeat(400_000);
    const all = [1, 2, 3].map(() => proxy.get({ method: 'POST', path: '/s', headers: CLIENT, body }));
    for (const got of await Promise.all(all)) {
      assert.deepEqual([got.status, got.headers['x-path'], got.headers['x-who']], [201, '/s', '203.0.113.7']);
      assert.ok(got.body === body);
    }
    assert.equal(worker.err, '');
  });

  it("a 'stream' without a body ends with its head, as HTTP/2's does", async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`
      const server = require('http2').createServer();
      server.on('stream', (stream, headers) => {
        const [, status, then] = headers[':path'].split('/');
        stream.on('close', () => console.log('closed', headers[':method'], headers[':path']));
        stream.respond({ ':status': Number(status), 'x-head': String(stream.headRequest), 'x-end': String(stream.endAfterHeaders) });
        if (then === 'end') stream.end('a body');
        if (then === 'later') setImmediate(() => stream.end('a body'));
        if (then === 'read') stream.on('data', (data) => console.log('read', String(data)));
      });
      server.listen(3000);`);
    await proxy.main();
    const seen = async (options) => {
      const got = await proxy.get({ timeout: 5000, ...options });
      return [got.status, got.headers['x-head'], got.headers['x-end'], got.body];
    };
    assert.deepEqual(await seen({ method: 'HEAD', path: '/200/' }), [200, 'true', 'true', '']);
    assert.deepEqual(await seen({ method: 'HEAD', path: '/200/end' }), [200, 'true', 'true', '']);
    assert.deepEqual(await seen({ method: 'HEAD', path: '/200/later' }), [200, 'true', 'true', '']);
    assert.deepEqual(await seen({ path: '/304/' }), [304, 'false', 'true', '']);
    assert.deepEqual(await seen({ path: '/204/end' }), [204, 'false', 'true', '']);
    assert.deepEqual(await seen({ path: '/200/end' }), [200, 'false', 'true', 'a body']);
    const body = 'sent';
    assert.deepEqual(await seen({ method: 'POST', path: '/204/read', body }), [204, 'false', 'false', '']);
    const lines = ['HEAD /200/', 'HEAD /200/end', 'HEAD /200/later', 'GET /304/', 'GET /204/end', 'POST /204/read'];
    await until('streams that are closed', () => lines.every((line) => worker.out.includes(`closed ${line}`)));
    assert.ok(worker.out.includes('read sent'));
    assert.equal(worker.err, '');
  });

  it('still speaks its own protocol on a port of its own', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`
      const https = require('https'), http2 = require('http2');
      // A shared secret instead of a certificate.
      const psk = Buffer.alloc(16, 1), ciphers = 'PSK', maxVersion = 'TLSv1.2', minVersion = maxVersion;
      const keys = { pskCallback: () => psk, ciphers, maxVersion, minVersion };
      const client = { ...keys, pskCallback: () => ({ psk, identity: 'x' }), checkServerIdentity: () => undefined };
      const server = https.createServer(keys, (q, s) => s.end('tls ' + q.socket.encrypted + ' ' + q.socket.remoteAddress));
      const h2 = http2.createServer((q, s) => s.end('h2'));
      server.listen(3000, () => server.close(() => server.listen(0, '127.0.0.1', () => {
        https.get({ ...client, port: server.address().port }, (s) => s.on('data', (d) => {
          h2.listen(0, '127.0.0.1', () => {
            const session = http2.connect('http://127.0.0.1:' + h2.address().port);
            session.request({ ':path': '/' }).on('data', (e) => { console.log('got', d + ' ' + e); process.exit(); });
          });
        }));
      })));`);
    assert.equal(await worker.printed('got'), 'tls true 127.0.0.1 h2');
  });
});

describe('closing', { concurrency: 3 }, () => {
  for (const [name, make] of Object.entries({
    http: `require('http').createServer((q, s) => s.end('x'))`,
    https: `require('https').createServer({}, (q, s) => s.end('x'))`,
    http2: `require('http2').createServer((q, s) => s.end('x'))`,
  })) {
    it(`${name}: says so at once, and lets the process end`, async (t) => {
      const proxy = await Proxy.start(t);
      const worker = proxy.run(`const server = ${make}; server.listen(3000);
        process.on('SIGTERM', () => server.close(() => { console.log('closed', server.listening); server.closeAllConnections?.(); }));`);
      await proxy.main();
      const agent = new http.Agent({ keepAlive: true });
      assert.equal((await proxy.get({ agent })).body, 'x');
      process.kill(worker.pid, 'SIGTERM');
      await proxy.said('closed', (line) => line.path === proxy.socket);
      if (parseInt(process.versions.node, 10) < 19) agent.destroy();
      assert.equal(await worker.printed('closed'), 'false');
      assert.deepEqual(await worker.ended, { code: 0, signal: null });
      agent.destroy();
      await until('the channel to close', () => proxy.peers[0].closed);
    });
  }
});
