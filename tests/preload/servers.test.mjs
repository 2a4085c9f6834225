// Apps with several servers, in one process or in many: which one the world gets, and where the others are.
import assert from 'node:assert/strict';
import net from 'node:net';
import { describe, it } from 'node:test';
import { Proxy, request, until } from './harness.mjs';

const TEXT = `const http = require('http');
const serve = (text) => http.createServer((q, s) => s.end(text));
const get = (port, host = '127.0.0.1') => new Promise((ok) => http.get({ port, host, agent: false }, (res) => {
  let text = ''; res.on('data', (d) => (text += d)).on('end', () => ok(text)); }).on('error', (e) => ok(e.code)));
const start = (code) => require('child_process').spawn(process.execPath, ['-e', TEXT + code], { stdio: 'inherit' });`;
const CODE = `const TEXT = ${JSON.stringify(TEXT)}; ${TEXT}`;

/** A free port that only this test has. */
const freePort = () =>
  new Promise((resolve) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

const tcp = async (port) => (await request({ port, host: '127.0.0.1', agent: false })).body;
const portLine = (proxy, port, state) => proxy.said('port', (line) => line.port === port && line.state === state);

describe('a server on any port', { concurrency: 3 }, () => {
  it('is for the app itself where there is a server already', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`${CODE}
      const main = serve('main').listen(3000, () => {
        const helper = serve('helper').listen(0, async () => console.log('got', await get(helper.address().port)));
      });`);
    assert.equal(await worker.printed('got'), 'helper');
    assert.equal((await proxy.get()).body, 'main');
    assert.equal(proxy.lines('path').length, 1);
  });

  it('is for the app itself in a process that the app has started, whichever listens first', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`${CODE}
      const helper = "const server = serve('helper').listen(0, () => process.send(server.address().port))";
      const stdio = ['ignore', 'inherit', 'inherit', 'ipc'];
      const child = require('child_process').spawn(process.execPath, ['-e', TEXT + helper], { stdio });
      child.on('message', async (port) => {
        console.log('got', await get(port));
        serve('main').listen(3000);
      });`);
    assert.equal(await worker.printed('got'), 'helper');
    const main = await proxy.main();
    assert.deepEqual([main.port, main.path], [3000, proxy.socket]);
    assert.equal((await proxy.get()).body, 'main');
    assert.equal(proxy.lines('path').length, 1);
  });

  it('is not the main one when another comes, and can be reached by the app', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`${CODE}
      const helper = serve('helper').listen(0, () => serve('main').listen(3000, async () => {
        console.log('got', await get(helper.address().port));
      }));`);
    assert.equal((await proxy.main()).port, 3000);
    assert.equal(await worker.printed('got'), 'helper');
    // Where it would have been promoted by now.
    await proxy.said('stats');
    await until('another second', () => proxy.lines('stats').length >= 3);
    assert.deepEqual(
      proxy.lines('path').filter((line) => line.main),
      [{ type: 'path', path: proxy.socket, port: 3000, main: true, why: 'first' }],
    );
  });

  it('is the main one when no other comes', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.run(`${CODE} serve('alone').listen(0);`);
    const line = await proxy.main();
    assert.deepEqual(line, { type: 'path', path: proxy.socketOf(0), port: null, main: true, why: 'only' });
    assert.equal((await request({ socketPath: line.path })).body, 'alone');
  });
});

describe('a further port', { concurrency: 3 }, () => {
  it('stays on TCP, and can be reached while the main one is led away', async (t) => {
    const proxy = await Proxy.start(t);
    const [main, other] = [await freePort(), await freePort()];
    const worker = proxy.run(`${CODE}
      serve('main').listen(${main});
      const other = http.createServer((q, s) => s.end(JSON.stringify([q.socket.remotePort, q.socket.address(), q.socket.encrypted])));
      other.listen(${other}, '127.0.0.1', async () => {
        console.log('itself', await get(${main}), (await get(${other})).length > 5, await get(${main}, 'localhost'));
      });
      process.on('SIGUSR2', () => other.close());`);
    assert.equal(await worker.printed('itself'), 'main true main');
    assert.deepEqual(await portLine(proxy, other, 'tcp'), { type: 'port', port: other, at: other, state: 'tcp' });
    const [remotePort, address] = JSON.parse(await tcp(other));
    assert.ok(remotePort > 0);
    assert.deepEqual(address, { address: '127.0.0.1', family: 'IPv4', port: other });
    await assert.rejects(tcp(main), { code: 'ECONNREFUSED' });
    process.kill(worker.pid, 'SIGUSR2');
    await proxy.said('closed', (line) => line.port !== main);
    await until('the port to be free', () =>
      tcp(other).then(
        () => false,
        (error) => error.code === 'ECONNREFUSED',
      ),
    );
  });

  it('goes from one worker to the next when it is free', async (t) => {
    const proxy = await Proxy.start(t);
    const port = await freePort();
    const app = (name) => `${CODE} serve('main').listen(3000); serve('${name}').listen(${port}, '127.0.0.1');`;
    const old = proxy.run(app('old'));
    await portLine(proxy, port, 'tcp');
    const settings = { ...proxy.settings, socket: proxy.settings.socket.replace('.7.', '.8.') };
    const next = proxy.run(app('new'), { env: { PINGORA_UNIX_PROXY_WORKER: JSON.stringify(settings) } });
    await portLine(proxy, port, 'taken');
    assert.equal(await tcp(port), 'old');
    await old.stop();
    await until('the next to have it', () => proxy.lines('port').filter((line) => line.state === 'tcp').length === 2);
    assert.equal(await tcp(port), 'new');
    assert.equal(next.err, '');
  });

  it('is for each worker, or for none, as the configuration says', async (t) => {
    const [each, off] = [await freePort(), await freePort()];
    const proxy = await Proxy.start(t, { slot: 2, ports: { [each]: 'each', [off]: 'off' } });
    proxy.run(`${CODE} serve('main').listen(3000); serve('each').listen(${each}); serve('off').listen(${off});`);
    assert.equal((await portLine(proxy, each, 'tcp')).at, each + 2);
    assert.equal(await tcp(each + 2), 'each');
    await portLine(proxy, off, 'off');
    await assert.rejects(tcp(off), { code: 'ECONNREFUSED' });
    assert.equal((await request({ socketPath: proxy.socketOf(off) })).body, 'off');
  });
});

describe('the main server', { concurrency: 3 }, () => {
  const two = `${CODE} serve('metrics').listen(9100, () => setTimeout(() => serve('api').listen(3000), 50));`;
  const rules = {
    'is the one on the port that the configuration names': { settings: { main_port: 3000 }, env: { PORT: '9100' } },
    'is the one on the port that the first worker had': { settings: { settled_port: 3000 } },
    'is the one on PORT before that': { settings: { settled_port: 9100 }, env: { PORT: '3000' } },
  };
  for (const [name, { settings, env }] of Object.entries(rules)) {
    it(name, async (t) => {
      const proxy = await Proxy.start(t, settings);
      proxy.run(two, { env });
      const line = await proxy.main();
      assert.deepEqual([line.port, line.why], [3000, 'port']);
      assert.equal((await request({ socketPath: line.path })).body, 'api');
    });
  }

  it('is no other than the configuration names, however long that takes', async (t) => {
    const proxy = await Proxy.start(t, { main_port: 5000 });
    proxy.run(two);
    await until('three seconds', () => proxy.lines('stats').length >= 3);
    assert.deepEqual(
      proxy.lines('path').map((line) => line.main),
      [false, false],
    );
  });

  it('has plausible addresses at both ends of a connection', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.run(`require('http').createServer((q, s) => {
      const { remotePort, remoteAddress, localPort } = q.socket;
      s.end(JSON.stringify({ remotePort, remoteAddress, localPort, address: q.socket.address() }));
    }).listen(3000, '0.0.0.0')`);
    await proxy.main();
    const [one, other] = [
      JSON.parse((await proxy.get({ agent: false })).body),
      JSON.parse((await proxy.get({ agent: false })).body),
    ];
    assert.ok(one.remotePort > 0 && one.remotePort < 65536 && one.remotePort !== other.remotePort);
    const address = { address: '0.0.0.0', family: 'IPv4', port: 3000 };
    assert.deepEqual(
      { ...one, remotePort: 0 },
      { remotePort: 0, remoteAddress: '127.0.0.1', localPort: 3000, address },
    );
  });

  it("is found under Node's permissions, too", async (t) => {
    const [major] = process.versions.node.split('.').map(Number);
    if (major < 20) return t.skip('Node.js 18 has no permissions');
    const proxy = await Proxy.start(t);
    const option = major >= 24 ? '--permission' : '--experimental-permission';
    const worker = proxy.spawn([
      process.execPath,
      ...[option, '--allow-fs-read=*', '--allow-fs-write=/nowhere', ...(major >= 25 ? ['--allow-net'] : []), '-e'],
      `require('http').createServer((q, s) => s.end('ok')).listen(3000)`,
    ]);
    const main = await proxy.main();
    assert.equal((await request({ socketPath: main.path })).body, 'ok', worker.err);
  });
});

it('a worker thread that listens has a connection of its own', async (t) => {
  const proxy = await Proxy.start(t);
  proxy.run(`${CODE}
    serve('main').listen(3000);
    new (require('worker_threads').Worker)(TEXT + "serve('thread').listen(4000)", { eval: true });`);
  await proxy.said('path', (line) => line.port === 4000);
  const hellos = proxy.peers.map((peer) => peer.hello);
  assert.deepEqual(hellos.map((hello) => [hello.pid === hellos[0].pid, hello.thread > 0]).sort(), [
    [true, false],
    [true, true],
  ]);
});
