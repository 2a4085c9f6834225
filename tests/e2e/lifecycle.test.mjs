// The life of workers: start, crash, restart, stop.

import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import test from 'node:test';
import { Raw, request } from './lib/http.mjs';
import { freePort, needsProxy, withProxy } from './lib/proxy.mjs';
import { range, sleep, until, within } from './lib/wait.mjs';

// Without a ready worker: 503 at once.
const queue = { timeout: '50ms' };
const options = { timeout: 60_000, ...needsProxy };
const life = (habits, more = {}) => ({ script: './life.js', ...more, env: { HABITS: habits, ...more.env } });
const get = path => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`;
const boots = file => readFileSync(file, 'utf8').trim().split('\n').filter(Boolean).map(line => line.split(' ').map(Number));

for (const signal of ['SIGTERM', 'SIGINT']) {
  test(`${signal} leaves nothing: no worker, no grandchild, no socket`, options, () =>
    withProxy({ apps: { a: life('grandchild', { instances: 2 }), b: life('') } , routes: [{ path: '/', app: 'a' }] }, { stop: { signal } }, async proxy => {
      await until(() => proxy.workerProcesses().filter(p => p.command.startsWith('sleep')).length === 2, { what: 'two grandchildren' });
      // Each worker leads a process group of its own.
      const workers = proxy.workerProcesses().filter(p => p.ppid === proxy.child.pid);
      assert.equal(workers.length, 3);
      for (const worker of workers) assert.equal(worker.pgid, worker.pid);
      assert.equal(statSync(proxy.runtime).mode & 0o777, 0o700);
    }));
}

test('SIGTERM while workers are starting', options, () =>
  withProxy({ apps: { a: { script: './never.js', instances: 3, stop_timeout: '1s', queue } } }, { ready: false }, async proxy => {
    await proxy.ready({ status: 503 });
    await until(() => proxy.workerProcesses().length === 3, { what: 'three processes' });
  }));

test('SIGTERM while a crashed worker waits to be started again', options, () =>
  withProxy(proxy => ({ apps: { a: life('fails', { backoff: { min: '20s', max: '30s' }, env: { FLAG: proxy.file('none') } }) } }), { ready: false }, async proxy => {
    await proxy.line(/no database/);
    await until(() => proxy.workerProcesses().length === 0, { what: 'no process' });
  }));

test('a worker that ignores the stop signal is killed after stop_timeout', options, async () => {
  let started;
  await withProxy({ apps: { a: life('stubborn grandchild', { stop_timeout: '700ms', drain_timeout: '100ms' }) } }, async proxy => {
    await until(() => proxy.workerProcesses().length === 2, { what: 'the worker and its child' });
    started = performance.now();
  });
  assert.ok(performance.now() - started < 10_000);
});

test('requests in flight are completed at SIGTERM', options, () =>
  withProxy({ apps: { a: life('', { instances: 2 }) } }, async proxy => {
    const slow = range(20).map(() => request(proxy.port, { path: '/slow?ms=1200', timeout: 10_000 }));
    const raw = await Raw.connect(proxy.port);
    raw.write(get('/begin?ms=1500'));
    await raw.through('begun\n');
    // All of them are at the workers when the one that came last has begun.
    await sleep(200);
    process.kill(proxy.child.pid, 'SIGTERM');
    const answers = await Promise.all(slow);
    assert.deepEqual([...new Set(answers.map(answer => answer.status))], [200]);
    await raw.through('ended');
    raw.destroy();
  }));

test('a second SIGTERM ends it at once', options, () =>
  withProxy({ apps: { a: life('stubborn', { stop_timeout: '60s', drain_timeout: '60s' }) } }, async proxy => {
    const hanging = request(proxy.port, { path: '/slow?ms=60000', timeout: 60_000 }).catch(() => {});
    await sleep(200);
    process.kill(proxy.child.pid, 'SIGTERM');
    await sleep(500);
    const again = performance.now();
    if (!proxy.ended) process.kill(proxy.child.pid, 'SIGTERM');
    await within(8000, 'the end after the second SIGTERM', proxy.exit);
    assert.ok(performance.now() - again < 8000);
    await hanging;
  }));

test('a crashed worker is back, with longer and longer pauses', options, t =>
  withProxy(proxy => ({ apps: { a: life('leaves', { backoff: { min: '100ms', max: '10s' }, crash_loop: { max: 100 }, env: { BOOTS: proxy.file('boots', '') } }) } }), { ready: false }, async proxy => {
    const file = proxy.file('boots');
    await until(() => boots(file).length >= 6, { timeout: 30_000, what: 'six starts' });
    const at = boots(file).map(([time]) => time);
    const pauses = at.slice(1).map((time, i) => time - at[i] - 300);
    t.diagnostic(`pauses beyond the worker's own 300 ms: ${pauses}`);
    assert.ok(pauses[4] > pauses[0], `they grow: ${pauses}`);
    assert.ok(pauses[4] > 500, `the fifth pause is long: ${pauses}`);
    assert.equal(new Set(boots(file).map(([, , pid]) => pid)).size, boots(file).length);
  }));

test('one crash after a good time: back at once', options, t =>
  withProxy({ apps: { a: life('', { min_uptime: '100ms' }) } }, async proxy => {
    const [pid] = await proxy.pids(1);
    await sleep(300);
    const killed = performance.now();
    proxy.kill(pid);
    const [next] = await proxy.pids(1, { not: [pid] });
    t.diagnostic(`back after ${Math.round(performance.now() - killed)} ms`);
    assert.notEqual(next, pid);
    assert.ok(performance.now() - killed < 3000);
    await proxy.line(/SIGKILL|signal 9/i);
  }));

test('an app that cannot start: its words are shown, the proxy keeps trying', options, () =>
  withProxy(proxy => ({ apps: { a: life('fails', { queue, backoff: { min: '50ms', max: '300ms' }, env: { FLAG: proxy.file('flag'), BOOTS: proxy.file('boots', '') } }) } }),
    { ready: { status: 503 } },
    async proxy => {
      await proxy.line(/a\[0\] \d+ g1 err \| cannot start: no database at db\.example/);
      await proxy.line(/a\[0\] \d+ g1 out \| about to start/);
      // The proxy's own words name the exit code.
      await proxy.line(/a\[0\].*\b7\b/);
      await until(() => boots(proxy.file('boots')).length >= 3, { what: 'three tries' });
      assert.equal((await request(proxy.port, { path: '/pid' })).status, 503);
      proxy.file('flag', 'now it works');
      await proxy.ready({ timeout: 10_000 });
    }));

test('a worker that never listens: the start time-out is told, and it is tried again', options, () =>
  withProxy({ apps: { a: { script: './never.js', queue, start_timeout: '1500ms', stop_timeout: '500ms', backoff: { min: '50ms', max: '100ms' } } } },
    { ready: { status: 503 } },
    async proxy => {
      await proxy.line(/a\[0\].*(1\.5 ?s|start_timeout)/i);
      await until(() => proxy.lines.filter(line => /never listening/.test(line.text)).length >= 2, { timeout: 30_000, what: 'a second try' });
    }));

test('wait_ready: no traffic before process.send(\'ready\')', options, () =>
  withProxy(proxy => ({ apps: { a: life('ready-by-flag', { queue, wait_ready: true, env: { FLAG: proxy.file('flag') } }) } }), { ready: { status: 503 } }, async proxy => {
    await proxy.line(/\| listening/);
    for (const _ of range(5)) {
      assert.equal((await request(proxy.port, { path: '/pid' })).status, 503);
      await sleep(50);
    }
    proxy.file('flag', 'go');
    await proxy.ready({ timeout: 5000 });
  }));

test('requests wait for the first worker; only so many of them', options, () =>
  withProxy(proxy => ({ apps: { a: life('ready-by-flag', { wait_ready: true, queue: { max: 5, timeout: '30s' }, env: { FLAG: proxy.file('flag') } }) } }), { ready: false }, async proxy => {
    await proxy.line(/\| listening/);
    const early = range(8).map(() => request(proxy.port, { path: '/pid', timeout: 20_000 }));
    const refused = await Promise.any(early);
    assert.equal(refused.status, 503, 'more than the queue holds');
    proxy.file('flag', 'go');
    const answers = await Promise.all(early);
    assert.deepEqual(answers.map(answer => answer.status).sort(), [200, 200, 200, 200, 200, 503, 503, 503]);
  }));

test('the \'shutdown\' message and the stop signal', options, async () => {
  const lines = [];
  await withProxy({ apps: { a: life('tells') } }, async proxy => {
    proxy.listeners.add(line => lines.push(line.text));
  });
  const said = lines.join('\n');
  assert.match(said, /got message shutdown/);
  assert.match(said, /got SIGTERM/);
  assert.ok(said.indexOf('got message shutdown') < said.indexOf('got SIGTERM'), 'the message comes first');
});

test('stop_signal', options, async () => {
  const lines = [];
  await withProxy({ apps: { a: life('stubborn', { stop_signal: 'SIGHUP', stop_timeout: '500ms' }) } }, async proxy => {
    proxy.listeners.add(line => lines.push(line.text));
  });
  assert.match(lines.join('\n'), /ignoring SIGHUP/);
});

for (const order of ['second', 'second-first']) {
  test(`an app with two servers, ${order === 'second' ? 'the main one first' : 'the main one, named by PORT, last'}`, options, async () => {
    const [main, second] = [await freePort(), await freePort()];
    await withProxy({ apps: { a: life(order, { env: { PORT: String(main), SECOND: String(second) } }) } }, async proxy => {
      await proxy.line(/second listening/);
      for (const _ of range(5)) assert.match((await request(proxy.port, { path: '/x' })).text, /^\{/);
      const told = (await request(proxy.port, { path: '/x' })).json;
      assert.equal(told.main.port, main, 'server.address() is what the app asked for');
      assert.equal(told.second.port, second);
      await assert.rejects(request(main, { path: '/' }), /ECONNREFUSED/, 'the main one does not listen on TCP');
      await proxy.line(new RegExp(`port ${second} is not the app's public one .*: this worker listens on it`));
      assert.equal((await request(second, { path: '/' })).text, 'second', 'the other one does');
    });
  });
}

test('NODE_APP_INSTANCE, titles, environment and directory of workers', options, () =>
  withProxy(proxy => ({ apps: { shop: { script: './http.js', instances: 3, env: { OWN: 'a b$c' }, umask: '027' } } }), async proxy => {
    const seen = new Map();
    await until(async () => {
      const { json } = await request(proxy.port, { path: '/env' });
      seen.set(json.pid, json);
      return seen.size === 3;
    }, { what: 'answers of three workers' });
    const workers = [...seen.values()];
    assert.deepEqual(workers.map(worker => worker.env.NODE_APP_INSTANCE).sort(), ['0', '1', '2']);
    for (const worker of workers) {
      assert.equal(worker.env.OWN, 'a b$c');
      assert.equal(worker.umask, 0o027);
      assert.ok(worker.cwd.endsWith('/tests/e2e/apps'), worker.cwd);
      const title = readFileSync(`/proc/${worker.pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
      assert.equal(title, `shop: slot ${worker.env.NODE_APP_INSTANCE}`);
    }
  }));
