// The guard: when the proxy was killed and nobody takes over, nothing of it is left.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { BIN, apps, needsProxy, needsUpgrade, withProxy } from './lib/proxy.mjs';
import { python } from './lib/python.mjs';
import { sleep, until } from './lib/wait.mjs';

const interpreter = await python();
const options = { timeout: 60_000, ...needsProxy };
/** How a proxy ends that the test has killed; that nothing is left is checked all the same. */
const killed = { stop: { code: null, killed: 'SIGKILL' } };

/** Knows nothing of a proxy. With a second word it does not stop when asked to. */
const SERVER = `
  if (process.argv[3]) process.on('SIGTERM', () => {});
  require('http').createServer((q, s) => s.end(String(process.pid))).listen(process.argv[2]);
`;
const web = { script: './http.js', instances: 2 };
const plain = (proxy, more = '') => ({ command: ['node', proxy.file('server.js', SERVER), '{socket}', ...more && [more]], stop_timeout: '500ms' });
/** A leader that ends while its group lives on. */
const wrapped = proxy => ({ ...plain(proxy), command: ['sh', '-c', `node ${proxy.file('server.js', SERVER)} {socket} & wait`] });
const routes = names => names.map(app => (app === names.at(-1) ? { app } : { path: `/${app}`, app }));

const written = (proxy, workers) => {
  const file = path.join(proxy.runtime, 'state.json');
  return until(() => existsSync(file) && readFileSync(file, 'utf8').split('"state":"Ready"').length > workers, { what: 'the state file' });
};
const crash = proxy => {
  process.kill(proxy.child.pid, 'SIGKILL');
  return until(() => proxy.child.ended, { timeout: 5000, what: 'its end' });
};
const pids = list => list.map(({ pid }) => pid).sort();

test('kill -9 and nobody comes: no process, socket, FIFO or directory is left', options, () =>
  withProxy(
    proxy => ({
      orphan_timeout: '2s',
      admin: { socket: path.join(proxy.dir, 'own', 'admin.sock') },
      apps: { web, plain: plain(proxy), stubborn: plain(proxy, 'stays'), wrapped: wrapped(proxy) },
      routes: routes(['plain', 'stubborn', 'wrapped', 'web']),
    }),
    killed,
    async proxy => {
      await written(proxy, 5);
      assert.deepEqual(proxy.guards().map(guard => guard.of), [proxy.child.pid]);
      assert.ok(existsSync(proxy.file('admin.sock')));
      const workers = proxy.workerProcesses();
      assert.equal(workers.length, 6);
      const shell = workers.find(({ command }) => command.startsWith('sh '));
      const at = performance.now();
      await crash(proxy);
      proxy.kill(shell.pid);
      await sleep(1000);
      assert.equal(proxy.workerProcesses().length, 5, 'all but the one that was killed live on');
      await until(() => proxy.processes().length === 0, { timeout: 10_000, what: () => `no process left: ${JSON.stringify(proxy.processes())}` });
      assert.ok(performance.now() - at >= 2000);
      assert.ok(!existsSync(proxy.runtime), 'the directory');
      assert.ok(!existsSync(proxy.file('admin.sock')), 'the socket for commands');
      await proxy.line(/process \d+ was killed, and no other took over: ended \d workers, 1 of them by SIGKILL; .* is removed/);
    },
  ));

test('the same with Python workers', { ...options, skip: interpreter ? needsProxy.skip : 'there is no python3 here' }, () => {
  const command = [interpreter, '-m', 'uvicorn', '--uds', '{socket}', '--log-level', 'warning', '--timeout-graceful-shutdown', '1', 'plain:app'];
  const py = { command, cwd: path.join(apps, 'python'), instances: 2 };
  return withProxy({ orphan_timeout: '1s', apps: { py } }, killed, async proxy => {
    await written(proxy, 2);
    await crash(proxy);
    await until(() => proxy.processes().length === 0, { timeout: 15_000, what: 'no process left' });
    await proxy.line(/ended 2 workers; /);
  });
});

test('a proxy that comes in time: all live on, and the guard of the dead one goes', options, () =>
  withProxy(proxy => ({ orphan_timeout: '4s', apps: { plain: plain(proxy), web }, routes: routes(['plain', 'web']) }), { ready: { path: '/pid' } }, async proxy => {
    await written(proxy, 3);
    const workers = pids(proxy.workerProcesses());
    const old = proxy.child.pid;
    await crash(proxy);
    await sleep(500);
    proxy.ended = undefined;
    proxy.run(BIN, ['-c', path.join(proxy.dir, 'conf.yaml')]);
    await proxy.ready();
    const guarded = () => proxy.guards().map(guard => guard.of);
    await until(() => guarded().join() === `${proxy.child.pid}`, { what: () => `the end of the guard of ${old}; there are those of ${guarded()}` });
    // Past the time of the dead one.
    await sleep(4000);
    assert.deepEqual(pids(proxy.workerProcesses()), workers);
    assert.equal(proxy.guards().length, 1);
  }));

test('a proxy that comes while the guard cleans up waits for its end', options, () =>
  withProxy(proxy => ({ orphan_timeout: '1h', apps: { plain: { ...plain(proxy, 'stays'), stop_timeout: '2s' } } }), { ready: { path: '/' } }, async proxy => {
    await written(proxy, 1);
    const [worker] = pids(proxy.workerProcesses());
    const [guard] = proxy.guards();
    await crash(proxy);
    proxy.kill(guard.pid, 'SIGTERM');
    // It has the lock once it says so there.
    await until(() => readFileSync(path.join(proxy.runtime, 'lock'), 'utf8').startsWith(`${guard.pid} `), { what: 'the guard to begin' });
    assert.deepEqual(pids(proxy.workerProcesses()), [worker]);
    proxy.ended = undefined;
    proxy.run(BIN, ['-c', path.join(proxy.dir, 'conf.yaml')]);
    await proxy.line(/waiting for the guard of a killed proxy/);
    await proxy.ready({ path: '/' });
    assert.ok(!pids(proxy.workerProcesses()).includes(worker), 'a worker of its own');
  }));

test('after an upgrade only the new process has a guard', { timeout: 60_000, ...needsUpgrade }, () =>
  withProxy({ apps: { web } }, async proxy => {
    const before = pids(proxy.workerProcesses());
    const { code, err, old } = await proxy.upgrade();
    assert.equal(code, 0, err);
    await proxy.gone(old);
    // The new process starts its own once it owns everything, which may be a moment after the old one has ended.
    const guarded = () => proxy.guards().map(guard => guard.of);
    await until(() => guarded().join() === `${proxy.pid}`, { what: () => `one guard, of ${proxy.pid}; there are those of ${guarded()}` });
    assert.deepEqual(pids(proxy.workerProcesses()), before);
  }));

test('SIGTERM to the guard: nothing while the proxy lives, now when it is dead', options, () =>
  withProxy(proxy => ({ orphan_timeout: '1h', apps: { plain: plain(proxy) } }), { ...killed, ready: { path: '/' } }, async proxy => {
    await written(proxy, 1);
    const [guard] = proxy.guards();
    for (const signal of ['SIGINT', 'SIGHUP']) proxy.kill(guard.pid, signal);
    await sleep(300);
    assert.deepEqual(pids(proxy.guards()), [guard.pid]);
    await crash(proxy);
    await sleep(300);
    assert.equal(proxy.workerProcesses().length, 1);
    proxy.kill(guard.pid, 'SIGTERM');
    await until(() => proxy.processes().length === 0, { what: 'no process left' });
  }));

test('a stop in order takes the guard along, also after it was sent SIGTERM', options, () =>
  withProxy({ apps: { web } }, async proxy => {
    const [guard] = proxy.guards();
    const status = readFileSync(`/proc/${guard.pid}/status`, 'utf8');
    assert.match(status, /^Name:\s+pup-guard$/m);
    assert.match(status, /^Threads:\s+1$/m);
    assert.ok(readdirSync(`/proc/${guard.pid}/fd`).length <= 4, 'it holds nothing of the proxy open');
    proxy.kill(guard.pid, 'SIGTERM');
    await sleep(300);
    assert.deepEqual(pids(proxy.guards()), [guard.pid]);
    await proxy.interrupt();
    await proxy.assertNothingLeft();
  }));

test('without its guard the proxy goes on', options, () =>
  withProxy({ apps: { web } }, async proxy => {
    proxy.kill(proxy.guards()[0].pid);
    await until(() => proxy.guards().length === 0, { what: 'its end' });
    await proxy.pids(2);
  }));
