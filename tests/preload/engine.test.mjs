// Where a worker says that Engine.IO serves: only there a session id in a query may be one.
import assert from 'node:assert/strict';
import path from 'node:path';
import { describe, it } from 'node:test';
import { Proxy, here, request, until } from './harness.mjs';

/** Waits until the worker's last word is this. */
async function serves(proxy, paths) {
  const last = () => proxy.lines('engine').at(-1)?.paths;
  const seen = () => `${paths.join()}; said ${JSON.stringify(proxy.lines('engine'))}${proxy.workers[0].err}`;
  await until(seen, () => JSON.stringify(last()) === JSON.stringify(paths));
}

const handshake = (proxy, base) => proxy.get({ path: `${base}?EIO=4&transport=polling` });

const SOCKET_IO = {
  'socket.io 1': `require('socket.io-1')(http, OPTIONS)`,
  'socket.io 2': `require('socket.io-2')(http, OPTIONS)`,
  'socket.io 3': `require('socket.io-3')(http, OPTIONS)`,
  'socket.io 4': `new (require('socket.io').Server)(http, OPTIONS)`,
};
const ENGINE_IO = {
  'engine.io 1': `require(ROOT + 'socket.io-1/node_modules/engine.io')`,
  'engine.io 3': `require(ROOT + 'socket.io-2/node_modules/engine.io')`,
  'engine.io 4': `require(ROOT + 'socket.io-3/node_modules/engine.io')`,
  'engine.io 6': `require('engine.io')`,
};
const ROOT = `const ROOT = ${JSON.stringify(path.join(here, 'node_modules') + '/')};`;

describe('a worker says where Engine.IO serves', { concurrency: 3 }, () => {
  for (const [name, make] of Object.entries(SOCKET_IO)) {
    for (const [options, served] of [
      ['undefined', '/socket.io/'],
      [`{ path: '/ws/chat' }`, '/ws/chat/'],
      [`{ path: '/ws/' }`, '/ws/'],
    ]) {
      it(`${name} with ${options}, before its first request`, async (t) => {
        const proxy = await Proxy.start(t);
        const worker = proxy.run(
          `const http = require('http').createServer((q, s) => s.writeHead(404).end());
          ${make.replace('OPTIONS', options)}; http.listen(3000);`,
        );
        await proxy.main();
        const types = proxy.peers[0].lines.map((line) => line.type);
        assert.deepEqual(types.slice(0, 3), ['hello', 'engine', 'path']);
        await serves(proxy, [served]);
        assert.equal((await handshake(proxy, '/elsewhere/')).status, 404);
        assert.equal((await handshake(proxy, served)).status, 200);
        await proxy.said('stats', (line) => line.sessions === 1);
        assert.equal(proxy.lines('engine').length, 1);
        assert.equal(worker.err, '');
      });
    }
  }

  for (const [name, make] of Object.entries(ENGINE_IO)) {
    it(`${name}, attached to several paths and by hand`, async (t) => {
      const proxy = await Proxy.start(t);
      const worker = proxy.run(`
        ${ROOT} const http = require('http').createServer(), eio = ${make};
        let engine; const steps = [
          () => eio.attach(http),
          () => (engine = new eio.Server()).attach(http, { path: '/ws' }),
          () => http.on('request', (q, s) => q.url.startsWith('/hand') && engine.handleRequest(q, s)),
        ];
        process.on('SIGUSR2', () => { steps.shift()(); console.log('left', steps.length); });
        http.listen(3000);`);
      await proxy.main();
      await serves(proxy, []);
      process.kill(worker.pid, 'SIGUSR2');
      await serves(proxy, ['/engine.io/']);
      process.kill(worker.pid, 'SIGUSR2');
      await serves(proxy, ['/engine.io/', '/ws/']);
      assert.equal((await handshake(proxy, '/ws/')).status, 200);
      process.kill(worker.pid, 'SIGUSR2');
      await until('all steps', () => worker.out.includes('left 0'));
      assert.equal((await handshake(proxy, '/hand/me')).status, 200);
      await serves(proxy, ['/']);
      assert.equal(worker.err, '');
    });
  }

  const forms = {
    'no slash at the end': [`{ path: '/ws/', addTrailingSlash: false }`, ['/ws']],
    'a path that no request has': [`{ path: 'ws' }`, []],
    'the root': [`{ path: '/' }`, ['/']],
    'any path at all': [`{ path: '/', addTrailingSlash: false }`, ['/']],
    'a long path, shortened': [`{ path: '/' + 'x'.repeat(5000) }`, ['/' + 'x'.repeat(1023)]],
    'characters that an URL encodes': [`{ path: '/chät' }`, ['/ch']],
  };
  for (const [name, [options, paths]] of Object.entries(forms)) {
    it(name, async (t) => {
      const proxy = await Proxy.start(t);
      proxy.run(
        `const http = require('http').createServer(); require('engine.io').attach(http, ${options}); http.listen(3000);`,
      );
      await serves(proxy, paths);
    });
  }

  it('more paths than the proxy takes are any path', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.run(`
      const http = require('http').createServer().setMaxListeners(0), eio = require('engine.io');
      for (let n = 0; n < 65; n++) eio.attach(http, { path: '/' + n });
      http.listen(3000);`);
    await serves(proxy, ['/']);
  });

  it('by hand only, from an upgrade', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`
      const http = require('http').createServer(), engine = new (require('engine.io').Server)();
      http.on('upgrade', (q, s, head) => engine.handleUpgrade(q, s, head));
      http.listen(3000);`);
    await serves(proxy, []);
    const asked = proxy.get({
      path: '/any?EIO=4&transport=websocket',
      headers: {
        connection: 'upgrade',
        upgrade: 'websocket',
        'sec-websocket-version': 13,
        'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==',
      },
    });
    asked.catch(() => {});
    await serves(proxy, ['/']);
    assert.equal(worker.err, '');
  });

  it('loaded after the server listens', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`
      const http = require('http').createServer(); http.listen(3000);
      process.on('SIGUSR2', () => new (require('socket.io').Server)(http));`);
    await serves(proxy, []);
    process.kill(worker.pid, 'SIGUSR2');
    await serves(proxy, ['/socket.io/']);
  });

  const modules = {
    'by import': `import { Server } from 'socket.io'; new Server(http);`,
    'by a late import': `const { Server } = await import('socket.io'); new Server(http);`,
    'engine.io by import': `import { Server } from 'engine.io'; new Server().attach(http, { path: '/socket.io' });`,
    'socket.io 2 by import': `import Server from 'socket.io-2'; new Server(http);`,
  };
  for (const [name, code] of Object.entries(modules)) {
    it(name, async (t) => {
      const proxy = await Proxy.start(t);
      proxy.run(`import { createServer } from 'node:http'; const http = createServer(); ${code}; http.listen(3000);`, {
        esm: true,
      });
      await serves(proxy, ['/socket.io/']);
    });
  }

  it('in TypeScript', async (t) => {
    const proxy = await Proxy.start(t);
    const tsx = path.join(here, 'node_modules/tsx/dist/cli.mjs');
    const worker = proxy.spawn([process.execPath, tsx, path.join(here, 'apps/chat.mts')]);
    await serves(proxy, ['/socket.io/']);
    process.kill(proxy.peers[0].hello.pid, 'SIGKILL');
    await worker.ended;
  });

  it('says it again to each proxy, with the sessions that it has', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.run(
      `const http = require('http').createServer(); new (require('socket.io').Server)(http); http.listen(3000);`,
    );
    await proxy.main();
    for (let n = 0; n < 3; n++) await handshake(proxy, '/socket.io/');
    await proxy.shut();
    proxy.peers.length = 0;
    await proxy.open();
    const { paths, sessions } = await proxy.said('engine');
    assert.deepEqual([paths, sessions], [['/socket.io/'], 3]);
  });

  it('is gone with its server', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`
      require('v8').setFlagsFromString('--expose-gc');
      const { createServer } = require('http'), eio = require('engine.io');
      createServer().listen(3000);
      let other = createServer(); eio.attach(other);
      process.on('SIGUSR2', () => { other = null; setImmediate(() => require('vm').runInNewContext('gc')()); });`);
    await serves(proxy, ['/engine.io/']);
    process.kill(worker.pid, 'SIGUSR2');
    await serves(proxy, []);
  });

  it('socket.io in a cluster whose primary listens: its workers dial in, and hear of a drain', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.spawn([process.execPath, path.join(here, 'apps/sticky.cjs')]);
    const main = await proxy.main();
    await until('the worker of the cluster', () =>
      proxy.peers.some((peer) => peer.all('engine').at(-1)?.paths.length === 1),
    );
    const child = proxy.peers.find((peer) => peer.all('engine').at(-1)?.paths.length === 1);
    const opened = await request({ socketPath: main.path, path: '/socket.io/?EIO=4&transport=polling' });
    assert.equal(opened.status, 200);
    const { sid } = JSON.parse(opened.body.slice(1));
    assert.ok(sid.endsWith(proxy.settings.tag), sid);
    const poll = request({ socketPath: main.path, path: `/socket.io/?EIO=4&transport=polling&sid=${sid}` });
    child.say({ type: 'drain', window_ms: 0 });
    const told = await poll;
    assert.equal(told.body.split('\x1e').at(-1), '1', 'the poll is answered with the close packet');
  });
});
