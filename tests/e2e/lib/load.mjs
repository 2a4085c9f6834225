// A bounded load: a few clients of each kind that talk until they are stopped, and count what fails, with reasons.
//
// A session that ends is no failure by itself: it is noted with the worker that had it, and the test judges.

import { createRequire } from 'node:module';
import http from 'node:http';
import { request } from './http.mjs';
import { WebSocket } from './upgrade.mjs';
import { range, sleep, until } from './wait.mjs';

const { io } = createRequire(import.meta.url)('socket.io-client-4');

/** Each failure is kept up to this number; the rest is counted. */
const KEPT = 200;
const ANSWER_TIMEOUT = 20_000;

/** How many clients of each kind, and how fast they are. */
const DEFAULTS = {
  keepAlive: 3,
  fresh: 2,
  slow: 3,
  polling: 6,
  websocket: 6,
  raw: 12,
  /** Between an answer and the next question, ms. */
  pause: 25,
  path: '/pid',
  slowPath: '/slow?ms=400',
  /** It ends by itself after this, ms. */
  limit: 120_000,
};

/** What one kind of load did. */
class Tally {
  done = 0;
  failures = 0;
  /** {at, took, why} */
  failed = [];
  /** Milliseconds of every answer. */
  times = [];
  /** Which process answered, and when last. */
  pids = new Map();

  pass(started, pid) {
    const now = performance.now();
    this.done++;
    this.times.push(now - started);
    if (pid) this.pids.set(pid, now);
  }

  fail(started, why) {
    this.failures++;
    const now = performance.now();
    if (this.failed.length < KEPT) this.failed.push({ at: Math.round(started), took: Math.round(now - started), why });
  }

  percentile(share) {
    const sorted = [...this.times].sort((a, b) => a - b);
    return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : 0;
  }

  get longest() {
    return this.times.reduce((most, time) => Math.max(most, time), 0);
  }
}

export class Load {
  constructor(proxy, options = {}) {
    this.proxy = proxy;
    this.options = { ...DEFAULTS, ...options };
    this.tallies = {};
    this.visitors = [];
    this.running = false;
  }

  /** Only the kinds that are named. */
  static only(proxy, options) {
    const none = { keepAlive: 0, fresh: 0, slow: 0, polling: 0, websocket: 0, raw: 0 };
    return new Load(proxy, { ...none, ...options });
  }

  tally(kind) {
    return (this.tallies[kind] ??= new Tally());
  }

  /** Returns when every client has had its first answer. */
  async start() {
    const { keepAlive, fresh, slow, polling, websocket, raw, path, slowPath } = this.options;
    this.running = true;
    this.startedAt = performance.now();
    this.ender = setTimeout(() => (this.running = false), this.options.limit);
    this.ender.unref();
    this.agents = range(keepAlive + slow).map(() => new http.Agent({ keepAlive: true, maxSockets: 1 }));
    this.lanes = [
      ...range(keepAlive).map(i => this.#ask('keepAlive', path, this.agents[i])),
      ...range(fresh).map(() => this.#ask('fresh', path, false)),
      ...range(slow).map(i => this.#ask('slow', slowPath, this.agents[keepAlive + i])),
    ];
    this.visitors = [
      ...range(polling).map(() => new Visitor(this, 'polling', ['polling'])),
      ...range(websocket).map(() => new Visitor(this, 'websocket', ['websocket'])),
      ...range(raw).map(() => new Listener(this)),
    ];
    await until(() => this.visitors.every(visitor => visitor.pid) && Object.values(this.tallies).every(tally => tally.done > 0), {
      timeout: 30_000,
      what: () => `the load's first answers (${this.summary()})`,
    });
    return this;
  }

  async #ask(kind, path, agent) {
    const tally = this.tally(kind);
    while (this.running) {
      const started = performance.now();
      try {
        const answer = await request(this.proxy.port, { path, agent, timeout: ANSWER_TIMEOUT });
        if (answer.status === 200) tally.pass(started, Number(/\d+/.exec(answer.text)?.[0]));
        else tally.fail(started, `status ${answer.status} ${answer.text.slice(0, 100)}`);
      } catch (error) {
        tally.fail(started, `${error.code ?? ''} ${error.message}`);
      }
      await sleep(this.options.pause);
    }
  }

  /** Waits until every kind of load that asks was answered so often from now on. */
  async more(answers = 5, timeout = 20_000) {
    const tallies = Object.entries(this.tallies).flatMap(([kind, tally]) => (kind === 'raw' ? [] : [tally]));
    const from = tallies.map(tally => tally.done);
    await until(() => tallies.every((tally, i) => tally.done >= from[i] + answers), { timeout, what: () => `load (${this.summary()})` });
  }

  /** Waits until every session lives on one of these processes. */
  async settled(pids, timeout = 20_000) {
    const away = () => this.visitors.filter(visitor => !pids.includes(visitor.pid));
    await until(() => away().length === 0, {
      timeout,
      what: () => `all sessions on ${pids}; not: ${away().map(visitor => `${visitor.kind} ${visitor.pid}`)}`,
    });
  }

  async stop() {
    this.running = false;
    clearTimeout(this.ender);
    await Promise.all(this.lanes ?? []);
    await Promise.all(this.visitors.map(visitor => visitor.leave()));
    for (const agent of this.agents ?? []) agent.destroy();
    return this;
  }

  /** Failed requests and connections of all kinds, as text. */
  get failed() {
    return Object.entries(this.tallies).flatMap(([kind, tally]) => [
      ...tally.failed.map(({ at, took, why }) => `${kind} at ${Math.round(at - this.startedAt)} ms, after ${took} ms: ${why}`),
      ...(tally.failures > KEPT ? [`${kind}: ${tally.failures - KEPT} more`] : []),
    ]);
  }

  get done() {
    return Object.values(this.tallies).reduce((sum, tally) => sum + tally.done, 0);
  }

  get failures() {
    return Object.values(this.tallies).reduce((sum, tally) => sum + tally.failures, 0);
  }

  /** Milliseconds of the longest answer to a request. */
  get longest() {
    return Math.max(0, ...['keepAlive', 'fresh', 'slow'].map(kind => this.tallies[kind]?.longest ?? 0));
  }

  /** Sessions and WebSockets that ended although their client did not end them. */
  get ends() {
    return this.visitors.flatMap(visitor => visitor.ends);
  }

  /** Ends of sessions that none of these processes had. */
  endsNotOf(pids) {
    return this.ends.filter(end => !pids.includes(end.pid)).map(end => `${end.kind} on ${end.pid}: ${end.why} ${end.code ?? ''} ${end.text}`);
  }

  summary() {
    const tallies = Object.entries(this.tallies).map(([kind, tally]) => {
      const time = tally.times.length ? ` (p99 ${Math.round(tally.percentile(0.99))} ms, longest ${Math.round(tally.longest)} ms)` : '';
      return `${kind} ${tally.done}/${tally.failures} failed${time}`;
    });
    const ends = Object.entries(count(this.ends.map(end => `${end.kind}: ${end.why}${end.code ? ` ${end.code}` : ''}`)));
    return [...tallies, ...ends.map(([what, n]) => `${n} x ${what}`)].join('; ');
  }
}

export function count(list) {
  const counts = {};
  for (const item of list) counts[item] = (counts[item] ?? 0) + 1;
  return counts;
}

/** A real Socket.IO client that reconnects, and asks for an echo all the time. */
class Visitor {
  ends = [];
  /** {pid, at} of every session. */
  sessions = [];
  /** Questions that ended with their session. */
  interrupted = 0;

  constructor(load, kind, transports) {
    Object.assign(this, { load, kind, tally: load.tally(kind) });
    this.agent = new http.Agent({ keepAlive: true });
    this.socket = io(load.proxy.url, {
      forceNew: true,
      transports,
      agent: this.agent,
      reconnectionDelay: 50,
      reconnectionDelayMax: 200,
      timeout: ANSWER_TIMEOUT,
    });
    this.beganAt = performance.now();
    this.socket.on('hello', hello => {
      this.pid = hello.pid;
      this.sessions.push({ pid: hello.pid, at: performance.now() });
    });
    this.socket.on('connect_error', error => this.#refused(error));
    // One that fails while it reconnects is told by the manager only.
    this.socket.io.on('reconnect_error', error => this.#refused(error));
    this.socket.on('disconnect', (reason, details) => this.#ended(reason, details));
    this.talking = this.#talk();
  }

  #refused(error) {
    if (this.leaving || this.lastRefusal === error) return;
    this.lastRefusal = error;
    const text = error.context?.responseText ?? '';
    this.tally.fail(performance.now(), `cannot connect: ${error.message} ${error.description?.message ?? error.description ?? ''} ${text}`);
  }

  #ended(reason, details) {
    const { pid, kind } = this;
    this.pid = undefined;
    this.wake?.();
    if (this.leaving) return;
    const text = `${details?.description?.message ?? details?.description ?? ''} ${details?.context?.responseText ?? ''}`.trim();
    this.ends.push({ kind, pid, at: performance.now(), why: reason, code: details?.context?.code ?? details?.description?.code, text });
  }

  async #talk() {
    for (let n = 0; this.load.running; n++) {
      if (this.pid) await this.#echo(n);
      await sleep(this.load.options.pause * 8 * (0.5 + Math.random()));
    }
  }

  async #echo(n) {
    const started = performance.now();
    const pid = this.pid;
    let timer;
    const answer = await new Promise(resolve => {
      this.wake = () => resolve('ended');
      timer = setTimeout(() => resolve('silent'), ANSWER_TIMEOUT);
      this.socket.emit('echo', n, resolve);
    });
    clearTimeout(timer);
    if (answer === 'ended') this.interrupted++;
    else if (answer === 'silent') this.tally.fail(started, `no echo from ${pid} within ${ANSWER_TIMEOUT} ms`);
    else if (answer.data !== n || answer.pid !== pid) this.tally.fail(started, `echo ${n} from ${pid}, got ${JSON.stringify(answer)}`);
    else this.tally.pass(started, pid);
  }

  async leave() {
    this.leaving = true;
    this.socket.close();
    this.wake?.();
    await this.talking;
    this.agent.destroy();
  }
}

/** A plain WebSocket that listens only, and comes back at once when it is closed. */
class Listener {
  kind = 'raw';
  ends = [];
  sessions = [];

  constructor(load) {
    this.load = load;
    this.tally = load.tally('raw');
    this.#open();
  }

  #open() {
    const started = performance.now();
    this.pid = undefined;
    let opened = false;
    this.closed = new Promise(closed => {
      this.socket = new WebSocket(`ws://127.0.0.1:${this.load.proxy.port}/ws`, { perMessageDeflate: false, handshakeTimeout: ANSWER_TIMEOUT });
      this.socket.on('message', data => {
        opened = true;
        this.pid = Number(data);
        this.sessions.push({ pid: this.pid, at: performance.now() });
        this.tally.pass(started, this.pid);
      });
      this.socket.on('error', error => {
        this.error = error;
        if (!opened && !this.leaving) this.tally.fail(started, `cannot connect: ${error.message}`);
      });
      this.socket.on('close', (code, reason) => {
        closed();
        if (this.leaving) return;
        if (opened) this.ends.push({ kind: this.kind, pid: this.pid, at: performance.now(), why: 'closed', code, text: reason.toString() });
        this.pid = undefined;
        this.again = setTimeout(() => this.load.running && this.#open(), opened ? 20 : 200);
      });
    });
  }

  async leave() {
    this.leaving = true;
    clearTimeout(this.again);
    if (this.socket.readyState === WebSocket.OPEN) this.socket.close(1000);
    else if (this.socket.readyState !== WebSocket.CLOSED) this.socket.terminate();
    await Promise.race([this.closed, sleep(2000)]);
    if (this.socket.readyState !== WebSocket.CLOSED) this.socket.terminate();
  }
}
