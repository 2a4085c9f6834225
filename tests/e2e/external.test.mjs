// Workers that the proxy did not start: they share a directory with it, and nothing else.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import {
  chmodSync, existsSync, linkSync, mkdirSync, readFileSync, readdirSync, statSync, symlinkSync, writeFileSync,
} from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { Polling } from './lib/engineio.mjs';
import { alone, byHand, ended, leaves, owned, untouched, upgraded, waiting } from './lib/handoff.mjs';
import { request } from './lib/http.mjs';
import { apps, BIN, configure, needsProxy, needsUpgrade, startProxy } from './lib/proxy.mjs';
import { keepsSessions } from './lib/sessions.mjs';
import { besiege } from './lib/siege.mjs';
import { asked, status as statusOfAll } from './lib/steer.mjs';
import { rawUpgrade } from './lib/upgrade.mjs';
import { pooled, range, sleep, until, within } from './lib/wait.mjs';

const options = { timeout: 120_000, ...needsProxy };
const asRoot = { ...options, skip: options.skip ?? (process.getuid() !== 0 && 'needs root') };

/** The directory that a proxy shares with its workers; below /tmp/pup-, which is otherwise private. */
const shared = proxy => path.join(proxy.dir, 'own');

const app = (proxy, more = {}) => ({
  apps: { chat: { external: { directory: shared(proxy), ...more.external }, ...more.app, cwd: undefined } },
});

/** A process of the app, started by the test itself: nothing but the directory leads it to the proxy. */
class Worker {
  constructor(proxy, script, { env = {}, uid, args = [], directory = shared(proxy) } = {}) {
    const [name, value] = proxy.mark.split('=');
    const environment = {
      PATH: process.env.PATH,
      HOME: '/tmp',
      [name]: value,
      NODE_OPTIONS: `--require ${directory}/preload.cjs`,
      PINGORA_UNIX_PROXY_JOIN: directory,
      ...env,
    };
    const command = [process.execPath, script, ...args];
    // Another user, as another container has.
    if (uid !== undefined) command.unshift('setpriv', `--reuid=${uid}`, `--regid=${uid}`, '--clear-groups');
    this.child = spawn(command[0], command.slice(1), { cwd: apps, env: environment, stdio: ['ignore', 'pipe', 'pipe'] });
    this.output = '';
    for (const stream of ['stdout', 'stderr']) this.child[stream].on('data', text => (this.output += text));
    this.exit = new Promise(resolve => this.child.once('exit', (code, signal) => resolve((this.ended = { code, signal }))));
  }

  get pid() {
    return this.child.pid;
  }

  async kill(signal = 'SIGKILL') {
    if (!this.ended) this.child.kill(signal);
    return within(10_000, 'the worker to end', this.exit);
  }
}

/** Runs `body` with a proxy for external workers; ends those afterwards, since nobody else does. */
async function stage(more, body, before = () => {}) {
  const workers = [];
  const start = proxy => (script, how) => {
    const worker = new Worker(proxy, script, how);
    workers.push(worker);
    return worker;
  };
  const end = () => Promise.all(workers.map(worker => worker.kill()));
  const proxy = await startProxy(
    made => {
      mkdirSync(shared(made));
      before(made, start(made));
      return app(made, more);
    },
    { ready: false },
  );
  try {
    await until(() => existsSync(path.join(shared(proxy), 'control.sock')), { what: 'the control socket' });
    await body(proxy, start(proxy));
  } catch (error) {
    proxy.show();
    workers.forEach((worker, i) => console.error(`--- worker ${i}\n${worker.output}`));
    throw error;
  } finally {
    await end();
    await proxy.stop();
  }
}

const pids = list => list.map(worker => worker.pid).sort();
const answering = async (proxy, count, more) => (await proxy.pids(count, more)).sort();

async function ownerOf(proxy) {
  const { text, status } = await request(proxy.port, { path: '/pid', timeout: 15_000 });
  assert.equal(status, 200, text);
  return Number(text);
}

test('two workers started by hand are balanced and sticky; who dies leaves; who comes joins', options, () =>
  stage({}, async (proxy, start) => {
    const workers = [start('./sio.js'), start('./sio-esm.mjs')];
    assert.deepEqual(await answering(proxy, 2), pids(workers));
    await keepsSessions(proxy, { workers: 2, clients: 15 });
    const third = start('./sio.js', { env: { PORT: '4000' } });
    await answering(proxy, 3);
    await keepsSessions(proxy, { workers: 3, clients: 15 });
    // From the moment that a process is dead on, no request fails.
    await third.kill();
    const after = await pooled(range(200), 20, () => ownerOf(proxy));
    assert.deepEqual([...new Set(after)].sort(), pids(workers));
    await proxy.line(/chat\[2\] .*hung up/);
    const fourth = start('./sio.js');
    assert.deepEqual(await answering(proxy, 3), pids([...workers, fourth]));
    // In the free slot, and without an alarm or a restart.
    await proxy.line(/chat\[2\] #4 .*has joined/);
    assert.doesNotMatch(proxy.output, /crash loop|starts again/);
    // The socket of the one that was killed is removed some seconds later; those of the living stay.
    assert.ok(readdirSync(shared(proxy)).filter(name => name.startsWith('worker.')).length >= 3);
  }));

test('a worker that closes its server, or ends in good order, fails no request', options, () =>
  stage({}, async (proxy, start) => {
    const stays = start('./sio.js');
    const graceful = start('./graceful.js');
    await answering(proxy, 2);
    let asking = true;
    const failures = [];
    const asked = range(8).map(async () => {
      while (asking) await ownerOf(proxy).catch(error => failures.push(error.message));
    });
    const end = await graceful.kill('SIGTERM');
    assert.deepEqual(end, { code: 0, signal: null });
    await sleep(300);
    asking = false;
    await Promise.all(asked);
    assert.deepEqual(failures, []);
    assert.equal(await ownerOf(proxy), stays.pid);
  }));

test('a worker of a cluster is one worker; what a worker starts is none', options, () =>
  stage({}, async (proxy, start) => {
    start('./cluster.js');
    await until(async () => (await request(proxy.port, { path: '/pid' })).status === 200, { what: 'an answer' });
    const status = await statusOf(proxy);
    assert.deepEqual(status.workers.map(worker => [worker.slot, worker.origin, worker.state]), [[0, 'external', 'ready']]);
    const parent = start('./parent.js');
    await until(async () => (await statusOf(proxy)).ready === 2, { what: 'the second worker' });
    await until(() => /child listens/.test(parent.output), { what: 'its child' });
    await sleep(500);
    assert.equal((await statusOf(proxy)).workers.length, 2);
  }));

async function statusOf(proxy) {
  return (await adminOf(proxy, 'status', '--json')).status.apps[0];
}

function adminOf(proxy, ...words) {
  return new Promise(resolve => {
    execFile(BIN, [...words, '-c', path.join(proxy.dir, 'conf.yaml')], { env: proxy.environment() }, (error, stdout, stderr) => {
      resolve({ code: error?.code ?? 0, stdout, stderr, status: words.includes('--json') && !error ? JSON.parse(stdout) : null });
    });
  });
}

test('no order starts, ends or replaces an external worker', options, () =>
  stage({ external: { workers: 2 } }, async (proxy, start) => {
    const workers = [start('./sio.js'), start('./sio.js')];
    await answering(proxy, 2);
    for (const words of [['scale', 'chat', '5'], ['restart', 'chat']]) {
      const { code, stderr } = await adminOf(proxy, ...words);
      assert.notEqual(code, 0);
      assert.match(stderr, /its workers are external/);
    }
    // One more than allowed waits outside, and gets the place that becomes free.
    const late = start('./sio.js');
    await proxy.line(/refused: there are 2 workers, which is the most allowed/);
    await workers[0].kill();
    assert.deepEqual(await answering(proxy, 2, { timeout: 40_000, not: [workers[0].pid] }), pids([workers[1], late]));
    const reload = await adminOf(proxy, 'reload');
    assert.equal(reload.code, 0, reload.stderr);
    assert.deepEqual(await answering(proxy, 2), pids([workers[1], late]));
  }));

test('a worker that hangs is out of the pool, lives, and comes back', options, () =>
  stage({ app: { unhealthy_timeout: '500ms' } }, async (proxy, start) => {
    const [well, hangs] = [start('./sio.js'), start('./sio.js')];
    await answering(proxy, 2);
    await until(async () => (await statusOf(proxy)).workers.every(worker => worker.elu !== null), { what: 'statistics' });
    hangs.child.kill('SIGSTOP');
    await proxy.line(/its event loop stands still/);
    await sleep(1500);
    assert.deepEqual([...new Set(await pooled(range(20), 4, () => ownerOf(proxy)))], [well.pid]);
    hangs.child.kill('SIGCONT');
    assert.deepEqual(await answering(proxy, 2), pids([well, hangs]));
  }));

test('a worker that hangs before it was ever heard is found', options, () =>
  stage({}, async (proxy, start) => {
    const hangs = start('./sio.js');
    await proxy.line(/ready after/);
    hangs.child.kill('SIGSTOP');
    const stopped = performance.now();
    assert.ok((await statusOf(proxy)).workers.every(worker => worker.elu === null), 'no statistics yet');
    await proxy.line(/its event loop stands still/);
    assert.ok(performance.now() - stopped < 8000, `found after ${performance.now() - stopped} ms`);
    hangs.child.kill('SIGCONT');
    await proxy.line(/answers again/);
  }));

test('health counts the workers that are there', options, () =>
  stage({}, async (proxy, start) => {
    assert.match(await asked(proxy, '/readyz?verbose'), /^\[-\] chat: 0 of 0 workers ready \(none has joined\)$/m);
    const first = start('./sio.js');
    await answering(proxy, 1);
    assert.match(await asked(proxy, '/readyz?verbose'), /^\[\+\] chat: 1 of 1 worker ready$/m);
    const workers = [first, start('./sio.js')];
    assert.deepEqual(await answering(proxy, 2), pids(workers));
    assert.match(await asked(proxy, '/readyz?verbose'), /^\[\+\] chat: 2 of 2 workers ready$/m);
  }));

test('the proxy may go and come back: workers and their sessions live', options, () =>
  stage({}, async (proxy, start) => {
    const workers = [start('./sio.js'), start('./sio.js')];
    await answering(proxy, 2);
    // By hand: a client library gives a session up at the first refused connection.
    const sessions = range(20).map(() => new Polling(proxy.port));
    for (const session of sessions) await session.handshake();
    for (const session of sessions) session.owner = [...session.pids][0];
    assert.equal(new Set(sessions.map(session => session.owner)).size, 2);
    await proxy.interrupt();
    assert.deepEqual(workers.map(worker => worker.ended), [undefined, undefined]);
    assert.deepEqual(readdirSync(shared(proxy)).filter(name => !name.startsWith('worker.')), ['preload.cjs'], 'nobody else can put one there');
    proxy.run(BIN, ['-c', configure(proxy, app(proxy))]);
    assert.deepEqual(await answering(proxy, 2), pids(workers));
    // Their tags are what they were, so each session finds its worker again.
    for (const session of sessions) {
      await session.emit('echo', 'after');
      await session.poll();
      assert.deepEqual([...session.pids], [session.owner]);
    }
  }));

test('the proxy is killed and started again: the workers are known, and nothing of them changes', options, () =>
  stage({}, async (proxy, start) => {
    const workers = [start('./sio.js'), start('./sio.js')];
    await answering(proxy, 2);
    const session = new Polling(proxy.port);
    await session.handshake();
    const [owner] = [...session.pids];
    const before = (await statusOf(proxy)).workers.map(worker => [worker.slot, worker.incarnation, worker.pid]);
    // Its state is written within a second.
    await sleep(1200);
    await proxy.interrupt({ signal: 'SIGKILL', code: null });
    // One comes while nobody is there.
    const third = start('./sio.js');
    await sleep(300);
    proxy.run(BIN, ['-c', configure(proxy, app(proxy))]);
    assert.deepEqual(await answering(proxy, 3), pids([...workers, third]));
    const after = (await statusOf(proxy)).workers.map(worker => [worker.slot, worker.incarnation, worker.pid]);
    assert.deepEqual(after.slice(0, 2), before);
    await session.emit('echo', 'after');
    await session.poll();
    assert.deepEqual([...session.pids], [owner]);
    await workers[0].kill();
    assert.deepEqual([...new Set(await pooled(range(40), 8, () => ownerOf(proxy)))].sort(), pids([workers[1], third]));
  }));

/** Two workers that a siege can talk to, in the pool. */
async function besiegeable(proxy, start) {
  const env = { NOTES: proxy.file('notes', '') };
  const workers = range(2).map(() => start('./siege.js', { env }));
  await until(async () => (await statusOf(proxy)).ready === 2, { what: 'two workers in the pool' });
  return { env, workers, before: await places(proxy) };
}

const places = async proxy => (await statusOf(proxy)).workers.map(worker => [worker.slot, worker.incarnation, worker.pid, worker.state]);

/** The process that serves now hears every worker. */
const heard = proxy =>
  until(async () => (await statusOf(proxy)).workers.every(worker => worker.elu !== null), { what: 'statistics of every worker' });

test('two upgrades in a row under siege: the same workers, nobody lost; who dies leaves, who comes joins', { ...options, ...needsUpgrade }, t =>
  stage({}, async (proxy, start) => {
    const { env, workers, before } = await besiegeable(proxy, start);
    await besiege(t, proxy, { share: 0.3 }, async siege => {
      for (const n of range(2)) {
        const step = await upgraded(proxy);
        const leaving = leaves(siege, step);
        leaving.catch(() => {});
        await owned(siege, step);
        assert.deepEqual(await places(proxy), before, 'the same workers');
        await siege.more();
        assert.deepEqual(siege.lost, []);
        t.diagnostic(`upgrade ${n + 1}: ${Math.round(step.ms)} ms`);
        await leaving;
      }
      assert.deepEqual(siege.pids, pids(workers));
    });
    await heard(proxy);
    // What the processes before have shared is still there, and the present one's.
    const third = start('./siege.js', { env });
    assert.deepEqual(await answering(proxy, 3), pids([...workers, third]));
    await workers[0].kill();
    const after = await pooled(range(60), 10, () => ownerOf(proxy));
    assert.deepEqual([...new Set(after)].sort(), pids([workers[1], third]));
    await until(async () => (await statusOf(proxy)).workers.length === 2, { what: 'the dead one to leave' });
    const fourth = start('./siege.js', { env });
    assert.deepEqual(await answering(proxy, 3), pids([workers[1], third, fourth]));
    await alone(proxy);
    assert.deepEqual(workers[1].ended, undefined);
  }));

test('upgrades that fail at each step under siege: the workers stay with the old process', { ...options, ...needsUpgrade }, t =>
  stage({}, async (proxy, start) => {
    const { env, workers } = await besiegeable(proxy, start);
    await heard(proxy);
    let before = await places(proxy);
    let known = await statusOfAll(proxy);
    await besiege(t, proxy, { share: 0.15 }, async siege => {
      for (const step of ['bound', 'ready', 'commit']) {
        const candidate = await waiting(proxy, { env: { PINGORA_UNIX_PROXY_FAULT: `${step}:die` } });
        proxy.kill(proxy.pid, 'SIGQUIT');
        await ended(candidate, 30_000);
        await proxy.line(new RegExp(`handing over to process ${candidate.pid} failed`));
        await untouched(proxy, known);
        // Longer than a worker may be away that has hung up.
        await sleep(6000);
        assert.deepEqual(await places(proxy), before, step);
        await siege.more();
        assert.deepEqual(siege.lost, [], step);
        // The doors are the old one's again.
        workers.push(start('./siege.js', { env }));
        await until(async () => (await statusOf(proxy)).ready === workers.length, { what: `a worker to join after ${step}` });
        await heard(proxy);
        [before, known] = [await places(proxy), await statusOfAll(proxy)];
      }
      await byHand(proxy);
      assert.deepEqual(await places(proxy), before);
      await siege.more();
    });
    await heard(proxy);
    assert.deepEqual(await answering(proxy, workers.length), pids(workers));
    await alone(proxy);
  }));

test('a worker that hangs during an upgrade costs no other its place', { ...options, ...needsUpgrade }, () =>
  stage({}, async (proxy, start) => {
    const workers = range(3).map(() => start('./sio.js'));
    await answering(proxy, 3);
    const before = await places(proxy);
    workers[2].child.kill('SIGSTOP');
    await upgraded(proxy, { timeout: 30_000 });
    await sleep(6000);
    const there = (await places(proxy)).filter(([, , pid]) => pid !== workers[2].pid);
    assert.deepEqual(there, before.filter(([, , pid]) => pid !== workers[2].pid));
    workers[2].child.kill('SIGCONT');
    assert.deepEqual(await answering(proxy, 3), pids(workers));
    await alone(proxy);
  }));

test('a worker that is there before the proxy waits, says so, then serves', options, async () => {
  let early;
  await stage(
    {},
    async proxy => {
      assert.deepEqual(await answering(proxy, 1), [early.pid]);
      assert.match(early.output, /no proxy takes this worker in at .*control\.sock/);
    },
    (proxy, start) => {
      const source = path.resolve(apps, '../../../src/process/preload/index.cjs');
      writeFileSync(path.join(shared(proxy), 'preload.cjs'), `require(${JSON.stringify(source)});\n`);
      early = start('./sio.js');
      const end = performance.now() + 12_000;
      while (performance.now() < end) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500);
    },
  );
});

test('proxy and workers are different users; strangers are refused', asRoot, () =>
  stage(
    { external: { users: [65_534, 1001] } },
    async (proxy, start) => {
      const workers = [start('./sio.js', { uid: 65_534 }), start('./sio.js', { uid: 1001 })];
      assert.deepEqual(await answering(proxy, 2), pids(workers));
      await keepsSessions(proxy, { workers: 2, clients: 10 });
      const stranger = start('./sio.js', { uid: 1002 });
      await proxy.line(/user 1002 refused: no worker of user 1002 is expected/);
      await sleep(500);
      assert.equal((await statusOf(proxy)).workers.length, 2);
      assert.equal(stranger.ended, undefined);
      for (const name of readdirSync(shared(proxy)).filter(name => name.startsWith('worker.'))) {
        assert.equal(statSync(path.join(shared(proxy), name)).mode & 0o777, 0o666);
      }
    },
    proxy => {
      chmodSync(proxy.dir, 0o711);
      chmodSync(shared(proxy), 0o1777);
    },
  ));

test('a socket that somebody puts in the place of a worker\'s gets no request', asRoot, () =>
  stage(
    { external: { users: [65_534] }, app: { health_check: { interval: '200ms' } } },
    async (proxy, start) => {
      const [robbed, other] = [start('./sio.js', { uid: 65_534 }), start('./sio.js', { uid: 65_534 })];
      await answering(proxy, 2);
      const dir = shared(proxy);
      const socket = readFileSync('/proc/net/unix', 'utf8').match(new RegExp(`${dir}/worker\\.\\w+\\.sock`))[0];
      const thief = `
        const fs = require('node:fs');
        const [at] = process.argv.slice(1);
        require('node:http').createServer((req, res) => { console.log('got a request'); res.end('stolen'); }).listen(at + '.new', () => {
          fs.chmodSync(at + '.new', 0o666);
          fs.renameSync(at + '.new', at);
          console.log('in its place');
        });`;
      const taken = start('-e', { uid: 1001, args: [thief, socket], env: { NODE_OPTIONS: '', PINGORA_UNIX_PROXY_JOIN: '' } });
      await until(() => /in its place/.test(taken.output), { what: 'the socket to be replaced' });
      const asked = await pooled(range(200), 40, () => request(proxy.port, { path: '/pid?ms=20', timeout: 15_000 }));
      const upgrades = await pooled(range(20), 5, () => rawUpgrade(proxy.port, '/socket.io/?EIO=4&transport=websocket'));
      upgrades.forEach(raw => raw.destroy());
      assert.deepEqual(asked.filter(({ status, text }) => status !== 200 || !pids([robbed, other]).includes(Number(text))), []);
      await proxy.line(/belongs to user 1001/);
      await until(async () => (await statusOf(proxy)).ready === 1, { what: 'the worker to leave the pool' });
      assert.doesNotMatch(taken.output, /got a request/);
    },
    proxy => {
      chmodSync(proxy.dir, 0o711);
      chmodSync(shared(proxy), 0o777);
    },
  ));

/** Speaks as a worker does, but says where its sockets are as it likes. */
const liar = `
  const net = require('node:net');
  const [control, socket, random] = process.argv.slice(1);
  const connection = net.connect(control, () => {
    connection.write(JSON.stringify({ type: 'join', protocol: 1, id: random, socket, pid: process.pid }) + '\\n');
  });
  connection.on('data', text => {
    console.log(String(text).trim());
    if (String(text).includes('welcome')) connection.write(JSON.stringify({ type: 'path', path: socket, main: true }) + '\\n');
  });`;

test('no worker leads traffic to a socket that is not its own', asRoot, () =>
  stage(
    { external: { users: [65_534, 1001] } },
    async (proxy, start) => {
      const honest = start('./sio.js', { uid: 65_534 });
      await answering(proxy, 1);
      const dir = shared(proxy);
      const [target] = readdirSync(dir).filter(name => name.startsWith('worker.'));
      symlinkSync(path.join(dir, target), path.join(dir, 'worker.00000000000a.sock'));
      // Another user's socket under a free name, as whoever may write there can make one.
      linkSync(path.join(dir, target), path.join(dir, 'worker.00000000000b.sock'));
      const lie = (name, n) => start('-e', { uid: 1001, args: [liar, path.join(dir, 'control.sock'), name, String(n).repeat(32)], env: { NODE_OPTIONS: '' } });
      for (const name of ['../../run/docker.sock', 'control.sock', '/run/docker.sock']) {
        const refused = lie(name, 1);
        await until(() => /refused.*no name of a worker's socket/.test(refused.output), { what: `${name} to be refused` });
      }
      lie('worker.00000000000a.sock', 2);
      lie('worker.00000000000b.sock', 3);
      const reasons = async () => (await statusOf(proxy)).workers.map(worker => worker.reason).join('\n');
      await until(async () => /is a symbolic link/.test(await reasons()), { what: 'the link to be seen' });
      await until(async () => /belongs to user 65534, not to the worker's user 1001/.test(await reasons()), { what: 'the user to be seen' });
      const taken = lie(target, 4);
      await until(() => /refused.*another worker's socket/.test(taken.output), { what: 'a socket of another to be refused' });
      assert.deepEqual(await answering(proxy, 1), [honest.pid]);
      assert.equal((await statusOf(proxy)).ready, 1);
    },
    proxy => {
      chmodSync(proxy.dir, 0o711);
      chmodSync(shared(proxy), 0o1777);
    },
  ));
