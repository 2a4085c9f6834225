import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { describe, it } from 'node:test';
import { Proxy, here, request, until } from './harness.mjs';

const GET = `const get = (socketPath) => new Promise((ok, no) => http.get({ socketPath, agent: false }, (res) => {
  let text = ''; res.on('data', (d) => (text += d)); res.on('end', () => ok(text)); }).on('error', no));`;

// What the app calls, the port it asked for, and what address() then says.
const FORMS = [
  ['server.listen(3000)', 3000, ['::', 3000]],
  ['server.listen(3000, cb)', 3000, ['::', 3000]],
  ['server.listen("3000")', 3000, ['::', 3000]],
  ['server.listen(3000, "0.0.0.0")', 3000, ['0.0.0.0', 3000]],
  ['server.listen(3000, "127.0.0.1", cb)', 3000, ['127.0.0.1', 3000]],
  ['server.listen(3000, "localhost", 128, cb)', 3000, ['127.0.0.1', 3000]],
  ['server.listen(3000, 128, cb)', 3000, ['::', 3000]],
  ['server.listen({ port: 3000, host: "::1" })', 3000, ['::1', 3000]],
  ['server.listen({ port: "3000", exclusive: true }, cb)', 3000, ['::', 3000]],
  ['server.listen(0)', null, ['::', 8000]],
  ['server.listen(0, cb)', null, ['::', 8000]],
  ['server.listen()', null, ['::', 8000]],
  ['server.listen(undefined, cb)', null, ['::', 8000]],
  ['server.listen(null, "0.0.0.0")', null, ['0.0.0.0', 8000]],
  ['server.listen(cb)', null, ['::', 8000]],
  ['server.listen({ port: undefined })', null, ['::', 8000]],
];

describe('listen', { concurrency: 3 }, () => {
  for (const esm of [false, true]) {
    it(`takes over every form of ${esm ? 'ESM' : 'CommonJS'}, one after the other on its path`, async (t) => {
      const proxy = await Proxy.start(t);
      const worker = proxy.run(
        `${esm ? "import http from 'node:http';" : "const http = require('http');"} ${GET}
        const forms = [${FORMS.map(([code]) => `(server, cb) => ${code}`)}];
        const paths = ${JSON.stringify(FORMS.map(([, port]) => (port === null ? proxy.socketOf(0) : proxy.socket)))};
        (async () => {
          const results = [];
          for (const form of forms) {
            const server = http.createServer((req, res) => res.end('hello'));
            let called = !form.toString().split('=>')[1].includes('cb');
            const up = new Promise((ok, no) => server.on('listening', ok).on('error', no));
            const same = form(server, function () { called = this === server; }) === server;
            await up;
            const { address, family, port } = server.address();
            results.push({ address, family, port, called, same, text: await get(paths[results.length]) });
            await new Promise((ok) => server.close(ok));
          }
          console.log('results', JSON.stringify(results));
        })();`,
        { esm },
      );
      const results = JSON.parse(await worker.printed('results'));
      FORMS.forEach(([code, , [address, port]], n) => {
        const family = address.includes(':') ? 'IPv6' : 'IPv4';
        assert.deepEqual(results[n], { address, family, port, called: true, same: true, text: 'hello' }, code);
      });
      assert.deepEqual(await worker.ended, { code: 0, signal: null });
      assert.equal(worker.err, '');
      assert.ok(!fs.existsSync(proxy.socket));
    });
  }

  it('reports what the app asked for', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`
      const server = require('http').createServer((req, res) => res.end(process.title));
      server.listen(3000, '127.0.0.1');`);
    const line = await proxy.main();
    assert.deepEqual(line, { type: 'path', path: proxy.socket, port: 3000, main: true, why: 'first' });
    const { hello } = proxy.peers[0];
    assert.deepEqual(
      { ...hello, node: '' },
      {
        type: 'hello',
        protocol: 1,
        app: 'app',
        slot: 0,
        incarnation: 7,
        token: 'secret',
        pid: worker.pid,
        node: '',
        tag: 'T4g',
        messages: true,
        thread: 0,
        settled: 0,
      },
    );
    assert.equal((await proxy.get()).body, 'app: slot 0');
    assert.equal(fs.statSync(proxy.socket).mode & 0o777, 0o660);
    assert.equal(worker.out + worker.err, '');
  });

  it('keeps the socket private whatever the umask gives', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.run(`process.umask(0); require('http').createServer().listen(3000)`);
    await proxy.main();
    assert.equal(fs.statSync(proxy.socket).mode & 0o777, 0o660);
  });

  it('leaves alone what is not ours', async (t) => {
    const proxy = await Proxy.start(t);
    const own = path.join(proxy.dir, 'own.sock');
    const worker = proxy.run(`
      const http = require('http'), net = require('net'), { once } = require('events');
      const open = async (server, ...args) => { server.listen(...args); await once(server, 'listening'); return server; };
      (async () => {
        const raw = await open(net.createServer(), 0);
        const found = [raw.address().port > 0];
        for (const host of ['127.0.0.1', 'localhost', '127.0.0.2']) {
          const server = await open(http.createServer(), 0, host);
          found.push(server.address().port !== 8000 && server.address().address.startsWith('127.'));
        }
        found.push((await open(http.createServer(), ${JSON.stringify(own)})).address() === ${JSON.stringify(own)});
        found.push((await open(http.createServer(), { path: ${JSON.stringify(own + '2')} })).address() === ${JSON.stringify(own + '2')});
        const other = await open(net.createServer(), 0, '127.0.0.1');
        found.push((await open(http.createServer(), other)).address().port === other.address().port);
        for (const bad of [70000, -1, 'x'.repeat(300), {}, true, '']) {
          try { http.createServer().on('error', () => {}).listen(bad); found.push(bad.length === 300); } catch { found.push(true); }
        }
        const twice = await open(http.createServer(), 0, '127.0.0.1');
        try { twice.listen(3000); } catch (e) { found.push(e.code); }
        console.log('found', JSON.stringify(found));
        process.exit();
      })();`);
    assert.deepEqual(JSON.parse(await worker.printed('found')), [...Array(13).fill(true), 'ERR_SERVER_ALREADY_LISTEN']);
    await worker.ended;
    assert.deepEqual(proxy.lines('path'), []);
    assert.equal(proxy.peers.length, 0);
  });

  it('gives a second server its own socket, and refuses a port twice', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`
      const http = require('http');
      const serve = (text) => http.createServer((req, res) => res.end(text));
      serve('one').listen(3000);
      serve('two').listen(4000);
      serve('three').listen(5000, '127.0.0.1');
      serve('four').listen(5000, '127.0.0.2');
      const late = serve('late').listen(6000);
      http.createServer().on('error', (e) => {
        console.log('error', JSON.stringify([e.code, e.syscall, e.port, e.address, e.errno, e.message]));
      }).listen(3000, '127.0.0.1');
      process.on('SIGUSR2', () => late.close());`);
    const error = JSON.parse(await worker.printed('error'));
    const text = 'listen EADDRINUSE: address already in use 127.0.0.1:3000';
    assert.deepEqual(error, ['EADDRINUSE', 'listen', 3000, '127.0.0.1', -98, text]);
    const four = proxy.socket.replace('.sock', '-5000-2.sock');
    await proxy.said('path', (line) => line.path === proxy.socketOf(6000));
    process.kill(worker.pid, 'SIGUSR2');
    await proxy.said('closed', (line) => line.path === proxy.socketOf(6000));
    assert.deepEqual(
      proxy
        .lines('path')
        .map((l) => [l.path, l.port, l.main])
        .sort(),
      [
        [proxy.socketOf(6000), 6000, false],
        [proxy.socketOf(4000), 4000, false],
        [four, 5000, false],
        [proxy.socketOf(5000), 5000, false],
        [proxy.socket, 3000, true],
      ].sort(),
    );
    const bodies = [];
    for (const socketPath of [proxy.socket, proxy.socketOf(4000), proxy.socketOf(5000), four]) {
      bodies.push((await request({ socketPath })).body);
    }
    assert.deepEqual(bodies, ['one', 'two', 'three', 'four']);
  });

  it('takes the server on PORT for the main one, whichever came first', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.run(
      `const http = require('http');
      http.createServer().listen(9100);
      http.createServer((req, res) => res.end('app')).listen(process.env.PORT);`,
      { env: { PORT: '3000' } },
    );
    const line = await proxy.main();
    assert.deepEqual([line.path, line.port], [proxy.socketOf(3000), 3000]);
    assert.deepEqual(
      proxy
        .lines('path')
        .filter((l) => l.port === 9100)
        .map((l) => [l.path, l.main]),
      [[proxy.socket, false]],
    );
  });

  it('takes the first server when none listens on PORT', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.run(`require('http').createServer().listen(3000)`, { env: { PORT: '5000' } });
    assert.equal((await proxy.main()).port, 3000);
  });

  it('knows the socket that the environment names', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`
      const server = require('http').createServer((req, res) => res.end(req.socket.remoteAddress));
      server.listen(process.env.PINGORA_UNIX_PROXY_SOCKET, () => console.log('address', server.address()));`);
    assert.deepEqual(await proxy.main(), { type: 'path', path: proxy.socket, port: null, main: true, why: 'port' });
    assert.equal(await worker.printed('address'), proxy.socket);
    assert.equal((await proxy.get({ headers: { 'x-real-ip': '203.0.113.9' } })).body, '203.0.113.9');
  });

  it('clears what a dead process of the slot has left', async (t) => {
    const proxy = await Proxy.start(t);
    const app = `require('http').createServer().listen(3000)`;
    const first = proxy.run(app);
    await proxy.main();
    await first.stop();
    assert.ok(fs.existsSync(proxy.socket));
    proxy.peers.length = 0;
    proxy.run(app);
    assert.equal((await proxy.main()).path, proxy.socket);
  });

  it('makes a process started by the app a second server of the slot', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.run(`
      require('http').createServer((req, res) => res.end('parent')).listen(3000, () => {
        require('child_process').spawn(process.execPath, ['-e',
          "require('http').createServer((req, res) => res.end('child')).listen(4000)"], { stdio: 'inherit' });
      });`);
    const line = await proxy.said('path', (l) => l.port === 4000);
    assert.deepEqual(line, { type: 'path', path: proxy.socketOf(4000), port: 4000, main: false });
    assert.equal((await request({ socketPath: line.path })).body, 'child');
    assert.equal((await proxy.get()).body, 'parent');
    assert.equal(new Set(proxy.peers.map((p) => p.hello.pid)).size, 2);
  });

  it('refuses a port that another process of the slot holds', async (t) => {
    const proxy = await Proxy.start(t);
    const child = `require('http').createServer().on('error', (e) => console.log('error', e.code, e.port, e.message)).listen(4000)`;
    const worker = proxy.run(`
      const http = require('http');
      http.createServer().listen(3000);
      http.createServer().listen(4000, () => {
        require('child_process').spawn(process.execPath, ['-e', ${JSON.stringify(child)}], { stdio: 'inherit' });
      });`);
    const said = await worker.printed('error');
    assert.equal(said, 'EADDRINUSE 4000 listen EADDRINUSE: address already in use :::4000');
  });

  it('takes the next path when another process was a moment quicker', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.run(`require('http').createServer().listen(3000)`);
    await proxy.main();
    const worker = proxy.run(`
      const fs = require('fs'), { lstatSync } = fs;
      fs.lstatSync = () => { fs.lstatSync = lstatSync; throw new Error('not yet'); };
      require('http').createServer((q, s) => s.end('second')).listen(4000, () => console.log('up once'));`);
    const line = await proxy.said('path', (l) => l.port === 4000);
    assert.deepEqual([line.path, line.main], [proxy.socketOf(4000), false]);
    assert.equal((await request({ socketPath: line.path })).body, 'second');
    assert.equal(worker.out + worker.err, 'up once\n');
  });

  it('serves from a worker thread', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`
      const { Worker } = require('worker_threads');
      require('http').createServer((req, res) => res.end('main')).listen(3000, () => {
        new Worker("require('http').createServer((req, res) => res.end('thread')).listen(4000)", { eval: true });
      });`);
    const line = await proxy.said('path', (l) => l.port === 4000);
    assert.equal(line.main, false);
    assert.equal((await request({ socketPath: line.path })).body, 'thread');
    assert.equal(worker.err, '');
  });

  it('shares the slot among the workers of a cluster', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.spawn([process.execPath, path.join(here, 'apps/cluster.cjs')]);
    await until('both of the cluster', () => proxy.lines('path').filter((l) => l.port === 3000).length === 2);
    await until('the second port', () => proxy.lines('path').filter((l) => l.port === 4000).length === 2);
    for (const line of proxy.lines('path')) {
      assert.equal(line.path, proxy.socketOf(line.port));
      assert.equal(line.main, line.port === 3000, JSON.stringify(line));
    }
    assert.ok(proxy.peers.every((peer) => peer.hello.messages === false));
    const pids = new Set();
    for (let n = 0; n < 8; n++) {
      const { body } = await request({
        socketPath: proxy.socketOf(3000),
        agent: false,
        headers: { 'x-real-ip': '192.0.2.1' },
      });
      const [pid, address] = body.split(' ');
      assert.equal(address, '192.0.2.1');
      pids.add(pid);
    }
    assert.equal(pids.size, 2);
    assert.equal(fs.statSync(proxy.socketOf(3000)).mode & 0o777, 0o660);
    assert.equal(worker.err, '');
  });

  it('is not seen by the app, and ends with it', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.spawn([process.execPath, path.join(here, 'apps/seen.cjs'), 'argument']);
    const seen = JSON.parse(await worker.printed('seen'));
    assert.deepEqual(seen, { main: 'seen.cjs', argv: ['seen.cjs', 'argument'], name: 'listen', length: 0, keys: [] });
    assert.deepEqual(await worker.ended, { code: 0, signal: null });
    assert.equal(worker.err, '');
    await until('the channel to end', () => proxy.peers.every((p) => p.closed));
  });

  it('does nothing where there is nothing to do', async (t) => {
    const proxy = await Proxy.start(t);
    const app = `
      const server = require('http').createServer();
      server.listen(0, '127.0.0.3', () => { console.log('at', server.address().address, typeof process.send); server.close(); });
      if (process.env.PINGORA_UNIX_PROXY_WORKER === undefined) {
        require('child_process').execFileSync(process.execPath, ['-e', ''], { stdio: 'inherit' });
      }`;
    const cases = [
      [undefined, ''],
      ['', ''],
      ['{', /^pingora-unix-proxy: PINGORA_UNIX_PROXY_WORKER is not JSON; this process is left alone\n$/],
      ['null', /is not a JSON object/],
      [{ protocol: 2 }, /speaks protocol 2, this script speaks 1/],
      [{ socket: '' }, /has no string "socket"/],
      [{ slot: -1 }, /has no whole number "slot"/],
      [{ socket: '/x' }, /does not end in \.sock/],
      [{ tag: 'é' }, /"tag"/],
    ];
    for (const [value, warning] of cases) {
      const text = typeof value === 'object' ? JSON.stringify({ ...proxy.settings, ...value }) : value;
      const worker = proxy.run(app, { env: { PINGORA_UNIX_PROXY_WORKER: text } });
      assert.equal(await worker.printed('at'), '127.0.0.3 undefined');
      await worker.ended;
      if (warning === '') assert.equal(worker.err, '');
      else assert.match(worker.err, warning);
      assert.equal(worker.err.split('\n').length, warning === '' ? 1 : 2, 'one warning');
    }
    assert.equal(proxy.peers.length, 0);
  });
});

describe('started by', { concurrency: 3 }, () => {
  const app = (name) => path.join(here, 'apps', name);
  const starts = {
    'node, an ES module': [process.execPath, app('app.mjs')],
    'npm start': ['npm', '--prefix', app('npm'), 'start', '--silent'],
    'tsx, a TypeScript ES module': [process.execPath, path.join(here, 'node_modules/tsx/dist/cli.mjs'), app('app.mts')],
    'tsx, by its name': [path.join(here, 'node_modules/.bin/tsx'), app('app.cts')],
    'node --import tsx': [process.execPath, '--import', 'tsx', app('app.mts')],
  };
  for (const [name, command] of Object.entries(starts)) {
    it(name, async (t) => {
      if (name.includes('--import') && parseInt(process.versions.node, 10) < 20) return t.skip('needs Node 20');
      const proxy = await Proxy.start(t);
      const worker = proxy.spawn(command);
      assert.equal((await proxy.main()).path, proxy.socket);
      const said = JSON.parse((await proxy.get({ headers: { 'x-real-ip': '192.0.2.44' } })).body);
      assert.deepEqual(said, { address: '192.0.2.44', port: 3000, send: 'function', title: 'app: slot 0' });
      // The app's messages come from the app's own process, not from the runner.
      const ready = await proxy.said('ready');
      assert.equal(proxy.peers.length, 1);
      assert.ok(proxy.peers[0].lines.includes(ready));
      assert.equal(worker.err, '');
      process.kill(proxy.peers[0].hello.pid, 'SIGKILL');
      await worker.ended;
    });
  }
});
