// The other end of docs/protocol.md: a control server that records what workers say, and workers to say it.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const here = path.dirname(fileURLToPath(import.meta.url));
const sources = path.resolve(here, '../../src/process/preload');
/** The modules themselves, or the file that PRELOAD names: the proxy's one file, which `cargo test --lib preload` writes. */
export const preload = path.resolve(process.env.PRELOAD || path.join(sources, 'index.cjs'));
const LIMIT_MS = 20_000;

if (process.env.PRELOAD) {
  const script = fs.readFileSync(preload, 'utf8');
  for (const name of fs.readdirSync(sources).filter((file) => file.endsWith('.cjs'))) {
    const source = fs.readFileSync(path.join(sources, name), 'utf8');
    if (!script.includes(source)) throw new Error(`${preload} is older than ${name}: run cargo test --lib preload`);
  }
}

/** Waits until `probe` gives something truthy; a failure names what was waited for. */
export async function until(what, probe) {
  const deadline = Date.now() + LIMIT_MS;
  for (;;) {
    const found = await probe();
    if (found) return found;
    if (Date.now() > deadline)
      throw new Error(`waited ${LIMIT_MS} ms for ${typeof what === 'function' ? what() : what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** One worker process's connection, as the proxy sees it. */
class Peer {
  lines = [];
  closed = false;
  constructor(socket) {
    this.socket = socket;
    let text = '';
    socket.setEncoding('utf8');
    socket.on('data', (more) => {
      text += more;
      const parts = text.split('\n');
      text = parts.pop();
      for (const part of parts) {
        const line = JSON.parse(part);
        if (line.type === 'hello') this.hello = line;
        this.lines.push(line);
        if (line.type === 'hello' || line.type === 'join') this.onHello?.();
      }
    });
    socket.on('error', () => {});
    socket.on('close', () => (this.closed = true));
  }
  say(line) {
    this.socket.write(typeof line === 'string' ? line : JSON.stringify(line) + '\n');
  }
  all(type) {
    return this.lines.filter((line) => line.type === type);
  }
}

/** A fake proxy with a runtime directory of its own; the test's end removes everything. */
export class Proxy {
  peers = [];
  workers = [];
  answer = { type: 'welcome' };

  static async start(t, settings = {}) {
    const proxy = new Proxy();
    proxy.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'preload-'));
    proxy.settings = {
      protocol: 1,
      control: path.join(proxy.dir, 'control.sock'),
      socket: path.join(proxy.dir, 'app.0.7.sock'),
      app: 'app',
      slot: 0,
      incarnation: 7,
      token: 'secret',
      tag: 'T4g',
      port: 8000,
      wait_ready: false,
      keep_alive_ms: 75000,
      orphan_ms: 30000,
      ...settings,
    };
    await proxy.open();
    t.after(async () => {
      for (const worker of proxy.workers) await worker.stop();
      await proxy.shut();
      fs.rmSync(proxy.dir, { recursive: true });
    });
    return proxy;
  }

  get socket() {
    return this.settings.socket;
  }
  socketOf(port) {
    return this.socket.replace(/\.sock$/, `-${port}.sock`);
  }

  open() {
    this.server = net.createServer((socket) => {
      const peer = new Peer(socket);
      peer.onHello = () => this.answer && peer.say(this.answer);
      this.peers.push(peer);
    });
    return new Promise((resolve) => this.server.listen(this.settings.control, resolve));
  }
  /** What a crash of the proxy looks like to a worker. */
  async shut() {
    if (!this.server.listening) return;
    const closed = new Promise((resolve) => this.server.close(resolve));
    for (const peer of this.peers) peer.socket.destroy();
    await closed;
  }

  env(extra = {}) {
    const env = { ...process.env, ...extra };
    for (const name of ['PORT', 'NODE_CHANNEL_FD', 'NODE_TEST_CONTEXT']) if (!(name in extra)) delete env[name];
    if (!('PINGORA_UNIX_PROXY_WORKER' in extra)) env.PINGORA_UNIX_PROXY_WORKER = JSON.stringify(this.settings);
    env.PINGORA_UNIX_PROXY_SOCKET = this.socket;
    if (!('NODE_OPTIONS' in extra)) env.NODE_OPTIONS = `--require ${preload}`;
    return env;
  }

  /** Starts a process of the app. */
  spawn(command, { env, cwd = here, ipc = false } = {}) {
    const worker = new Worker(command, { env: this.env(env), cwd, ipc });
    this.workers.push(worker);
    return worker;
  }
  /** Runs JavaScript as the app, CommonJS unless `esm`. */
  run(code, { esm = false, ...options } = {}) {
    const type = esm ? 'module' : 'commonjs';
    return this.spawn([process.execPath, `--input-type=${type}`, '-e', code], options);
  }

  /** All lines of a type, from every process of the app. */
  lines(type) {
    return this.peers.flatMap((peer) => peer.all(type));
  }
  said(type, match = () => true) {
    const seen = () => `a "${type}" line; workers said ${this.workers.map((w) => w.out + w.err).join('')}`;
    return until(seen, () => this.lines(type).find(match));
  }
  /** The main server's `path` line. */
  main() {
    return this.said('path', (line) => line.main);
  }
  get(options = {}) {
    return request({ socketPath: this.socket, ...options });
  }
}

class Worker {
  out = '';
  err = '';
  messages = [];
  exit = null;
  constructor([command, ...args], { env, cwd, ipc }) {
    const stdio = ['ignore', 'pipe', 'pipe', ...(ipc ? ['ipc'] : [])];
    this.child = spawn(command, args, { env, cwd, stdio, detached: true });
    this.pid = this.child.pid;
    this.child.stdout.setEncoding('utf8').on('data', (text) => (this.out += text));
    this.child.stderr.setEncoding('utf8').on('data', (text) => (this.err += text));
    this.child.on('message', (message) => this.messages.push(message));
    this.ended = new Promise((resolve) =>
      this.child.on('close', (code, signal) => resolve((this.exit = { code, signal }))),
    );
  }
  /** The first line of stdout that begins with `word`, without it. */
  printed(word) {
    return until(
      () => `"${word}" on stdout; got ${this.out}${this.err}`,
      () => {
        const line = this.out
          .split('\n')
          .slice(0, -1)
          .find((l) => l.startsWith(word + ' '));
        return line && line.slice(word.length + 1);
      },
    );
  }
  async stop() {
    try {
      process.kill(-this.pid, 'SIGKILL');
    } catch {
      // The whole group is gone.
    }
    await this.ended;
  }
}

export function request({ body, ...options }) {
  return new Promise((resolve, reject) => {
    const sent = http.request(options, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (more) => (text += more));
      const done = () => resolve({ status: response.statusCode, headers: response.headers, body: text });
      // Node may see the end of an echo before that of its own write, which then has nobody to tell of an error.
      response.on('end', () => (sent.writableFinished ? done() : sent.once('finish', done)));
      response.on('error', reject);
    });
    sent.on('error', reject);
    sent.setTimeout(LIMIT_MS, () => sent.destroy(new Error(`no answer within ${LIMIT_MS} ms`)));
    sent.end(body);
  });
}
