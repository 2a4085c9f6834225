// A siege: many clients of every kind that talk for as long as they are told to, and then give an exact account.
//
// Nothing may go wrong: a request without its answer, a session or WebSocket that ends, a message that is lost, doubled,
// damaged or out of order, at the client or in the app, a request that was carried out twice. Each is told with what, when
// and why. The clients wait long: a slow machine is no failure. The app is apps/siege.js; it notes in `siegeApp(proxy).env.NOTES`.

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import http from 'node:http';
import { connections, socketsOf } from './connections.mjs';
import { count } from './load.mjs';
import * as kinds from './besiegers.mjs';
import { pooled, range, sleep, until, within } from './wait.mjs';

/** Each kind keeps so many failures with their reasons; the rest is counted. */
const KEPT = 100;

/** How many of each kind, and how fast. `every` is from one message of a client, or of the app to it, to the next, in ms. */
const KINDS = {
  polling: { is: kinds.Session, count: 180, every: 1000, transports: ['polling'], generation: 4 },
  polling2: { is: kinds.Session, count: 20, every: 1000, transports: ['polling'], generation: 2 },
  sio: { is: kinds.Session, count: 10, every: 400, transports: ['websocket'], generation: 4 },
  upgraded: { is: kinds.Session, count: 10, every: 400, transports: ['polling', 'websocket'], generation: 4 },
  sockets: { is: kinds.Socket, count: 145, every: 400 },
  big: { is: kinds.Socket, count: 5, every: 1000, size: 200_000 },
  quiet: { is: kinds.Socket, count: 20, every: 5000 },
  silent: { is: kinds.Socket, count: 10, every: 0 },
  // Only where the proxy has `securePort`.
  wss: { is: kinds.Socket, count: 40, every: 400, secure: true },
  wssBig: { is: kinds.Socket, count: 4, every: 1000, size: 200_000, secure: true },
  wssSilent: { is: kinds.Socket, count: 6, every: 0, secure: true },
  gets: { is: kinds.Asker, count: 4, pause: 40 },
  posts: { is: kinds.Asker, count: 4, pause: 40, size: 3000 },
  fresh: { is: kinds.Asker, count: 2, pause: 100, keepAlive: false },
  idle: { is: kinds.Asker, count: 8, pause: 1500 },
  pipelined: { is: kinds.Pipeline, count: 2, pause: 150 },
  uploads: { is: kinds.Upload, count: 4, lasts: 3000, pause: 100 },
  downloads: { is: kinds.Download, count: 4, lasts: 3000, pause: 100 },
  events: { is: kinds.Events, count: 3, lasts: 3000, pause: 100 },
  late: { is: kinds.Late, count: 2, late: 400, pause: 50 },
  visitors: { is: kinds.Visitor, count: 2, pause: 50 },
};

/** The app of a siege, for the configuration. */
export const siegeApp = (proxy, { env = {}, ...more } = {}) => ({
  script: './siege.js',
  instances: 2,
  ...more,
  env: { NOTES: proxy.file('notes', ''), ...env },
});

/** Tells the siege of every request that begins and ends. */
class Agent extends http.Agent {
  constructor(siege, options) {
    super(options);
    this.siege = siege;
  }

  addRequest(req, ...rest) {
    const open = this.siege.begun(`${req.method} ${req.path}`);
    req.on('socket', socket => (open.socket = socket));
    req.on('close', open.ended);
    return super.addRequest(req, ...rest);
  }
}

export class Siege {
  /** `sizes`: how many of a kind, by name; `share` makes all others fewer. */
  constructor(proxy, { share = 1, sizes = {}, pace = 1 } = {}) {
    Object.assign(this, { proxy, pace, running: false, tallies: {}, open: new Set(), notes: proxy.file('notes') });
    const possible = Object.entries(KINDS).filter(([, { secure }]) => !secure || proxy.securePort);
    this.besiegers = possible.flatMap(([kind, { is: Kind, count: usual, ...options }]) => {
      const number = sizes[kind] ?? (sizes.rest !== undefined ? sizes.rest : Math.ceil(usual * share));
      this.tallies[kind] = { clients: number, up: 0, down: 0, done: 0, failures: 0, failed: [], times: [] };
      return range(number).map(i => new Kind(this, kind, `${kind}-${i}`, options));
    });
  }

  agent(keepAlive = true) {
    return new Agent(this, { keepAlive, maxSockets: keepAlive ? 2 : Infinity });
  }

  /** A request that is under way; the caller calls `ended` of the answer. */
  begun(what) {
    const open = { what, at: performance.now() };
    open.end = new Promise(resolve => {
      open.ended = () => {
        open.endedAt ??= performance.now();
        this.open.delete(open);
        resolve();
      };
    });
    this.open.add(open);
    return open;
  }

  fail(kind, name, why, started = performance.now()) {
    const tally = this.tallies[kind];
    tally.failures++;
    const now = performance.now();
    const at = Math.round(now - this.startedAt);
    if (tally.failed.length < KEPT) tally.failed.push(`${name} at ${at} ms, after ${Math.round(now - started)} ms: ${why}`);
  }

  /** Returns when every client has its connection and has said or asked something. */
  async start() {
    this.startedAt = performance.now();
    this.running = true;
    await pooled(this.besiegers, 20, besieger => besieger.start());
    await this.more();
    return this;
  }

  /** Waits until every client that talks was answered from now on, and told something. */
  async more(timeout = 60_000) {
    const from = this.besiegers.map(one => one.heard);
    const behind = () => this.besiegers.filter((one, i) => one.lively && one.heard <= from[i] && !one.broken);
    const unharmed = () => {
      // Nothing gets better by waiting.
      if (this.failed.length) throw Object.assign(new Error(`${this.failed.length} failures:\n${this.failed.slice(0, 40).join('\n')}`), { fatal: true });
      return behind().length === 0;
    };
    await until(unharmed, {
      timeout,
      every: 50,
      what: () => `news of ${behind().map(one => one.name).slice(0, 10)} (${this.summary()})`,
    });
  }

  /** Ends all clients; what is under way comes to its end first. Then everything is compared. */
  async stop() {
    this.running = false;
    await within(150_000, () => `the end of ${this.besiegers.filter(one => !one.over).map(one => one.name)}`, Promise.all(
      this.besiegers.map(async one => {
        await one.stop();
        one.over = true;
      }),
    ));
    this.readNotes();
    return this;
  }

  /** At once and without an account, for a test that has failed. */
  abandon() {
    this.running = false;
    for (const one of this.besiegers) one.abandon();
  }

  /** What the app wrote: what was wrong, and how often it carried out each request. */
  readNotes() {
    const lines = existsSync(this.notes) ? readFileSync(this.notes, 'utf8').split('\n').slice(0, -1) : [];
    const did = new Map();
    this.appWrong = [];
    for (const line of lines) {
      const [pid, what, ...words] = line.split(' ');
      if (what === 'did') did.set(words[0], (did.get(words[0]) ?? 0) + 1);
      if (what === 'wrong') this.appWrong.push(`app ${pid}: ${words.join(' ')}`);
    }
    const answered = this.besiegers.flatMap(one => one.answered ?? []);
    this.appWrong.push(...[...did].filter(([, n]) => n > 1).map(([id, n]) => `${id} was carried out ${n} times`));
    this.appWrong.push(...answered.filter(id => !did.has(id)).map(id => `${id} was answered but not carried out`));
  }

  /** All that went wrong, as text. */
  get failed() {
    const client = Object.values(this.tallies).flatMap(({ failures, failed }) => [
      ...failed,
      ...(failures > failed.length ? [`${failures - failed.length} more of these`] : []),
    ]);
    return [...client, ...(this.appWrong ?? [])];
  }

  /** Sessions and WebSockets that are still open, as they should be. */
  get lost() {
    return this.besiegers.filter(one => one.broken).map(one => one.name);
  }

  /** The processes that the sessions and WebSockets talk to. */
  get pids() {
    return [...new Set(this.besiegers.map(one => one.pid).filter(Boolean))].sort((a, b) => a - b);
  }

  /** The clients' ends of all WebSockets that are open now: {name, port}; those over TLS if `secure`. */
  websocketsOf(secure) {
    const open = this.besiegers.filter(one => one.websocketPort && !one.broken && Boolean(one.secure) === secure);
    return open.map(one => ({ name: one.name, port: one.websocketPort }));
  }

  get websockets() {
    return this.websocketsOf(false);
  }

  /** Waits for the end of all requests that are under way now on connections of this process; returns when that was. */
  async lastRequestOf(pid, timeout = 60_000) {
    const at = performance.now();
    const all = connections(this.proxy.port);
    const owned = socketsOf(pid);
    const its = [...this.open].filter(open => owned.has(all.get(open.socket?.localPort)));
    await within(timeout, () => `the end of ${its.filter(open => !open.endedAt).map(open => open.what)}`, Promise.all(its.map(open => open.end)));
    return Math.max(at, ...its.map(open => open.endedAt));
  }

  summary() {
    return Object.entries(this.tallies)
      .filter(([, tally]) => tally.clients)
      .map(([kind, tally]) => {
        const done = tally.up + tally.down ? `${tally.up} up ${tally.down} down` : `${tally.done} done`;
        const longest = tally.times.reduce((most, time) => Math.max(most, time), 0);
        return `${kind} x${tally.clients}: ${done}${tally.failures ? `, ${tally.failures} FAILED` : ''}, longest ${Math.round(longest)} ms`;
      })
      .join('; ');
  }

  /** Failures by reason, without names and numbers. */
  get reasons() {
    return count(this.failed.map(text => text.replace(/\d+/g, 'N')));
  }

  assertUnharmed() {
    const { failed } = this;
    assert.equal(failed.length, 0, `${failed.length} failures:\n${failed.slice(0, 60).join('\n')}`);
  }
}

/** A siege around `body`; its account must be clean. */
export async function besiege(t, proxy, options, body) {
  const siege = new Siege(proxy, options);
  try {
    await siege.start();
    const result = await body(siege);
    await siege.stop();
    t.diagnostic(siege.summary());
    siege.assertUnharmed();
    return result;
  } catch (error) {
    if (siege.failed.length && !/failures:/.test(error.message)) error.message += `\nfailures so far:\n${siege.failed.slice(0, 40).join('\n')}`;
    siege.abandon();
    await sleep(0);
    throw error;
  }
}
