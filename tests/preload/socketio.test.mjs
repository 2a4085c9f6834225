import assert from 'node:assert/strict';
import path from 'node:path';
import { describe, it } from 'node:test';
import { Proxy, here, until } from './harness.mjs';

const OWN = `io.engine.generateId`;

/** Handshakes by polling, and gives the sid, whatever the generation's framing. */
async function handshake(proxy, { eio = 4, base = '/socket.io/' } = {}) {
  const { status, body } = await proxy.get({
    path: `${base}?EIO=${eio}&transport=polling&b64=1&t=x`,
    headers: { 'x-real-ip': '203.0.113.7' },
  });
  assert.equal(status, 200, body);
  return JSON.parse(/\{.*?\}(?=\d|$)/.exec(body)[0]).sid;
}

/** Sends a packet on a session: 200 if the worker knows it. */
async function post(proxy, sid, eio) {
  const packet = eio === 3 ? '1:2' : '40';
  const to = `/socket.io/?EIO=${eio}&transport=polling&sid=${sid}`;
  const headers = { 'content-type': 'text/plain;charset=UTF-8' };
  return (await proxy.get({ method: 'POST', path: to, headers, body: packet })).status;
}

const GENERATIONS = [
  ['socket.io-1', 3, `const io = require('socket.io-1')(http);`],
  ['socket.io-2', 3, `const io = require('socket.io-2')(http);`],
  ['socket.io-3', 4, `const io = require('socket.io-3')(http);`],
  ['socket.io', 4, `const io = new (require('socket.io').Server)(http);`],
];

describe('session ids end in the tag', { concurrency: 3 }, () => {
  for (const [name, eio, make] of GENERATIONS) {
    it(`${name}, and the session works`, async (t) => {
      const proxy = await Proxy.start(t);
      const worker = proxy.run(`
        const http = require('http').createServer(); ${make}
        io.on('connection', (s) => console.log('address', s.handshake.address));
        http.listen(3000);`);
      await proxy.main();
      const sids = new Set();
      for (let n = 0; n < 5; n++) sids.add(await handshake(proxy, { eio }));
      assert.equal(sids.size, 5);
      for (const sid of sids) assert.match(sid, /^[\w-]{17}T4g$/);
      if (eio === 3) assert.equal(await worker.printed('address'), '203.0.113.7');
      await proxy.said('stats', (line) => line.sessions === 5);
      const [sid] = sids;
      assert.equal(await post(proxy, sid, eio), 200);
      assert.equal(await post(proxy, 'x'.repeat(17) + 'T4g', eio), 400);
      assert.equal(worker.err, '');
    });
  }

  const modules = {
    'socket.io 4 by import': `import { Server } from 'socket.io'; const io = new Server(http);`,
    'engine.io by import': `import { Server } from 'engine.io'; const io = new Server(); io.attach(http, { path: '/socket.io/' });`,
    'socket.io 2 by import': `import Server from 'socket.io-2'; const io = new Server(http);`,
    'socket.io 4 imported late': `http.listen(3000, async () => {
      const { Server } = await import('socket.io'); new Server(http); console.log('late yes'); });`,
    'engine.io driven by hand, loaded late': `import { createRequire } from 'module'; const require = createRequire(process.cwd() + '/');
      let engine; http.on('request', (q, s) => { engine ??= new (require('engine.io').Server)(); engine.handleRequest(q, s); });`,
  };
  for (const [name, code] of Object.entries(modules)) {
    it(name, async (t) => {
      const proxy = await Proxy.start(t);
      const worker = proxy.run(
        `import { createServer } from 'node:http'; const http = createServer(); ${code}; if (!http.listening) http.listen(3000);`,
        { esm: true },
      );
      await proxy.main();
      if (code.includes('late yes')) await worker.printed('late');
      if (name.includes('by hand')) {
        // Met at the first handshake a second after the last look: until then the proxy learns the owner.
        await until('a tagged sid', async () => (await handshake(proxy)).endsWith('T4g'));
      }
      const eio = name.includes('socket.io 2') ? 3 : 4;
      assert.match(await handshake(proxy, { eio }), /T4g$/, worker.err);
      assert.equal(worker.err, '');
    });
  }

  it('TypeScript as an ES module', async (t) => {
    const proxy = await Proxy.start(t);
    const tsx = path.join(here, 'node_modules/tsx/dist/cli.mjs');
    const worker = proxy.spawn([process.execPath, tsx, path.join(here, 'apps/chat.mts')]);
    await proxy.main();
    assert.match(await handshake(proxy), /T4g$/, worker.err);
    process.kill(proxy.peers[0].hello.pid, 'SIGKILL');
    await worker.ended;
  });

  const own = {
    "an app's own id is left alone": [
      `${OWN} = () => 'own-' + Math.random().toString(36).slice(2, 12) + 'abcd';`,
      /^own-.*abcd$/,
    ],
    "an app's own promise is left alone": [`${OWN} = async () => 'own-' + Date.now() + 'abcd';`, /^own-\d+abcd$/],
    'a prefix to the original': [
      `const old = ${OWN}; ${OWN} = function (q) { return 'eu1.' + old.call(this, q); };`,
      /^eu1\.[\w-]{17}T4g$/,
    ],
    'a later suffix': [`const old = ${OWN}; ${OWN} = function (q) { return old.call(this, q) + 'zz'; };`, /T4gzz$/],
    'an own prototype function': [
      `require('engine.io').Server.prototype.generateId = () => 'proto-abcdefgh' + Date.now();`,
      /^proto-abcdefgh\d+$/,
    ],
  };
  for (const [name, [code, sid]] of Object.entries(own)) {
    it(name, async (t) => {
      const proxy = await Proxy.start(t);
      const worker = proxy.run(`
        const http = require('http').createServer(); const io = new (require('socket.io').Server)(http); ${code}
        http.listen(3000);`);
      await proxy.main();
      assert.match(await handshake(proxy), sid, worker.err);
      await proxy.said('stats', (line) => line.sessions === 1);
    });
  }

  it('stays out of apps without a tag', async (t) => {
    const proxy = await Proxy.start(t, { tag: undefined });
    proxy.run(
      `const http = require('http').createServer(); new (require('socket.io').Server)(http); http.listen(3000);`,
    );
    await proxy.main();
    assert.match(await handshake(proxy), /^[\w-]{20}$/);
  });
});

it('the cluster adapter talks over the control channel, binary data and all', async (t) => {
  const proxy = await Proxy.start(t);
  const other = await Proxy.start(t, { slot: 1, tag: 'T5g' });
  const app = `
    const http = require('http').createServer(), { Server } = require('socket.io');
    const io = new Server(http, { adapter: require('@socket.io/cluster-adapter').createAdapter() });
    io.on('bytes', (b, f, back) => { console.log('bytes', Buffer.isBuffer(b), b.toString(), JSON.stringify(f)); back(Buffer.from('thanks')); });
    http.listen(3000);`;
  const one = proxy.run(`${app}
    process.on('SIGUSR2', () => io.serverSideEmit('bytes', Buffer.from('héllo'), { $buffer: 'no' }, (err, answers) =>
      console.log('answers', err, answers.map((a) => Buffer.isBuffer(a) + ' ' + a).join())));`);
  const two = other.run(app);
  await proxy.main();
  await other.main();
  // The proxy's part: a message goes to the other worker as it is.
  const relay = setInterval(() => {
    const pairs = [
      [proxy, other],
      [other, proxy],
    ];
    for (const [from, to] of pairs) {
      const { lines } = from.peers[0];
      for (const line of lines.splice(0, lines.length)) if (line.type === 'message') to.peers[0].say(line);
    }
  }, 5);
  t.after(() => clearInterval(relay));
  // The adapters find each other by their heartbeats; until then an answer comes from nobody.
  await until('an answer', async () => {
    process.kill(one.pid, 'SIGUSR2');
    await new Promise((resolve) => setTimeout(resolve, 100));
    return one.out.includes('thanks');
  });
  assert.equal(await two.printed('bytes'), 'true héllo {"$buffer":"no"}');
  assert.match(one.out, /^answers null true thanks$/m);
});
