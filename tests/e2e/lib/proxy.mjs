// Starts the built binary on a configuration of the test's own, and checks afterwards that nothing of it is left.
//
// With TARGET=plain the first app runs alone under plain Node.js on the listener's port instead: that checks apps,
// clients and tests themselves. What only the proxy can do is then skipped (`needsProxy`).

import { execFile, execFileSync, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import assert from 'node:assert/strict';
import { request } from './http.mjs';
import { range, sleep, until, within } from './wait.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
export const suiteDir = path.dirname(here);
export const apps = path.join(suiteDir, 'apps');
export const BIN = path.resolve(process.env.BIN ?? path.join(suiteDir, '../../target/debug/pingora-unix-proxy'));
export const PLAIN = process.env.TARGET === 'plain';
/** For the options of tests that only the proxy can pass. */
export const needsProxy = PLAIN ? { skip: 'needs the proxy' } : {};

/** For the options of tests of the upgrade, as long as there are binaries without it. */
export const needsUpgrade = PLAIN ? needsProxy : { skip: !/^    upgrade\b/m.test(help()) && 'the binary has no command upgrade' };

function help() {
  try {
    return execFileSync(BIN, ['--help'], { encoding: 'utf8', timeout: 10_000 });
  } catch {
    return '';
  }
}

const GUARD = /^pingora-unix-proxy: guard of (\d+)/;
const KEPT_LINES = 4000;
const running = new Set();

process.on('exit', () => {
  for (const proxy of running) proxy.killAll();
});
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(1));

/** A free TCP port outside the range that outgoing connections take theirs from. */
export async function freePort() {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 22_000);
    if (await bindable(port)) return port;
  }
}

const bindable = port =>
  new Promise(resolve => {
    const server = net.createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });

/** Block YAML of plain objects; every string is quoted. */
export function yaml(value, indent = '') {
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  if (Array.isArray(value) || Object.keys(value).length === 0) return JSON.stringify(value);
  return Object.entries(value)
    .filter(([, v]) => v !== undefined)
    .map(([key, v]) => {
      const name = /^[\w.-]+$/.test(key) ? key : JSON.stringify(key);
      const nested = v !== null && typeof v === 'object' && !Array.isArray(v) && Object.keys(v).length > 0;
      return nested ? `${indent}${name}:\n${yaml(v, `${indent}  `)}` : `${indent}${name}: ${yaml(v)}`;
    })
    .join('\n');
}

/** Processes whose environment holds this mark, zombies excluded. */
export function markedProcesses(mark) {
  const found = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      if (!readFileSync(`/proc/${name}/environ`, 'latin1').includes(mark)) continue;
      const [state, ppid, pgid] = statFields(name);
      const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
      // The name of a binary that was replaced.
      const exe = readlinkSync(`/proc/${name}/exe`).replace(/ \(deleted\)$/, '');
      found.push({ pid: Number(name), state, ppid, pgid, command, exe });
    } catch {
      // It went away while we looked.
    }
  }
  return found;
}

/** The process groups that have a member which is no zombie. */
function livingGroups() {
  const groups = new Set();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const [state, , pgid] = statFields(name);
      if (state !== 'Z' && state !== 'X') groups.add(pgid);
    } catch {
      // It went away while we looked.
    }
  }
  return groups;
}

/** Whether a process has not ended yet. A zombie has, unless it has threads left: then its files are open still. */
export function alive(pid) {
  try {
    return statFields(pid)[0] !== 'Z' || readdirSync(`/proc/${pid}/task`).length > 1;
  } catch {
    return false;
  }
}

/** State, parent, process group of a process. */
function statFields(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const [state, ppid, pgid] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return [state, Number(ppid), Number(pgid)];
}

export class Proxy {
  constructor() {
    this.dir = mkdtempSync('/tmp/pup-');
    this.runtime = path.join(this.dir, 'run');
    this.tmp = path.join(this.dir, 'tmp');
    this.mark = `PUP_E2E=${randomUUID()}`;
    this.lines = [];
    this.listeners = new Set();
    this.seen = new Map();
    this.bytes = 0;
    /** Processes of the proxy that took over, in their order. */
    this.successors = [];
    this.binaries = new Set([BIN]);
    mkdirSync(this.tmp);
  }

  /** The process that serves now. */
  get pid() {
    return this.successors.at(-1) ?? this.child.pid;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  get output() {
    return this.lines.map(line => line.text).join('\n');
  }

  /** A file in the proxy's private directory that the test, or its app, writes. */
  file(name, text) {
    const at = path.join(this.dir, 'own', name);
    mkdirSync(path.dirname(at), { recursive: true });
    if (text !== undefined) writeFileSync(at, text);
    return at;
  }

  environment(extra = {}) {
    const env = { ...process.env, TMPDIR: this.tmp, XDG_RUNTIME_DIR: this.dir };
    for (const name of ['NODE_OPTIONS', 'NODE_TEST_CONTEXT', 'NODE_V8_COVERAGE', 'NODE_APP_INSTANCE', 'PORT', 'SIO']) {
      delete env[name];
    }
    const [name, value] = this.mark.split('=');
    return { ...env, [name]: value, ...extra };
  }

  run(command, args, options) {
    running.add(this);
    this.startedAt = performance.now();
    this.child = this.#spawn(command, args, options);
    this.exit = this.child.exit;
    this.exit.then(() => (this.ended = this.child.ended), () => {});
    this.child.once('exit', () => (this.ended = this.child.ended));
  }

  /** A process whose output is ours; `exit` of it is a promise of how it ended, `ended` says that at once. */
  #spawn(command, args, { cwd = this.dir, env = {} } = {}) {
    const child = spawn(command, args, { cwd, env: this.environment(env), stdio: ['ignore', 'pipe', 'pipe'] });
    child.exit = new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (code, signal) => {
        child.ended = { code, signal };
        // Its last words may still be in the pipe, but a process left behind could hold that open for ever.
        Promise.race([new Promise(flushed => child.once('close', flushed)), sleep(1000)]).then(() => resolve(child.ended));
      });
    });
    child.exit.catch(() => {});
    for (const stream of ['stdout', 'stderr']) this.#collect(child, stream);
    return child;
  }

  /** The command `upgrade`, to its end; when it says that it is done, the proxy is the new process. */
  async upgrade({ binary = BIN, args = [], timeout = 90_000 } = {}) {
    this.binaries.add(binary);
    const old = this.pid;
    const started = performance.now();
    const { code, out, err } = await new Promise(resolve => {
      const all = ['upgrade', '-c', path.join(this.dir, 'conf.yaml'), ...args];
      execFile(binary, all, { timeout, env: this.environment() }, (error, out, err) => {
        resolve({ code: error ? error.code ?? error.signal : 0, out, err });
      });
    });
    const [, pid, from] = /process (\d+) took over from (\d+)/.exec(out) ?? [];
    const outcome = { code, out, err, old, pid: Number(pid), from: Number(from), at: performance.now(), ms: performance.now() - started };
    if (code === 0 && pid) this.successors.push(outcome.pid);
    return outcome;
  }

  /** A successor started by hand, `-u`: it waits for its predecessor's SIGQUIT. Whoever sees it take over says `promote`. */
  candidate({ binary = BIN, env } = {}) {
    this.binaries.add(binary);
    return this.#spawn(binary, ['-u', '-c', path.join(this.dir, 'conf.yaml')], { env });
  }

  promote(candidate) {
    this.successors.push(candidate.pid);
  }

  /** Processes of the proxy itself, whoever started them; their guards are not. */
  proxyProcesses() {
    return this.processes().filter(({ exe, command }) => this.binaries.has(exe) && !GUARD.test(command));
  }

  /** The guards, each with the process id of its proxy. */
  guards() {
    const guards = this.processes().filter(({ exe, command }) => this.binaries.has(exe) && GUARD.test(command));
    return guards.map(guard => ({ ...guard, of: Number(GUARD.exec(guard.command)[1]) }));
  }

  /** Waits for the end of a process; returns when that was. */
  async gone(pid, { timeout = 20_000, what = `the end of ${pid}` } = {}) {
    await until(() => !alive(pid), { timeout, what, every: 10 });
    return performance.now();
  }

  #collect(child, stream) {
    let rest = '';
    const keep = text => {
      const line = { stream, text, at: performance.now(), from: child.pid };
      this.lines.push(line);
      if (this.lines.length > 2 * KEPT_LINES) this.lines.splice(0, KEPT_LINES);
      for (const listener of this.listeners) listener(line);
    };
    child[stream].setEncoding('utf8');
    child[stream].on('data', text => {
      this.bytes += text.length;
      const parts = (rest + text).split('\n');
      rest = parts.pop();
      parts.forEach(keep);
    });
    child[stream].on('end', () => rest && keep(rest));
  }

  /** The first line of output, past or coming, that matches. */
  line(pattern, { timeout = 10_000, from = 0 } = {}) {
    const fits = line => line.at >= from && pattern.test(line.text);
    return until(() => this.lines.find(fits), { timeout, what: `a line of output like ${pattern}` });
  }

  processes() {
    const list = markedProcesses(this.mark);
    for (const process of list) this.seen.set(process.pid, process);
    return list;
  }

  /** Processes of the workers: everything that carries our mark but the proxy itself. */
  workerProcesses() {
    return this.processes().filter(({ pid, exe }) => pid !== this.child.pid && !this.binaries.has(exe));
  }

  /** Sends a signal to a process that this proxy started; refuses any other. Returns when that was. */
  kill(pid, signal = 'SIGKILL') {
    assert.ok(this.processes().some(process => process.pid === pid), `${pid} is not a process of this test`);
    process.kill(pid, signal);
    return performance.now();
  }

  killAll() {
    for (const { pid } of this.processes()) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // Gone already.
      }
    }
    running.delete(this);
  }

  /** Waits until `fn` is answered by `status`; each try is a new connection. */
  async ready({ path: at = '/pid', status = 200, timeout = 30_000, workers } = {}) {
    await until(
      async () => {
        if (this.ended && this.pid === this.child.pid) throw Object.assign(new Error(`it ended: ${JSON.stringify(this.ended)}`), { fatal: true });
        return (await request(this.port, { path: at, timeout: 5000 })).status === status;
      },
      { timeout, every: 25, what: `${at} answered with ${status}` },
    );
    if (workers && !PLAIN) await this.pids(workers, { timeout });
    this.processes();
  }

  /** The pids of `count` different workers, as answered by GET /pid. */
  async pids(count, { timeout = 30_000, path: at = '/pid?ms=40', not = [] } = {}) {
    if (PLAIN) count = 1;
    const pids = new Set();
    await until(
      async () => {
        const answers = await Promise.all(range(2 * count).map(() => request(this.port, { path: at, timeout: 5000 })));
        for (const answer of answers) {
          if (answer.status === 200 && !not.includes(Number(answer.text))) pids.add(Number(answer.text));
        }
        return pids.size >= count;
      },
      { timeout, what: () => `${count} workers to answer, so far ${[...pids]}` },
    );
    return [...pids];
  }

  /** Ends the proxy alone: what it did not start lives on, and `run` may start it again. */
  async interrupt({ signal = 'SIGTERM', timeout = 20_000, code = 0 } = {}) {
    process.kill(this.child.pid, signal);
    const ended = await within(timeout, `the proxy's end after ${signal}`, this.exit);
    assert.deepEqual(ended, { code, signal: code === null ? signal : null }, 'exit of the proxy');
    this.ended = undefined;
  }

  /** Ends the proxy by a signal, then checks that it left nothing. */
  async stop({ signal = 'SIGTERM', timeout = 20_000, code = 0, killed = null } = {}) {
    try {
      this.processes();
      if (alive(this.pid)) process.kill(this.pid, signal);
      await this.gone(this.pid, { timeout, what: `the proxy's end after ${signal}` });
      // One that has handed over ends by itself.
      const ended = await within(timeout, `the end of the proxy's first process`, this.exit);
      if (PLAIN) return;
      assert.deepEqual(ended, { code, signal: killed }, 'exit of the proxy');
      await this.assertNothingLeft();
    } finally {
      this.killAll();
      if (!process.env.KEEP) rmSync(this.dir, { recursive: true, force: true });
    }
  }

  async assertNothingLeft() {
    const left = () => this.processes().map(({ pid, ppid, state, command }) => `${pid} (${state}, child of ${ppid}) ${command}`);
    // A process that was just killed may take a moment to vanish from /proc.
    await until(() => left().length === 0, { timeout: 500, what: () => `no process left:\n${left().join('\n')}` });
    const groups = new Set([...this.seen.values()].map(process => process.pgid));
    groups.delete(statFields('self')[2]);
    // One that ends has no environment any more, and is a member for a moment longer.
    const members = () => {
      const living = livingGroups();
      return [...groups].filter(pgid => living.has(pgid));
    };
    await until(() => members().length === 0, { timeout: 500, what: () => `process groups ${members()} without members` });
    const inRuntime = existsSync(this.runtime) ? readdirSync(this.runtime, { recursive: true }) : [];
    assert.deepEqual(inRuntime, [], 'files left in the runtime directory');
    assert.deepEqual(readdirSync(this.tmp), [], 'files left in TMPDIR');
    const strangers = readdirSync(this.dir).filter(name => !['run', 'tmp', 'own', 'conf.yaml'].includes(name));
    assert.deepEqual(strangers, [], 'unexpected files');
    assert.ok(!readFileSync('/proc/net/unix', 'utf8').includes(this.dir), 'a Unix socket is still bound');
  }

  /** Prints what the proxy said, for a failed test. */
  show(title = 'output of the proxy') {
    const told = this.lines.filter(line => !/ \| line \d+ of \d+ /.test(line.text));
    const tail = told.slice(-80).map(line => `  ${line.from} ${line.stream === 'stderr' ? '!' : '|'} ${line.text.slice(0, 2000)}`);
    console.error(`--- ${title} (last ${tail.length} lines)\n${tail.join('\n')}\n---`);
  }
}

/** Writes a configuration: `config` with what every test needs filled in. */
export function configure(proxy, config) {
  const filled = {
    ...config,
    server: { threads: 2, ...config.server },
    listeners: config.listeners ?? [{ address: `127.0.0.1:${proxy.port}` }],
    runtime_dir: config.runtime_dir ?? proxy.runtime,
    apps: Object.fromEntries(Object.entries(config.apps).map(([name, app]) => [name, { cwd: apps, ...app }])),
  };
  const file = path.join(proxy.dir, 'conf.yaml');
  writeFileSync(file, `${yaml(filled)}\n`);
  return file;
}

/**
 * Starts the proxy. `config` may be a function of the proxy (for paths in its directory).
 * `ready`: what to wait for, see `Proxy.ready`; false waits for nothing. `nofile`: its limit of open files.
 */
export async function startProxy(config, { ready = {}, env, nofile } = {}) {
  const proxy = new Proxy();
  proxy.port = await freePort();
  try {
    const made = typeof config === 'function' ? config(proxy) : config;
    if (PLAIN) runPlain(proxy, made);
    else {
      if (!existsSync(BIN)) throw new Error(`no such binary: ${BIN} (build it, or set BIN)`);
      const args = ['-c', configure(proxy, made)];
      if (nofile) proxy.run('sh', ['-c', `ulimit -n ${nofile} && exec "$0" "$@"`, BIN, ...args], { env });
      else proxy.run(BIN, args, { env });
    }
    const first = Object.values(made.apps)[0];
    if (ready) await proxy.ready({ workers: typeof first.instances === 'number' ? first.instances : undefined, ...ready });
    return proxy;
  } catch (error) {
    proxy.show();
    if (proxy.child) await proxy.stop().catch(() => {});
    else rmSync(proxy.dir, { recursive: true, force: true });
    throw error;
  }
}

function runPlain(proxy, config) {
  const app = Object.values(config.apps)[0];
  const cwd = path.resolve(app.cwd ?? apps);
  const socket = path.join(proxy.tmp, 'plain.sock');
  const fill = text => String(text).replaceAll('{socket}', socket).replaceAll('{slot}', '0').replaceAll('{port}', proxy.port);
  const [command, ...args] = (app.command ?? [process.execPath, app.script, ...(app.args ?? [])]).map(fill);
  const env = Object.fromEntries(Object.entries(app.env ?? {}).map(([key, value]) => [key, fill(value)]));
  proxy.run(command, args, { cwd, env: { PORT: String(proxy.port), NODE_APP_INSTANCE: '0', ...env } });
}

/** Runs `body` against a proxy of its own; shows the output when it fails; always stops and checks. */
export async function withProxy(config, options, body) {
  if (typeof options === 'function') [options, body] = [{}, options];
  const proxy = await startProxy(config, options);
  let failed = false;
  try {
    return await body(proxy);
  } catch (error) {
    failed = true;
    proxy.show();
    throw error;
  } finally {
    try {
      await proxy.stop(options.stop);
    } catch (error) {
      if (!failed) {
        proxy.show();
        // The body has passed: this is the test's failure then.
        // eslint-disable-next-line no-unsafe-finally
        throw error;
      }
    }
  }
}
