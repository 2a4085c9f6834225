// The graceful stop, and the endpoints that tell of it.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import http from 'node:http';
import test from 'node:test';
import { promisify } from 'node:util';
import { Polling } from './lib/engineio.mjs';
import { Raw, request } from './lib/http.mjs';
import { BIN, configure, freePort, needsProxy, withProxy } from './lib/proxy.mjs';
import { refuse, succeed } from './lib/steer.mjs';
import { open } from './lib/upgrade.mjs';
import { range, sleep, until, within } from './lib/wait.mjs';

const execute = promisify(execFile);
const options = { timeout: 60_000, ...needsProxy };
const life = (habits, more = {}) => ({ script: './life.js', ...more, env: { HABITS: habits, ...more.env } });
const terminate = (proxy, signal = 'SIGTERM') => process.kill(proxy.child.pid, signal);
const ended = (proxy, timeout = 20_000) => within(timeout, 'the end', proxy.exit);

/** A request whose body comes in pieces, `gap` ms apart. */
function slowUpload(port, pieces, gap) {
  return new Promise((resolve, reject) => {
    const req = http.request({ host: '127.0.0.1', port, path: '/upload', method: 'POST', agent: false }, res => {
      let text = '';
      res.on('data', data => (text += data));
      res.on('aborted', () => reject(new Error('cut')));
      res.on('end', () => resolve({ status: res.statusCode, ...JSON.parse(text) }));
    });
    req.on('error', reject);
    (async () => {
      for (const _ of range(pieces)) {
        req.write(Buffer.alloc(1000, 'x'));
        await sleep(gap);
      }
      req.end();
    })();
  });
}

/** Reads slowly; resolves with how many bytes came. */
function slowDownload(port, kib) {
  return new Promise((resolve, reject) => {
    http.get({ host: '127.0.0.1', port, path: `/big?kib=${kib}`, agent: false }, res => {
      let bytes = 0;
      res.on('data', data => {
        bytes += data.length;
        res.pause();
        setTimeout(() => res.resume(), 10);
      });
      res.on('aborted', () => reject(new Error(`cut after ${bytes}`)));
      res.on('end', () => resolve(bytes));
    }).on('error', reject);
  });
}

test('SIGTERM under load: every request in flight completes, each WebSocket gets a close frame', options, t =>
  withProxy({
    apps: { http: { script: './http.js', instances: 2 }, ws: { script: './ws.js' }, sio: { script: './sio.js' } },
    routes: [{ app: 'http' }, { path: '/ws', app: 'ws' }, { path: '/socket.io', app: 'sio' }],
  }, { ready: { path: '/slow?ms=0' } }, async proxy => {
    const { port } = proxy;
    await until(async () => (await request(port, { path: '/socket.io/?EIO=4&transport=polling' })).status === 200, { what: 'Socket.IO' });
    const sockets = await Promise.all(range(100).map(() => open(port)));
    const closes = sockets.map(socket => new Promise(resolve => socket.once('close', (code, reason) => resolve({ code, reason: String(reason) }))));
    sockets.forEach(socket => socket.on('error', () => {}));
    const polls = await Promise.all(range(10).map(async () => {
      const polling = new Polling(port);
      await polling.handshake();
      await polling.event('hello').catch(() => {});
      return { answer: polling.send('GET').then(answer => answer.status, error => error.message) };
    }));
    const agent = new http.Agent({ keepAlive: true, maxSockets: 20 });
    let going = true;
    const count = { done: 0, refused: 0 };
    const bad = [];
    const steady = range(20).map(async () => {
      while (going) {
        try {
          const answer = await request(port, { path: '/slow?ms=5', agent });
          if (answer.status === 200) count.done++;
          else bad.push(answer.status);
        } catch (error) {
          if (error.code === 'ECONNREFUSED') return count.refused++;
          bad.push(error.code ?? error.message);
        }
      }
    });
    const slow = range(20).map(() => request(port, { path: '/slow?ms=1500' }).then(answer => answer.status));
    const uploads = range(10).map(() => slowUpload(port, 30, 50));
    const downloads = range(10).map(() => slowDownload(port, 3000));
    const idle = await Raw.connect(port);
    idle.write('GET /slow?ms=0 HTTP/1.1\r\nHost: x\r\n\r\n');
    await idle.through('slow');
    // The first half of a head has come.
    const half = await Raw.connect(port);
    half.write('GET /slow?ms=0 HTTP/1.1\r\nHo');
    await until(() => count.done > 100, { what: () => `100 requests to be done: ${count.done}, ${bad}` });
    const began = performance.now();
    terminate(proxy);
    await sleep(200);
    half.write('st: x\r\n\r\n');
    assert.deepEqual(await Promise.all(slow), range(20).map(() => 200));
    for (const upload of await Promise.all(uploads)) assert.deepEqual([upload.status, upload.bytes], [200, 30_000]);
    for (const bytes of await Promise.all(downloads)) assert.equal(bytes, 3000 * 1024);
    await half.through('slow');
    going = false;
    await Promise.all(steady);
    // A keep-alive connection that the server closes while a request is on its way is the client's to repeat.
    const races = bad.filter(what => what === 'ECONNRESET').length;
    t.diagnostic(`${count.done} keep-alive requests done, ${races} met a closing connection, ${count.refused} clients refused`);
    assert.deepEqual(bad.filter(what => what !== 'ECONNRESET'), []);
    assert.ok(races <= 2, `${races} requests were reset`);
    assert.deepEqual([...new Set((await Promise.all(closes)).map(({ code }) => code))], [1001]);
    const polled = await Promise.all(polls.map(({ answer }) => answer));
    t.diagnostic(`waiting polls were answered with ${[...new Set(polled)]}`);
    for (const answer of polled) assert.ok([200, 502, 503].includes(answer), `a poll was answered: ${answer}`);
    await until(() => idle.ended, { what: 'the end of the idle connection' });
    half.destroy();
    idle.destroy();
    agent.destroy();
    assert.deepEqual(await ended(proxy), { code: 0, signal: null });
    t.diagnostic(`gone after ${Math.round(performance.now() - began)} ms`);
  }));

test('idle, it is gone in a moment', options, async t => {
  const times = [];
  for (const _ of range(3)) {
    await withProxy({ apps: { a: life('', { instances: 2 }) } }, async proxy => {
      const idle = await Promise.all(range(50).map(() => Raw.connect(proxy.port)));
      for (const raw of idle) raw.write('GET /pid HTTP/1.1\r\nHost: x\r\n\r\n');
      await Promise.all(idle.map(raw => raw.through('\r\n\r\n')));
      const began = performance.now();
      terminate(proxy);
      assert.deepEqual(await ended(proxy), { code: 0, signal: null });
      times.push(Math.round(performance.now() - began));
      idle.forEach(raw => raw.destroy());
    });
  }
  t.diagnostic(`exit after ${times.join(', ')} ms`);
  // Under a second on a machine that has nothing else to do.
  assert.ok(Math.min(...times) < 3000, `${times} ms`);
});

test('pre_stop_delay: not ready at once, served on with Connection: close, then refused', options, async () => {
  const health = await freePort();
  await withProxy({ apps: { a: life('') }, health: { address: `127.0.0.1:${health}` }, shutdown: { pre_stop_delay: '1500ms' } }, async proxy => {
    const agent = new http.Agent({ keepAlive: true });
    const before = await request(proxy.port, { path: '/pid', agent });
    assert.notEqual(before.headers.connection, 'close');
    assert.equal((await request(health, { path: '/readyz' })).status, 200);
    const began = performance.now();
    terminate(proxy);
    const stopping = await until(async () => {
      const answer = await request(health, { path: '/readyz' });
      return answer.status === 503 && answer;
    }, { timeout: 1000, every: 5, what: 'readyz to say 503' });
    assert.ok(performance.now() - began < 1000);
    assert.equal(stopping.text, 'the proxy stops\n');
    assert.equal((await request(health, { path: '/livez' })).status, 200);
    let served = 0;
    while (performance.now() - began < 1200) {
      for (const how of [{ agent }, {}]) {
        const answer = await request(proxy.port, { path: '/pid', ...how });
        assert.equal(answer.status, 200);
        assert.equal(answer.headers.connection, 'close');
        served++;
      }
    }
    assert.ok(served > 4);
    await until(async () => await request(proxy.port, { path: '/pid' }).then(() => false, error => error.code === 'ECONNREFUSED'), { what: 'connections to be refused' });
    assert.ok(performance.now() - began > 1300);
    assert.deepEqual(await ended(proxy), { code: 0, signal: null });
    agent.destroy();
  });
});

test('a second signal cuts pre_stop_delay and requests short', options, () =>
  withProxy({ apps: { a: life('') }, shutdown: { pre_stop_delay: '1m' } }, async proxy => {
    const hanging = request(proxy.port, { path: '/slow?ms=60000', timeout: 60_000 }).then(a => a.status, error => error.code);
    await sleep(200);
    terminate(proxy);
    await proxy.line(/stopping; once more stops at once/);
    await sleep(200);
    assert.equal(proxy.ended, undefined);
    const began = performance.now();
    terminate(proxy, 'SIGINT');
    assert.deepEqual(await ended(proxy, 8000), { code: 0, signal: null });
    assert.ok(performance.now() - began < 8000);
    await hanging;
  }));

test('a second before shutdown.limit all that is left is ended', options, () =>
  withProxy({ apps: { a: life('stubborn', { drain_timeout: '1m', stop_timeout: '1m' }) }, shutdown: { limit: '3s' } }, async proxy => {
    await proxy.line(/a stop may take 2m .*shutdown.limit is 3s/);
    const hanging = request(proxy.port, { path: '/slow?ms=60000', timeout: 60_000 }).then(a => a.status, error => error.code);
    await sleep(200);
    const began = performance.now();
    terminate(proxy);
    assert.deepEqual(await ended(proxy, 10_000), { code: 0, signal: null });
    const took = performance.now() - began;
    assert.ok(took > 1800 && took < 8000, `${took} ms`);
    await hanging;
  }));

test('a request that waits for a worker at the stop is answered with 503', options, () =>
  withProxy({ apps: { a: { script: './never.js', stop_timeout: '500ms', queue: { timeout: '30s' } } } }, { ready: false }, async proxy => {
    await until(() => Raw.connect(proxy.port).then(raw => !raw.destroy()), { what: 'it to listen' });
    const waiting = request(proxy.port, { timeout: 30_000 });
    await sleep(300);
    terminate(proxy);
    assert.equal((await within(5000, 'the answer', waiting)).status, 503);
    assert.deepEqual(await ended(proxy), { code: 0, signal: null });
  }));

test('a stop as soon as the process has begun, in every moment of its start', options, async () => {
  for (const wait of [20, 40, 60, 90, 130, 180, 250, 350]) {
    await withProxy({ apps: { a: life('', { instances: 2 }) } }, { ready: false }, async proxy => {
      // Nothing is started before the sockets are open, and by then signals are ours.
      await proxy.line(/listening on/);
      await sleep(wait - 20);
      terminate(proxy);
      assert.deepEqual(await ended(proxy), { code: 0, signal: null }, `after ${wait} ms`);
    });
  }
});

test('a stop while a reload is under way', options, () =>
  withProxy(proxy => ({ apps: { a: life('', { env: { N: '1' }, instances: 2 }) } }), async proxy => {
    configure(proxy, { apps: { a: { script: './never.js', instances: 2, stop_timeout: '500ms', env: { N: '2' } } } });
    terminate(proxy, 'SIGHUP');
    await until(() => proxy.workerProcesses().some(p => p.command.includes('never.js')), { what: 'a worker of the new generation' });
    terminate(proxy);
    assert.deepEqual(await ended(proxy), { code: 0, signal: null });
  }));

test('an upgrade that is asked for during a stop is refused', options, () =>
  withProxy({ apps: { a: life('') }, shutdown: { pre_stop_delay: '2s' } }, async proxy => {
    terminate(proxy);
    await proxy.line(/stopping; once more stops at once/);
    const { code, err } = await proxy.upgrade();
    assert.equal(code, 1);
    assert.match(err, /the proxy is stopping, and hands over to nobody/);
    terminate(proxy, 'SIGQUIT');
    await proxy.line(/SIGQUIT: the proxy is stopping/);
    assert.deepEqual(await ended(proxy), { code: 0, signal: null });
  }));

test('/livez, /readyz and /startupz, and the command for them', options, async () => {
  const health = await freePort();
  await withProxy(proxy => ({
    apps: {
      good: life(''),
      late: life('ready-by-flag', { wait_ready: true, env: { FLAG: proxy.file('flag') } }),
    },
    routes: [{ app: 'good' }, { path: '/late', app: 'late' }],
    health: { address: `127.0.0.1:${health}` },
  }), {}, async proxy => {
    const ask = async (what, more = {}) => {
      const { status, text } = await request(health, { path: what, ...more });
      return [status, text];
    };
    assert.deepEqual(await ask('/livez'), [200, 'ok\n']);
    const [status, text] = await ask('/readyz');
    assert.equal(status, 503);
    assert.match(text, /^late: 0 of 1 worker ready/);
    assert.deepEqual(await ask('/readyz?app=good'), [200, 'ok\n']);
    assert.equal((await ask('/readyz?app=none'))[0], 404);
    assert.equal((await ask('/startupz'))[0], 503);
    assert.equal((await ask('/nothing'))[0], 404);
    assert.equal((await ask('/livez', { method: 'POST' }))[0], 405);
    assert.deepEqual(await ask('/livez', { method: 'HEAD' }), [200, '']);
    assert.match((await refuse(proxy, ['health'])).err, /late: 0 of 1 worker ready/);
    await succeed(proxy, ['health', '--live']);
    proxy.file('flag', '');
    await until(async () => (await ask('/readyz'))[0] === 200, { what: 'readiness' });
    assert.deepEqual(await ask('/startupz'), [200, 'ok\n']);
    const [, verbose] = await ask('/readyz?verbose');
    assert.equal(verbose, 'ok\n[+] good: 1 of 1 worker ready\n[+] late: 1 of 1 worker ready\n[+] supervisor\n');
    const json = await request(health, { path: '/readyz', headers: { accept: 'application/json' } });
    assert.deepEqual([json.json.ok, json.json.apps.map(app => app.name)], [true, ['good', 'late']]);
    await succeed(proxy, ['health']);
    await succeed(proxy, ['health', '--startup']);
    // Without the address of health, by the socket for commands.
    assert.deepEqual(await execute(BIN, ['health', '--ready', '--runtime-dir', proxy.runtime]), { stdout: 'ok\n', stderr: '' });
    await assert.rejects(execute(BIN, ['health', '--runtime-dir', proxy.file('none')]), { code: 1, stdout: '' });
  });
});
