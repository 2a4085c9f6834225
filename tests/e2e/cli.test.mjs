// The command, as a person meets it.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { BIN, Proxy, apps, configure, freePort, needsProxy, withProxy } from './lib/proxy.mjs';
import { until, within } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };

/** Runs the binary to its end; nothing of it may be left. */
async function run(args, { write, ...more } = {}) {
  const proxy = new Proxy();
  try {
    write?.(proxy);
    const started = performance.now();
    proxy.run(BIN, typeof args === 'function' ? args(proxy) : args, more);
    const { code, signal } = await within(30_000, 'the end of the command', proxy.exit);
    const text = stream => proxy.lines.filter(line => line.stream === stream).map(line => line.text).join('\n');
    await proxy.assertNothingLeft();
    return { code, signal, ms: performance.now() - started, out: text('stdout'), err: text('stderr'), all: proxy.output };
  } catch (error) {
    proxy.show();
    throw error;
  } finally {
    await proxy.stop({ timeout: 5000 }).catch(() => {});
  }
}

test('--version and --help', options, async () => {
  const version = await run(['--version']);
  assert.equal(version.code, 0);
  assert.match(version.out, /^pingora-unix-proxy \d+\.\d+\.\d+/);
  const help = await run(['--help']);
  assert.equal(help.code, 0);
  for (const word of ['-c', '-t', '-u', '-d', '-- ']) assert.ok(help.out.includes(word), `${word} in the help`);
});

test('no arguments, wrong arguments, no such file: what to do, exit code not 0', options, async () => {
  for (const args of [[], ['--wrong'], ['-c', '/nowhere/conf.yaml'], ['-c']]) {
    const { code, err } = await run(args);
    assert.notEqual(code, 0, args.join(' '));
    assert.ok(err.length > 10, `${args}: says something on stderr`);
    assert.doesNotMatch(err, /panicked/);
  }
});

test('-t: a good file, and a file with five different mistakes', options, async () => {
  const good = await run(proxy => {
    proxy.port = 12_345;
    return ['-t', '-c', configure(proxy, { apps: { web: { script: './http.js' } } })];
  });
  assert.equal(good.code, 0, good.all);

  const mistakes = [
    'listeners:',
    '  - {address: "127.0.0.1:99999"}',
    'apps:',
    '  web:',
    '    script: ./missing.js',
    '    instnces: 2',
    '    stop_timeout: 10 parsecs',
    'routes:',
    '  - {path: /, app: wbe}',
    '',
  ].join('\n');
  const bad = await run(proxy => {
    const file = path.join(proxy.dir, 'conf.yaml');
    writeFileSync(file, mistakes);
    return ['-t', '-c', file];
  });
  assert.equal(bad.code, 1);
  const places = [...bad.all.matchAll(/conf\.yaml:(\d+):(\d+)/g)].map(match => Number(match[1]));
  assert.deepEqual([...new Set(places)].sort((a, b) => a - b), [2, 5, 6, 7, 9], bad.all);
  assert.match(bad.all, /instances/, 'the nearest known name');
  assert.match(bad.all, /\bweb\b/, 'the nearest known app');
});

test('a busy TCP port: a clear error, soon, and no worker left', options, async () => {
  const port = await freePort();
  const holder = net.createServer();
  await new Promise(resolve => holder.listen(port, '127.0.0.1', resolve));
  try {
    const { code, all, ms } = await run(proxy => {
      proxy.port = port;
      return ['-c', configure(proxy, { apps: { web: { script: './http.js' } } })];
    });
    assert.notEqual(code, 0);
    assert.match(all, new RegExp(`127\\.0\\.0\\.1:${port}.*(in use|another program)|in use.*127\\.0\\.0\\.1:${port}`, 'i'));
    assert.ok(ms < 10_000, `took ${ms} ms`);
    assert.doesNotMatch(all, /panicked/);
  } finally {
    holder.close();
  }
});

test('a second proxy on the same runtime directory is refused, the first goes on', options, () =>
  withProxy({ apps: { web: { script: './http.js' } } }, async first => {
    const port = await freePort();
    const second = await run(proxy => {
      proxy.port = port;
      return ['-c', configure(proxy, { runtime_dir: first.runtime, apps: { web: { script: './http.js' } } })];
    });
    assert.notEqual(second.code, 0);
    assert.match(second.all, new RegExp(`${first.runtime}.*(in use|another)`));
    assert.match(second.all, new RegExp(`\\b${first.child.pid}\\b`), 'it names the pid of the other');
    assert.equal((await request(first.port, { path: '/pid' })).status, 200);
    assert.equal((await first.pids(1)).length, 1);
  }));

/** A proxy that was killed, and its workers that are still there. */
async function killed(t) {
  const config = { apps: { web: { script: './http.js', instances: 2 } } };
  const proxy = new Proxy();
  proxy.port = await freePort();
  t.after(async () => {
    proxy.killAll();
    await proxy.stop().catch(() => {});
  });
  proxy.run(BIN, ['-c', configure(proxy, config)]);
  await proxy.ready({ workers: 2 });
  proxy.kill(proxy.child.pid);
  await proxy.exit;
  assert.equal(proxy.workerProcesses().length, 2, 'workers outlive their proxy');
  return { proxy, config };
}

/** Runs the next proxy in the directory of the killed one. */
const succeed = ({ proxy, config }, body) =>
  withProxy({ ...config, runtime_dir: proxy.runtime }, async next => {
    next.runtime = proxy.runtime;
    assert.equal((await request(next.port, { path: '/pid' })).status, 200);
    await body?.(next);
  });

test('a proxy is killed and started again at once: it takes its old workers over, and ends them with it', options, async t => {
  const first = await killed(t);
  const before = first.proxy.workerProcesses().map(process => process.pid).sort();
  await succeed(first, async next => assert.deepEqual((await next.pids(2)).sort(), before));
  await until(() => first.proxy.processes().length === 0, { timeout: 5000, what: 'the end of the old workers' });
});

const slow = { timeout: 120_000, skip: options.skip ?? (process.env.SLOW ? false : 'set SLOW=1') };
test('a proxy is killed: its workers end by themselves, and the next one finds nothing in its way', slow, async t => {
  const first = await killed(t);
  await until(() => first.proxy.processes().length === 0, { timeout: 60_000, what: 'the end of the old workers' });
  await succeed(first);
});

test('without a file: pingora-unix-proxy -- node app.js', options, async t => {
  const free = await new Promise(resolve => {
    const probe = net.createServer().once('error', () => resolve(false));
    probe.listen(8000, '127.0.0.1', () => probe.close(() => resolve(true)));
  });
  const runtime = process.getuid() === 0 ? '/run/pingora-unix-proxy' : undefined;
  if (!free || (runtime && existsSync(runtime))) return t.skip('port 8000 or the default runtime directory is in use');
  const proxy = new Proxy();
  proxy.port = 8000;
  proxy.runtime = runtime ?? path.join(proxy.dir, 'pingora-unix-proxy');
  try {
    proxy.run(BIN, ['--', 'node', 'http.js'], { cwd: apps });
    await proxy.ready();
    assert.match((await request(8000, { path: '/pid' })).text, /^\d+$/);
  } catch (error) {
    proxy.show();
    throw error;
  } finally {
    await proxy.stop();
  }
});

test('the -- form passes arguments on unchanged, without a shell', options, async () => {
  // Checked by -t, which starts nothing.
  const { status } = spawnSync(BIN, ['-t', '--', 'node', 'http.js', '$HOME', '; false'], { cwd: apps, timeout: 20_000 });
  assert.equal(status, 0);
});

test("a damaged certificate among the system's authorities keeps no proxy from starting, nor a worker from serving", options, async () => {
  const proxy = new Proxy();
  const authorities = proxy.file('authorities.pem', '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n');
  const notes = proxy.file('notes', '');
  const checked = { script: './http.js', env: { NOTES: notes }, health_check: { path: '/note?id=check', interval: '500ms' } };
  try {
    proxy.port = await freePort();
    const config = { apps: { web: { script: './http.js' }, checked }, routes: [{ path: '/checked', app: 'checked' }, { path: '/', app: 'web' }] };
    proxy.run(BIN, ['-c', configure(proxy, config)], { env: { SSL_CERT_FILE: authorities } });
    await proxy.ready();
    await until(() => readFileSync(notes, 'utf8').split('check').length > 2, { what: 'two health checks' });
    assert.doesNotMatch(proxy.output, /panicked/);
  } catch (error) {
    proxy.show();
    throw error;
  } finally {
    await proxy.stop();
  }
});
