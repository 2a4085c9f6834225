import assert from 'node:assert/strict';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import { describe, it } from 'node:test';
import { Proxy, here, until } from './harness.mjs';

const LISTEN = `const server = require('http').createServer((q, s) => s.end('ok')); server.listen(3000);`;

describe('the control channel', { concurrency: 4 }, () => {
  it('carries statistics every second', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.run(`${LISTEN} process.on('SIGUSR2', () => { const end = Date.now() + 300; while (Date.now() < end); });`);
    await proxy.main();
    const socket = net.connect(proxy.socket);
    await proxy.said('stats', (line) => line.sockets === 1);
    socket.destroy();
    const idle = await proxy.said('stats', (line) => line.sockets === 0);
    assert.deepEqual(Object.keys(idle), ['type', 'elu', 'lag_ms', 'rss', 'heap_used', 'sockets', 'sessions']);
    assert.ok(idle.elu >= 0 && idle.elu <= 1 && idle.rss > 1e7 && idle.heap_used > 1e6 && idle.sessions === 0);
    process.kill(proxy.peers[0].hello.pid, 'SIGUSR2');
    const busy = await proxy.said('stats', (line) => line.lag_ms > 200);
    assert.ok(busy.elu > 0.2, JSON.stringify(busy));
    const after = proxy.lines('stats').length;
    await until('an idle second', () =>
      proxy
        .lines('stats')
        .slice(after)
        .some((line) => line.lag_ms < 100),
    );
  });

  it('is redialled, and tells all again', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`${LISTEN} process.send('ready');
      process.on('SIGUSR2', () => process.send({ while: 'away' }, (error) => console.log('sent', error)));`);
    await proxy.said('ready');
    await proxy.said('path');
    await proxy.shut();
    proxy.peers.length = 0;
    // Still served; and by then the worker has seen the end of its connection.
    assert.equal((await proxy.get()).body, 'ok');
    process.kill(worker.pid, 'SIGUSR2');
    assert.equal((await proxy.get()).body, 'ok');
    assert.ok(!worker.out.includes('sent'));
    await proxy.open();
    const [peer] = await until('a new connection', () => proxy.peers.length > 0 && proxy.peers);
    await proxy.said('message', (line) => line.data.while === 'away');
    assert.deepEqual(
      peer.lines.map((l) => l.type).filter((type) => type !== 'stats'),
      ['hello', 'engine', 'path', 'ready', 'message'],
    );
    assert.equal(peer.all('path')[0].main, true);
    assert.equal(await worker.printed('sent'), 'null');
    assert.equal(worker.err, '');
  });

  it('leaves an app alive until its stop signal has come', async (t) => {
    const proxy = await Proxy.start(t);
    const apps = {
      handles: `process.on('SIGTERM', () => { console.log('saved state'); process.exitCode = 7; });`,
      'handles once': `process.once('SIGTERM', () => { console.log('saved state'); process.exitCode = 7; });`,
      // What it asks for is that the signal ends it at once.
      'handled until it was told to end': `const handler = () => {}; process.on('SIGTERM', handler);
        process.on('message', () => setTimeout(() => process.removeListener('SIGTERM', handler), 20));`,
      // Nothing to wait for.
      'does not handle': '',
    };
    const ends = {};
    for (const [name, code] of Object.entries(apps)) {
      const worker = proxy.run(`${LISTEN} ${code}`);
      const peer = await until('the worker', () =>
        proxy.peers.find((p) => p.hello?.pid === worker.pid && p.all('path')[0]),
      );
      peer.say({ type: 'shutdown' });
      await until('its servers to close', () => peer.all('closed').length > 0 || worker.exit);
      // As the proxy does it.
      await new Promise((resolve) => setTimeout(resolve, 100));
      if (worker.exit === null) process.kill(worker.pid, 'SIGTERM');
      ends[name] = { ...(await worker.ended), out: worker.out };
    }
    assert.deepEqual(ends, {
      handles: { code: 7, signal: null, out: 'saved state\n' },
      'handles once': { code: 7, signal: null, out: 'saved state\n' },
      'handled until it was told to end': { code: null, signal: 'SIGTERM', out: '' },
      'does not handle': { code: 0, signal: null, out: '' },
    });
  });

  it('says nothing but hello before the welcome', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.answer = null;
    proxy.run(`${LISTEN} process.send('ready'); process.send({ a: 1 });`);
    await until('hello', () => proxy.peers[0]?.hello);
    await until('the server', async () => (await proxy.get().catch(() => null))?.status === 200);
    assert.equal(proxy.peers[0].lines.length, 1);
    // Unknown words, broken lines and halves of characters change nothing.
    const bytes = Buffer.from('{"type":"news"}\nnonsense\n[]\nnull\n\n{"type":"welcome","x":"ü"}\n');
    proxy.peers[0].socket.write(bytes.subarray(0, -4));
    await new Promise((resolve) => setTimeout(resolve, 20));
    proxy.peers[0].socket.write(bytes.subarray(-4));
    await proxy.said('path');
    await proxy.said('message');
  });

  it('is not dialled again after a refusal', async (t) => {
    const proxy = await Proxy.start(t, { orphan_ms: 200 });
    proxy.answer = { type: 'refused', reason: 'wrong token' };
    const worker = proxy.run(`${LISTEN} process.on('message', () => {});
      process.on('SIGUSR2', () => process.send({}, (e) => console.log('error', e && e.message)));`);
    await until('the end', () => proxy.peers[0]?.closed);
    await new Promise((resolve) => setTimeout(resolve, 600));
    assert.equal(proxy.peers.length, 1);
    assert.equal((await proxy.get()).body, 'ok');
    process.kill(worker.pid, 'SIGUSR2');
    assert.match(await worker.printed('error'), /takes no messages/);
  });

  it('ends an orphan with SIGTERM', async (t) => {
    const proxy = await Proxy.start(t, { orphan_ms: 400 });
    const worker = proxy.run(`${LISTEN} process.on('SIGTERM', () => { console.log('term yes'); process.exit(7); });`);
    await proxy.main();
    await proxy.shut();
    const from = Date.now();
    assert.deepEqual(await worker.ended, { code: 7, signal: null });
    assert.ok(Date.now() - from >= 350, 'not before its time');
    assert.equal(worker.out, 'term yes\n');
    assert.equal(worker.err, '');
  });

  it('ends an orphan that ignores SIGTERM with exit code 0', async (t) => {
    const proxy = await Proxy.start(t, { orphan_ms: 100 });
    const worker = proxy.run(`${LISTEN} process.on('SIGTERM', () => {});`);
    await proxy.main();
    await proxy.shut();
    assert.deepEqual(await worker.ended, { code: 0, signal: null });
  });

  it('ends an orphaned cluster, its primary too', async (t) => {
    const proxy = await Proxy.start(t, { orphan_ms: 300 });
    const worker = proxy.spawn([process.execPath, path.join(here, 'apps/cluster.cjs')]);
    await proxy.main();
    await proxy.shut();
    assert.deepEqual(await worker.ended, { code: null, signal: 'SIGTERM' });
  });

  it('bounds what it reads', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`${LISTEN} process.on('message', (m) => console.log('got', m.length));`);
    await proxy.main();
    proxy.peers[0].say({ type: 'message', data: 'x'.repeat(1024 * 1024 - 100) });
    assert.equal(await worker.printed('got'), String(1024 * 1024 - 100));
    proxy.peers[0].say('y'.repeat(3 * 1024 * 1024));
    await until('a new connection', () => proxy.peers[1]?.hello);
    assert.equal((await proxy.get()).body, 'ok');
    assert.equal(worker.err, '');
  });

  it('bounds what waits, dropping the oldest', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.answer = null;
    const worker = proxy.run(`
      const count = { sent: 0, lost: 0 };
      for (let n = 0; n < 1500; n++) process.send({ n }, (error) => { count[error ? 'lost' : 'sent']++; });
      let cyclic = {}; cyclic.cyclic = cyclic;
      const errors = [];
      process.send(cyclic, (e) => errors.push(e.constructor.name));
      process.send('x'.repeat(2e6), null, {}, (e) => errors.push(e.message.slice(0, 10)));
      process.send(undefined, undefined, (e) => errors.push(e.constructor.name));
      process.send(cyclic); process.send(); process.send(() => 1); process.send(1n);
      setTimeout(() => console.log('lost', JSON.stringify([count.lost, errors])), 50);
      ${LISTEN}
      process.on('SIGUSR2', () => console.log('count', JSON.stringify(count)));`);
    const [lost, errors] = JSON.parse(await worker.printed('lost'));
    assert.deepEqual(errors, ['TypeError', 'message of', 'TypeError']);
    assert.equal(lost, 500);
    proxy.peers[0].say({ type: 'welcome' });
    await until('the last', () => proxy.lines('message').some((l) => l.data.n === 1499));
    const numbers = proxy.lines('message').flatMap((l) => l.data.n);
    assert.deepEqual([numbers.length, numbers[0], numbers.at(-1)], [1000, 500, 1499]);
    process.kill(worker.pid, 'SIGUSR2');
    assert.equal(await worker.printed('count'), '{"sent":1000,"lost":500}');
    assert.equal(worker.err, '');
  });

  it('waits for a proxy that does not read', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`${LISTEN}
      process.on('message', async () => {
        let lost = 0;
        for (let n = 0; n < 60; n++) process.send('x'.repeat(100000), (e) => { if (e) lost++; });
        setTimeout(() => console.log('lost', lost, process.memoryUsage.rss() < 2e8), 50);
      });`);
    await proxy.main();
    proxy.peers[0].socket.pause();
    proxy.peers[0].say({ type: 'message', data: 'go' });
    const [lost, small] = (await worker.printed('lost')).split(' ');
    assert.ok(lost > 30 && lost < 60 && small === 'true', lost);
    proxy.peers[0].socket.resume();
    await until('the rest', () => proxy.lines('message').length === 60 - lost);
  });
});

describe('process.send', { concurrency: 4 }, () => {
  it('works as an IPC channel does', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`
      console.log('before', process.connected, process.send('early'));
      ${LISTEN}
      process.on('message', (m, handle) => {
        console.log('got', JSON.stringify(m), handle, Buffer.isBuffer(m.b) && m.b.toString());
        process.send({ echo: m, bytes: new Uint8Array([1, 2]).buffer, at: new Date(0) });
        throw new Error('the own error of the app');
      });
      process.on('uncaughtException', (e) => console.log('caught', e.message));`);
    await proxy.main();
    assert.equal(await worker.printed('before'), 'true true');
    await proxy.said('message', (l) => l.data === 'early');
    const [peer] = proxy.peers;
    peer.say(
      '{"type":"message","data":{"b":{"$buffer":"aGk="},"o":{"$buffer":[{"$buffer":[1]}]}}}\n{"type":"message","data":2}\n',
    );
    const text = '{"b":{"type":"Buffer","data":[104,105]},"o":{"$buffer":{"$buffer":1}}} undefined hi';
    assert.equal(await worker.printed('got'), text);
    const { data } = await proxy.said('message', (l) => l.data.echo);
    assert.deepEqual(data, {
      echo: { b: { $buffer: 'aGk=' }, o: { $buffer: [{ $buffer: [1] }] } },
      bytes: { $buffer: 'AQI=' },
      at: '1970-01-01T00:00:00.000Z',
    });
    await proxy.said('message', (l) => l.data.echo === 2);
    assert.equal(await worker.printed('caught'), 'the own error of the app');
  });

  it('holds the process while someone listens, and not after disconnect()', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`
      process.on('message', (m) => m === 'close' ? server.close(() => console.log('closed yes')) : process.disconnect());
      process.on('disconnect', () => console.log('disconnected', process.connected, process.send(1, (e) => console.log('code', e.code))));
      ${LISTEN}`);
    await proxy.main();
    proxy.peers[0].say({ type: 'message', data: 'close' });
    await worker.printed('closed');
    const before = proxy.lines('stats').length;
    await until('a sign of life', () => proxy.lines('stats').length > before);
    assert.equal(worker.exit, null);
    proxy.peers[0].say({ type: 'message', data: 'go' });
    assert.equal(await worker.printed('disconnected'), 'false false');
    assert.equal(await worker.printed('code'), 'ERR_IPC_CHANNEL_CLOSED');
    assert.deepEqual(await worker.ended, { code: 0, signal: null });
  });

  it('does not hold a process without listeners', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`${LISTEN} process.once('message', () => server.close());`);
    await proxy.main();
    proxy.peers[0].say({ type: 'message', data: 'close' });
    assert.deepEqual(await worker.ended, { code: 0, signal: null });
  });

  it('of a real parent is left alone', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(
      `${LISTEN} process.on('message', (m) => process.send({ echo: m })); process.send('ready');`,
      { ipc: true },
    );
    await proxy.main();
    assert.equal(proxy.peers[0].hello.messages, false);
    proxy.peers[0].say({ type: 'message', data: 'from the proxy' });
    worker.child.send('from the parent');
    await until('the answer', () => worker.messages.length === 2);
    assert.deepEqual(worker.messages, ['ready', { echo: 'from the parent' }]);
    await proxy.said('stats');
    assert.deepEqual(proxy.lines('ready').concat(proxy.lines('message')), []);
  });

  it('of a launcher passes on what the app tells it', async (t) => {
    const proxy = await Proxy.start(t);
    const child = `${LISTEN.replace(');`', '')} process.send('ready'); process.on('message', (m) => console.log('got', m));`;
    const worker = proxy.run(`
      const child = require('child_process').spawn(process.execPath, ['-e', ${JSON.stringify(child)}],
        { stdio: ['inherit', 'inherit', 'inherit', 'ipc'] });
      child.on('message', (m) => process.send(m));
      process.on('message', (m) => child.send(m));`);
    await proxy.main();
    await proxy.said('ready');
    assert.equal(proxy.peers.length, 2);
    const parent = proxy.peers.find((p) => p.hello.messages);
    assert.equal(parent.hello.pid, worker.pid);
    assert.ok(parent.all('ready').length === 1 && parent.all('path').length === 0);
    parent.say({ type: 'message', data: 'hello' });
    assert.equal(await worker.printed('got'), 'hello');
  });
});

describe('shutdown', { concurrency: 4 }, () => {
  it('tells the app, finishes requests and lets the process end', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = proxy.run(`
      process.on('message', (m) => { if (m === 'shutdown') console.log('told yes'); });
      const server = require('http').createServer((q, s) => {
        s.write('begin'); if (q.url === '/slow') process.on('SIGUSR2', () => s.end(' end')); else s.end(); });
      server.listen(3000);`);
    await proxy.main();
    const agent = new http.Agent({ keepAlive: true });
    await proxy.get({ agent });
    const slow = proxy.get({ path: '/slow', agent: new http.Agent({ keepAlive: true }) });
    await proxy.said('stats', (line) => line.sockets === 2);
    proxy.peers[0].say({ type: 'shutdown' });
    await worker.printed('told');
    await proxy.said('closed');
    await assert.rejects(proxy.get(), /ENOENT|ECONNREFUSED/);
    process.kill(worker.pid, 'SIGUSR2');
    assert.equal((await slow).body, 'begin end');
    agent.destroy();
    assert.deepEqual(await worker.ended, { code: 0, signal: null });
    assert.equal(worker.err, '');
  });

  it("makes the app's own close() succeed, before or after ours", async (t) => {
    for (const wait of [0, 200]) {
      const proxy = await Proxy.start(t);
      const worker = proxy.run(`${LISTEN}
        process.on('message', (m) => setTimeout(() => server.close((error) => {
          console.log('closed', String(error));
          server.close((again) => { console.log('again', again.code); process.exit(3); });
        }), ${wait}));`);
      await proxy.main();
      proxy.peers[0].say({ type: 'shutdown' });
      assert.equal(await worker.printed('closed'), 'undefined');
      assert.equal(await worker.printed('again'), 'ERR_SERVER_NOT_RUNNING');
      assert.deepEqual(await worker.ended, { code: 3, signal: null });
    }
  });

  it('leaves WebSockets to the proxy', async (t) => {
    const proxy = await Proxy.start(t);
    proxy.run(`const server = require('http').createServer();
      server.on('upgrade', (q, s) => { s.write('HTTP/1.1 101 x\\r\\n\\r\\n'); s.pipe(s); }); server.listen(3000);`);
    await proxy.main();
    const socket = net.connect(proxy.socket);
    t.after(() => socket.destroy());
    let text = '';
    socket.setEncoding('latin1').on('data', (more) => (text += more));
    socket.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n');
    await until('101', () => text.includes('101'));
    proxy.peers[0].say({ type: 'shutdown' });
    await proxy.said('closed');
    socket.write('still there');
    await until('the echo', () => text.includes('still there'));
  });
});
