// -d and server.daemon: the command ends, its caller gets every stream back, the proxy goes on.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { BIN, Proxy, alive, configure, freePort, needsProxy } from './lib/proxy.mjs';
import { until, within } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };
const web = { script: './life.js', env: { HABITS: '' } };

/** Runs `body` with what starts proxies in the background; afterwards nothing of them may be left. */
async function inBackground(config, body) {
  const proxy = new Proxy();
  proxy.port = await freePort();
  try {
    const made = typeof config === 'function' ? config(proxy) : config;
    const server = { error_log: proxy.file('log', ''), ...made.server };
    if (server.error_log === undefined) delete server.error_log;
    const file = configure(proxy, { ...made, server });
    /** A shell's command line, to the end of the command and of its streams. */
    const shell = (line, { timeout = 20_000 } = {}) => new Promise(resolve => {
      const env = proxy.environment({ BIN, CONF: file });
      execFile('bash', ['-c', line], { env, timeout, cwd: proxy.dir }, (error, out, err) => {
        resolve({ code: error ? error.code ?? error.signal : 0, out, err });
      });
    });
    const log = () => readFileSync(proxy.file('log'), 'utf8');
    const pid = () => Number(readFileSync(path.join(proxy.runtime, 'pingora-unix-proxy.pid'), 'utf8'));
    const answers = () => until(async () => (await request(proxy.port, { path: '/pid' })).status === 200, { what: 'an answer' });
    await body({ proxy, file, shell, log, pid, answers });
    const left = proxy.proxyProcesses().filter(process => alive(process.pid));
    for (const { pid } of left) proxy.kill(pid, 'SIGTERM');
    for (const { pid } of left) await proxy.gone(pid);
    await proxy.assertNothingLeft();
  } catch (error) {
    try {
      console.error(`--- log\n${readFileSync(proxy.file('log'), 'utf8')}\n---`);
    } catch {
      // There is none.
    }
    throw error;
  } finally {
    proxy.killAll();
    if (!process.env.KEEP) rmSync(proxy.dir, { recursive: true, force: true });
  }
}

test('-d in a pipeline ends with the command, and everything said later is in error_log', options, () =>
  inBackground({ apps: { web: { ...web, env: { HABITS: 'tells' } } } }, async ({ proxy, shell, log, pid, answers }) => {
    // Whoever reads to the end waits for every holder of the pipe.
    const { code, out } = await shell('"$BIN" -d -c "$CONF" 2>&1 | cat; exit ${PIPESTATUS[0]}');
    assert.equal(code, 0, out);
    assert.match(out, /process \d+ goes on in the background; its log goes to .*\/log/);
    await answers();
    assert.equal(pid(), Number(/process (\d+)/.exec(out)[1]));
    const [{ ppid, pgid }] = proxy.proxyProcesses();
    assert.notEqual(ppid, process.pid);
    assert.notEqual(pgid, process.pid);
    process.kill(pid(), 'SIGTERM');
    await until(() => /got SIGTERM/.test(log()), { what: "the worker's line in the log" });
    assert.match(log(), /SIGTERM: stopping/);
    assert.doesNotMatch(log(), /\x1b\[/, 'no colours in a file');
  }));

test('-d takes nothing else from its caller: stdin, and what a script left open', options, () =>
  inBackground({ apps: { web } }, async ({ shell, answers }) => {
    const { code, out } = await shell('sleep 0.1 | { "$BIN" -d -c "$CONF"; } 7>&1 8>&2 >/dev/null 2>&1; echo over');
    assert.equal(code, 0);
    assert.equal(out, 'over\n');
    await answers();
  }));

test('-d without error_log says that the log is dropped; a file that is given as stdout is kept', options, () =>
  inBackground(proxy => ({ server: { error_log: undefined }, apps: { web } }), async ({ proxy, shell, pid, answers }) => {
    const dropped = await shell('"$BIN" -d -c "$CONF" 2>&1 | cat');
    assert.match(dropped.out, /its log is dropped, unless server\.error_log names a file.*workers' lines are dropped/);
    await answers();
    const first = pid();
    process.kill(first, 'SIGTERM');
    await proxy.gone(first);
    const kept = await shell(`"$BIN" -d -c "$CONF" >${proxy.file('kept')} 2>&1`);
    assert.equal(kept.code, 0);
    await answers();
    process.kill(pid(), 'SIGTERM');
    await until(() => /stopping/.test(readFileSync(proxy.file('kept'), 'utf8')), { what: 'the log in the file' });
  }));

test('-d: what keeps the proxy from starting is said, exit code 1, and nothing is left', options, () =>
  inBackground({ apps: { web } }, async ({ proxy, shell }) => {
    const holder = net.createServer();
    await new Promise(resolve => holder.listen(proxy.port, '127.0.0.1', resolve));
    try {
      const { code, err } = await shell('"$BIN" -d -c "$CONF"');
      assert.equal(code, 1);
      assert.match(err, /cannot listen on/);
      assert.doesNotMatch(err, /panicked|ended before/);
      await until(() => proxy.proxyProcesses().length === 0, { what: 'no process' });
    } finally {
      holder.close();
    }
  }));

test('daemon_wait_for_ready: 0 when every app is ready', options, () =>
  inBackground(proxy => ({
    server: { daemon: true, daemon_wait_for_ready: true },
    apps: { web: { script: './life.js', wait_ready: true, env: { HABITS: 'ready-by-flag', FLAG: proxy.file('flag') } } },
  }), async ({ proxy, shell, log }) => {
    let ended = false;
    const command = shell('"$BIN" -c "$CONF" | cat; exit ${PIPESTATUS[0]}').finally(() => (ended = true));
    await until(() => /\| listening/.test(log()), { what: 'a worker that is not ready yet' });
    assert.ok(!ended, 'the command waits');
    proxy.file('flag', 'go');
    const { code, err } = await command;
    assert.equal(code, 0, err);
    assert.equal((await request(proxy.port, { path: '/pid' })).status, 200, 'it serves at once');
    // What steers a proxy steers this one, too.
    const status = await shell('"$BIN" status -c "$CONF"');
    assert.match(status.out, /web.*ready/);
    const restarted = await shell('"$BIN" restart -c "$CONF"');
    assert.equal(restarted.code, 0, restarted.err);
  }));

test('daemon_wait_for_ready: 1 with the reason when an app cannot start, and nothing serves on', options, () =>
  inBackground(proxy => ({
    server: { daemon: true, daemon_wait_for_ready: true },
    apps: { web: { script: './life.js', crash_loop: { max: 2 }, backoff: { min: '50ms', max: '50ms' }, env: { HABITS: 'fails', FLAG: proxy.file('none') } } },
  }), async ({ proxy, shell }) => {
    const { code, err } = await shell('"$BIN" -c "$CONF"');
    assert.equal(code, 1);
    assert.match(err, /not ready: web/);
    assert.match(err, /^web:\n  \S/m, 'what the app itself said');
    assert.deepEqual(proxy.proxyProcesses(), [], 'the proxy has ended before the command');
    await assert.rejects(request(proxy.port, { path: '/pid' }), /ECONNREFUSED/);
  }));

test('daemon_ready_timeout_seconds: 1 with the reason, and nothing serves on', options, () =>
  inBackground({
    server: { daemon: true, daemon_wait_for_ready: true, daemon_ready_timeout_seconds: 1 },
    apps: { web: { script: './never.js', stop_timeout: '200ms' } },
  }, async ({ proxy, shell }) => {
    const { code, err } = await shell('"$BIN" -c "$CONF"');
    assert.equal(code, 1);
    assert.match(err, /not ready within 1s \(daemon_ready_timeout_seconds\): web/);
    assert.deepEqual(proxy.proxyProcesses(), []);
  }));

test('a command that is ended while it waits takes its proxy with it', options, () =>
  inBackground({
    server: { daemon: true, daemon_wait_for_ready: true },
    apps: { web: { script: './never.js', stop_timeout: '200ms' } },
  }, async ({ proxy, file, log }) => {
    const command = spawn(BIN, ['-c', file], { env: proxy.environment(), stdio: 'ignore' });
    const ended = new Promise(resolve => command.once('exit', (code, signal) => resolve(signal)));
    await until(() => /never listening/.test(log()), { what: 'a worker' });
    command.kill('SIGINT');
    assert.equal(await within(5000, 'the end of the command', ended), 'SIGINT');
    await until(() => proxy.proxyProcesses().length === 0, { what: 'the end of the proxy' });
    assert.match(log(), /the command that waited has ended/);
  }));

test('a proxy in the background is upgraded and reloaded as any other', options, () =>
  inBackground({ server: { daemon: true, daemon_wait_for_ready: true }, apps: { web } }, async ({ proxy, file, shell, log, pid }) => {
    // From another directory, with a relative path: the file is found again later.
    const started = await shell(`"$BIN" -c ${path.basename(file)} | cat; exit \${PIPESTATUS[0]}`);
    assert.equal(started.code, 0, started.err);
    const old = pid();
    writeFileSync(file, readFileSync(file, 'utf8').replace('apps:', 'limits: {body_size: 1mib}\napps:'));
    const reloaded = await shell('"$BIN" reload -c "$CONF"');
    assert.equal(reloaded.code, 0, reloaded.err);
    const upgraded = await shell('"$BIN" upgrade -c "$CONF"');
    assert.equal(upgraded.code, 0, upgraded.err + log());
    await until(() => pid() !== old, { what: 'the number of the successor in pid_file' });
    await proxy.gone(old);
    assert.equal((await request(proxy.port, { path: '/pid' })).status, 200);
    process.kill(pid(), 'SIGTERM');
    await until(() => !existsSync(path.join(proxy.runtime, 'pingora-unix-proxy.pid')), { what: 'no pid_file' });
  }));
