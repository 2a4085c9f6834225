// kill -9 of the proxy: its workers live on, and the next proxy takes them over.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { Polling } from './lib/engineio.mjs';
import { request } from './lib/http.mjs';
import { BIN, alive, apps, needsProxy, withProxy } from './lib/proxy.mjs';
import { python } from './lib/python.mjs';
import { connect } from './lib/sockets.mjs';
import { pooled, range, sleep, until, within } from './lib/wait.mjs';

const interpreter = await python();
const chat = (more = {}) => ({ script: './sio.js', instances: 3, ...more });
const state = proxy => path.join(proxy.runtime, 'state.json');

/** Waits until the proxy has written down as many workers that are ready. */
const written = (proxy, workers) =>
  until(() => existsSync(state(proxy)) && readFileSync(state(proxy), 'utf8').split('"state":"Ready"').length > workers, { what: 'the state file' });

/** Kills the proxy alone. Its exit is then no failure of the test. Its guard still has its stderr. */
async function crash(proxy) {
  process.kill(proxy.child.pid, 'SIGKILL');
  await until(() => proxy.child.ended, { timeout: 5000, what: 'its end' });
}

/** Starts it again with the same file. */
async function again(proxy, ready = {}) {
  proxy.ended = undefined;
  proxy.run(BIN, ['-c', path.join(proxy.dir, 'conf.yaml')]);
  if (ready) await proxy.ready(ready);
}

/** Repeats what fails while nobody listens, as a client that polls does. */
async function patient(what) {
  for (let tries = 0; ; tries++) {
    try {
      return await what();
    } catch (error) {
      if (tries === 400 || !['ECONNREFUSED', 'ECONNRESET', 'EPIPE'].includes(error.code)) throw error;
      await sleep(10);
    }
  }
}

test('kill -9 under load, started again: sessions, pids and counters go on', { timeout: 120_000, ...needsProxy }, t =>
  withProxy({ apps: { chat: chat() } }, async proxy => {
    const first = await proxy.pids(3);
    // One restart, to be seen in the counters later.
    proxy.kill(first[0]);
    await until(async () => (await proxy.pids(1, { not: first })).length, { what: 'its successor' });
    const pids = (await proxy.pids(3, { not: [first[0]] })).sort();
    await written(proxy, 3);

    const sessions = await pooled(range(60), 20, async () => {
      const session = new Polling(proxy.port);
      await session.handshake();
      session.owner = (await session.event('hello')).pid;
      return session;
    });
    const sockets = await pooled(range(30), 10, () =>
      connect(4, proxy.url, { transports: ['websocket'], reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200 }));
    let stop = false;
    const polling = sessions.map(async session => {
      while (!stop) await patient(() => session.poll().then(({ packets }) => packets.includes('2') && session.post('3')));
    });
    const failed = Promise.race(polling);
    await sleep(500); // Every session has a poll that waits.
    for (const client of sockets) client.again = new Promise(resolve => client.socket.on('connect', () => client.socket.once('hello', resolve)));

    const at = performance.now();
    await crash(proxy);
    await sleep(800);
    await again(proxy, { workers: 3 });
    t.diagnostic(`back after ${Math.round(performance.now() - at)} ms`);

    assert.deepEqual((await proxy.pids(3)).sort(), pids, 'the same workers');
    const hellos = await within(20_000, 'WebSocket clients come back', Promise.race([failed, Promise.all(sockets.map(client => client.again))]));
    for (const hello of hellos) assert.ok(pids.includes(hello.pid));
    // Each session answers under its old sid, from its old worker.
    for (const session of sessions) await patient(() => session.post(`42["echo","still here"]`));
    stop = true;
    for (const session of sessions) await patient(() => session.post('42["echo","last"]'));
    await within(40_000, 'polls', Promise.all(polling));
    for (const session of sessions) assert.deepEqual([...session.pids], [session.owner]);
    for (const client of sockets) client.close();

    const saved = JSON.parse(readFileSync(state(proxy), 'utf8'));
    assert.deepEqual(saved.rooms[0].restarts.causes, { Signal: 1 });
    // Exits are seen, though they are no children of ours.
    proxy.kill(pids[0]);
    await proxy.pids(1, { not: pids });
  }));

test('no line of a worker is lost or torn by a crash of the proxy', { timeout: 60_000, ...needsProxy }, () =>
  withProxy(
    proxy => ({
      apps: { talk: { command: ['node', proxy.file('talk.js', TALK)], preload: true, instances: 2 } },
      logs: { output: 'file', path: proxy.file('{app}-{slot}-{stream}.log') },
    }),
    { ready: { path: '/' } },
    async proxy => {
      const lines = slot => {
        const file = proxy.file(`talk-${slot}-out.log`);
        return existsSync(file) ? readFileSync(file, 'utf8').split('\n').filter(Boolean) : [];
      };
      await written(proxy, 2);
      for (const _ of range(2)) {
        const before = lines(0).length;
        await until(() => lines(0).length > before + 200, { what: 'lines' });
        await crash(proxy);
        await sleep(300);
        await again(proxy);
      }
      const before = lines(0).length;
      await until(() => lines(0).length > before + 200, { what: 'lines after the last start' });
      let torn = 0;
      for (const slot of range(2)) {
        const said = lines(slot).map(line => line.slice(line.indexOf(' | ') + 3));
        const numbers = said.map(line => Number(/^line (\d+) end$/.exec(line)?.[1] ?? NaN));
        // What the dead proxy had read and not written is lost with it: at most what came in a moment.
        for (let i = 1; i < numbers.length; i++) {
          if (Number.isNaN(numbers[i])) torn++;
          else if (!Number.isNaN(numbers[i - 1])) assert.ok(numbers[i] > numbers[i - 1] && numbers[i] - numbers[i - 1] < 100, `${numbers[i - 1]} then ${numbers[i]}`);
        }
      }
      assert.ok(torn <= 4, `${torn} torn lines in two crashes of two workers`);
    },
  ));

const TALK = `
  let n = 0;
  setInterval(() => process.stdout.write('line ' + n++ + ' end\\n'), 2);
  require('http').createServer((q, s) => s.end(String(process.pid))).listen(3000);
`;

test('without a restart the workers end by themselves', { timeout: 60_000, ...needsProxy }, () =>
  withProxy({ orphan_timeout: '1s', apps: { chat: chat() } }, { stop: {} }, async proxy => {
    await proxy.pids(3);
    await written(proxy, 3);
    await crash(proxy);
    assert.equal(proxy.workerProcesses().length, 3, 'they live on');
    await until(() => proxy.workerProcesses().length === 0, { timeout: 15_000, what: 'their end' });
    // And the next proxy starts from what is left.
    await again(proxy, { workers: 3 });
  }));

test('a damaged state file: a warning, new workers, and the old ones end', { timeout: 60_000, ...needsProxy }, () =>
  withProxy({ apps: { chat: chat() } }, async proxy => {
    const before = await proxy.pids(3);
    await written(proxy, 3);
    await crash(proxy);
    writeFileSync(state(proxy), '{"version":1,');
    await again(proxy);
    const now = await proxy.pids(3, { not: before });
    assert.equal(now.length, 3);
    await proxy.line(/state\.json cannot be used: it is damaged.*state\.json\.bad/);
    await until(() => !proxy.workerProcesses().some(({ pid }) => before.includes(pid)), { timeout: 15_000, what: 'the end of strangers' });
  }));

test('a second proxy on the same directory refuses', { timeout: 60_000, ...needsProxy }, () =>
  withProxy({ apps: { chat: chat({ instances: 1 }) } }, async proxy => {
    const [pid] = await proxy.pids(1);
    const { child, exit } = proxy;
    const config = readFileSync(path.join(proxy.dir, 'conf.yaml'), 'utf8');
    const second = proxy.file('second.yaml', config.replace(`127.0.0.1:${proxy.port}`, '127.0.0.1:0'));
    // The very same again finds its ports taken, too: that is not the reason to tell.
    for (const file of [second, path.join(proxy.dir, 'conf.yaml')]) {
      const from = performance.now();
      proxy.run(BIN, ['-c', file]);
      assert.notEqual((await within(10_000, 'its end', proxy.exit)).code, 0);
      await proxy.line(new RegExp(`is in use by another proxy, pid ${child.pid}; stop that one`), { from });
    }
    Object.assign(proxy, { child, exit, ended: undefined });
    assert.deepEqual(await proxy.pids(1), [pid]);
  }));

/** Knows nothing of a proxy. */
const SERVER = `require('http').createServer((q, s) => s.end(String(process.pid))).listen(process.argv[2])`;
const plain = proxy => ({ command: ['node', proxy.file('server.js', SERVER), '{socket}'], instances: 2, stop_timeout: '1s' });
const LATE = `setTimeout(() => require('http').createServer((q, s) => s.end(String(process.pid))).listen(3000), 1000)`;
const late = proxy => ({ command: ['node', proxy.file('late.js', LATE)], preload: true, instances: 2 });

for (const [name, app] of [['without the preload script', plain], ['with it', late]]) {
  test(`killed the moment its workers are started, ${name}: each is there once`, { timeout: 60_000, ...needsProxy }, () =>
    withProxy(proxy => ({ apps: { web: app(proxy) } }), { ready: false }, async proxy => {
      // As soon as they are there.
      await until(() => proxy.workerProcesses().length === 2, { every: 1, what: 'two processes' });
      await crash(proxy);
      const before = proxy.workerProcesses().map(({ pid }) => pid).sort();
      await again(proxy, false);
      assert.deepEqual((await proxy.pids(2)).sort(), before);
      assert.equal(proxy.workerProcesses().length, 2);
    }));
}

test('the leader of a worker dies while no proxy watches: the rest of its group ends, too', { timeout: 60_000, ...needsProxy }, () =>
  withProxy(
    proxy => ({ apps: { web: { command: ['sh', '-c', `node ${proxy.file('server.js', SERVER)} {socket} & wait`], stop_timeout: '1s' } } }),
    { ready: { path: '/' } },
    async proxy => {
      await written(proxy, 1);
      const before = proxy.workerProcesses();
      const shell = before.find(({ command }) => command.startsWith('sh '));
      await crash(proxy);
      proxy.kill(shell.pid);
      await until(() => !existsSync(`/proc/${shell.pid}`), { what: 'its end' });
      await again(proxy);
      await until(() => !proxy.workerProcesses().some(({ pid }) => before.some(worker => worker.pid === pid)), { what: 'the end of its child' });
    },
  ));

test('a worker that hangs while the proxy changes is found', { timeout: 60_000, ...needsProxy }, () =>
  withProxy({ apps: { chat: chat({ instances: 2, heartbeat_timeout: '2s', unhealthy_timeout: '500ms' }) } }, async proxy => {
    const [hangs] = await proxy.pids(2);
    // Whoever has dialled in has a heart.
    await written(proxy, 2);
    await crash(proxy);
    proxy.kill(hangs, 'SIGSTOP');
    await again(proxy, false);
    await proxy.line(/its event loop stands still/, { timeout: 20_000 });
    await until(() => !proxy.workerProcesses().some(({ pid }) => pid === hangs), { what: 'its end' });
    await proxy.pids(2, { not: [hangs] });
  }));

test('a Python worker is taken over', { timeout: 90_000, skip: interpreter ? needsProxy.skip : 'there is no python3 here' }, () =>
  withProxy(
    {
      apps: {
        py: {
          command: [interpreter, '-m', 'uvicorn', '--uds', '{socket}', '--log-level', 'warning', '--timeout-graceful-shutdown', '1', 'plain:app'],
          cwd: path.join(apps, 'python'), instances: 2,
        },
      },
    },
    async proxy => {
      const before = (await proxy.pids(2)).sort();
      await written(proxy, 2);
      await crash(proxy);
      await again(proxy, { workers: 2 });
      assert.deepEqual((await proxy.pids(2)).sort(), before);
      proxy.kill(before[0]);
      await proxy.pids(1, { not: before });
      assert.ok(readdirSync(proxy.runtime).includes('state.json'));
    },
  ));

test('kill -9 of a successor whose predecessor still has requests: started again at once, and those are finished', { timeout: 60_000, ...needsProxy }, () =>
  withProxy({ apps: { web: { script: './life.js', instances: 2 } } }, async proxy => {
    const old = proxy.child.pid;
    const workers = (await proxy.pids(2)).sort();
    await written(proxy, 2);
    // They end one after the other: what the predecessor still uses is told to nobody then.
    const lasting = [2000, 4000, 6000].map(ms => request(proxy.port, { path: `/slow?ms=${ms}` }));
    await sleep(300);
    const { code, err, pid } = await proxy.upgrade();
    assert.equal(code, 0, err);
    process.kill(pid, 'SIGKILL');
    await proxy.gone(pid);
    proxy.successors = [];
    // The address is free.
    await again(proxy, { workers: 2 });
    assert.ok(alive(old), 'the predecessor has requests');
    assert.deepEqual((await proxy.pids(2)).sort(), workers);
    for (const answer of await Promise.all(lasting)) assert.deepEqual([answer.status, answer.text], [200, 'slow']);
    await proxy.gone(old);
  }));
