// The init that a proxy puts above itself when it is PID 1, or is asked to: signals, orphans, exit codes, successors.

import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { readFileSync, readlinkSync, realpathSync, rmSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { BIN, Proxy, configure, freePort, needsProxy, suiteDir } from './lib/proxy.mjs';
import { until, within } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };
const SUCCESSION = 40;
const RETIRES = 2 ** 31;
const ASKED = { PINGORA_UNIX_PROXY_INIT: '1' };
const NAMESPACE = ['--fork', '--pid', '--mount-proc', '--kill-child'];
const noNamespace = spawnSync('unshare', [...NAMESPACE, 'true']).status === 0 ? false : 'needs the right to make pid namespaces (root)';

const status = (pid, key) => {
  try {
    return new RegExp(`^${key}:\\s*(.*)$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '';
  } catch {
    return '';
  }
};
const children = pid => readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
const gone = pid => status(pid, 'Pid') === '' || status(pid, 'PPid') === '0';
const environment = pid => readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0');
/** A process id as it is known out here, from the one in its own namespace. */
const outside = pid => Number(execFileSync('sh', ['-c', `grep -slE '^NSpid:.*[[:space:]]${pid}$' /proc/[0-9]*/status || true`], { encoding: 'utf8' }).split('\n').map(file => file.split('/')[2]).find(found => status(found, 'NSpid').split(/\s+/).length > 1));

/** Runs `body` with a proxy under an init; `init` and `main` are their process ids. Nothing of it stays. */
async function under(kind, body, app = {}) {
  const proxy = new Proxy();
  proxy.port = await freePort();
  const conf = configure(proxy, { apps: { web: { script: './orphan.js', ...app } } });
  try {
    if (kind === 'asked') proxy.run(BIN, ['-c', conf], { env: ASKED });
    else proxy.run('unshare', [...NAMESPACE, BIN, '-c', conf]);
    await proxy.ready();
    const init = kind === 'asked' ? proxy.child.pid : children(proxy.child.pid)[0];
    const main = await until(() => children(init).find(pid => status(pid, 'Name') !== 'orphan'), { what: 'the proxy below its init' });
    return await body({ proxy, init, main, orphan: async s => Number((await request(proxy.port, { path: `/orphan?s=${s}` })).text) });
  } catch (error) {
    proxy.show();
    throw error;
  } finally {
    proxy.killAll();
    if (!process.env.KEEP) rmSync(proxy.dir, { recursive: true, force: true });
  }
}

const end = proxy => within(15_000, 'the end of the init', proxy.exit);

for (const kind of ['asked', 'pid 1']) {
  const here = { ...options, skip: options.skip ?? (kind === 'pid 1' && noNamespace) };

  test(`${kind}: signals reach the proxy, SIGTERM ends it in order`, here, () =>
    under(kind, async ({ proxy, init, main }) => {
      assert.equal(status(init, 'Name'), 'pup-init');
      assert.equal(status(init, 'Threads'), '1');
      assert.equal(status(main, 'PPid'), String(init));
      // Nothing is blocked in the proxy, nor in its workers.
      const worker = proxy.workerProcesses().find(({ ppid }) => ppid === main).pid;
      for (const pid of [main, worker]) assert.match(status(pid, 'SigBlk'), /^0+$/);
      assert.ok(!environment(worker).some(entry => entry.startsWith('PINGORA_UNIX_PROXY_INIT')), 'workers know no init');
      // The proxy logs each of these.
      for (const signal of ['SIGUSR1', 'SIGHUP', 'SIGQUIT']) {
        process.kill(init, signal);
        await proxy.line(new RegExp(signal));
      }
      process.kill(init, 'SIGTERM');
      assert.deepEqual(await end(proxy), { code: 0, signal: null });
      await proxy.assertNothingLeft();
    }));

  test(`${kind}: an orphan is reaped when it ends`, here, () =>
    under(kind, async ({ proxy, init, orphan }) => {
      const named = await orphan(0.5);
      const pid = kind === 'asked' ? named : outside(named);
      assert.equal(status(pid, 'PPid'), String(init));
      await until(() => gone(pid), { what: 'no zombie of it' });
      process.kill(init, 'SIGTERM');
      assert.deepEqual(await end(proxy), { code: 0, signal: null });
    }));

  test(`${kind}: an upgrade, then another; the worker stays`, here, () =>
    under(kind, async ({ proxy, init, main }) => {
      const worker = (await request(proxy.port, { path: '/pid' })).text;
      let owner = main;
      for (let upgrade = 1; upgrade <= 2; upgrade++) {
        const { status: code, stderr } = spawnSync(BIN, ['upgrade', '--runtime-dir', proxy.runtime], { encoding: 'utf8', timeout: 30_000 });
        assert.equal(code, 0, stderr);
        await until(() => gone(owner), { what: 'the end of the old proxy' });
        owner = await until(() => children(init).find(pid => readlinkSync(`/proc/${pid}/exe`) === realpathSync(BIN)), { what: 'the new proxy below the init' });
        assert.equal((await request(proxy.port, { path: '/pid' })).text, worker);
      }
      process.kill(init, 'SIGTERM');
      assert.deepEqual(await end(proxy), { code: 0, signal: null });
      await proxy.assertNothingLeft();
    }));

  test(`${kind}: killed by a signal: 128 and its number`, here, () =>
    under(kind, async ({ proxy, main }) => {
      process.kill(main, 'SIGKILL');
      assert.deepEqual(await end(proxy), { code: 137, signal: null });
      await proxy.line(/init: the proxy, process \d+, was killed by signal 9/);
    }));
}

test('a proxy that cannot start: its exit code', options, async () => {
  const taken = net.createServer();
  await new Promise(resolve => taken.listen(0, '127.0.0.1', resolve));
  const proxy = new Proxy();
  proxy.port = taken.address().port;
  try {
    proxy.run(BIN, ['-c', configure(proxy, { apps: { web: { script: './http.js' } } })], { env: ASKED });
    assert.deepEqual(await end(proxy), { code: 1, signal: null });
    await proxy.assertNothingLeft();
  } finally {
    taken.close();
    proxy.killAll();
    rmSync(proxy.dir, { recursive: true, force: true });
  }
});

test('questions need no init', options, () => {
  for (const args of [['--version'], ['--help'], ['status', '--runtime-dir', '/nowhere']]) {
    const { signal } = spawnSync(BIN, args, { env: { ...process.env, ...ASKED }, timeout: 10_000 });
    assert.equal(signal, null, args.join(' '));
  }
});

/** What the owner tells the init: who is its heir, or, when it retires, its successor. */
const say = (init, owner, what) => execFileSync('python3', [path.join(suiteDir, 'lib/sigqueue.py'), init, SUCCESSION, owner, what].map(String));
const promise = (init, owner, heir) => say(init, owner, heir);
const succeeded = (init, owner, successor) => say(init, owner, successor + RETIRES);

for (const [way, tell] of Object.entries({ succeeded, promise })) {
  test(`${way}: the old proxy ends, the new one gets the signals and gives the exit code`, options, () =>
    under('asked', async ({ proxy, init, main, orphan }) => {
      const successor = await orphan(30);
      tell(init, main, successor);
      process.kill(main, 'SIGKILL');
      await until(() => gone(main), { what: 'the end of the old proxy' });
      assert.equal(proxy.ended, undefined, 'the init lives on');
      process.kill(init, 'SIGTERM');
      assert.deepEqual(await end(proxy), { code: 7, signal: null });
    }));

  test(`${way} in the moment of death: still in time`, options, () =>
    under('asked', async ({ proxy, init, main, orphan }) => {
      const successor = await orphan(30);
      // Both wait at the init when it goes on; the news of the death is handed out first.
      process.kill(init, 'SIGSTOP');
      process.kill(main, 'SIGKILL');
      await until(() => status(main, 'State').startsWith('Z'), { what: 'the death' });
      tell(init, main, successor);
      process.kill(init, 'SIGCONT');
      await until(() => gone(main), { what: 'the old proxy is reaped' });
      process.kill(init, 'SIGTERM');
      assert.deepEqual(await end(proxy), { code: 7, signal: null });
    }));
}

test('an heir that ends changes nothing, and signals go to the owner', options, () =>
  under('asked', async ({ proxy, init, main, orphan }) => {
    const [first, second] = [await orphan(30), await orphan(30)];
    promise(init, main, first);
    process.kill(first, 'SIGKILL');
    await until(() => gone(first), { what: 'the end of the heir' });
    promise(init, main, second);
    process.kill(init, 'SIGUSR1');
    await proxy.line(/SIGUSR1/);
    process.kill(init, 'SIGTERM');
    assert.deepEqual(await end(proxy), { code: 0, signal: null }, 'the exit code of the proxy, not of an heir');
  }));

test('a proxy that has retired does not keep the container when its successor dies', options, () =>
  under('asked', async ({ proxy, init, main, orphan }) => {
    const successor = await orphan(30);
    succeeded(init, main, successor);
    process.kill(successor, 'SIGKILL');
    assert.deepEqual(await end(proxy), { code: 137, signal: null });
    assert.ok(gone(main), 'the retired one was asked to end, and has');
  }));

test('a successor that is nobody’s child here (started by docker exec) is watched all the same', options, () =>
  under('asked', async ({ proxy, init, main }) => {
    const successor = spawn('sleep', ['600']);
    try {
      succeeded(init, main, successor.pid);
      process.kill(main, 'SIGKILL');
      await until(() => gone(main), { what: 'the end of the old proxy' });
      process.kill(init, 'SIGTERM');
      assert.deepEqual(await end(proxy), { code: 0, signal: null });
      await until(() => successor.signalCode === 'SIGTERM', { what: 'its end by the signal' });
    } finally {
      successor.kill('SIGKILL');
    }
  }));

test('nobody else names a successor, and a dead one is none', options, () =>
  under('asked', async ({ proxy, init, main, orphan }) => {
    const stranger = await orphan(30);
    succeeded(init, stranger, stranger);
    await proxy.line(/init: process \d+ is not the proxy here/);
    const dead = spawnSync('true').pid;
    succeeded(init, main, dead);
    await proxy.line(/named as successor, does not run/);
    process.kill(main, 'SIGKILL');
    assert.deepEqual(await end(proxy), { code: 137, signal: null });
  }));
