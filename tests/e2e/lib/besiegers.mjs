// The clients of a siege, one class for each kind. Each has `heard`, which grows with every answer or message, `pid` where it
// belongs to one worker, and `broken` when its session has ended.

import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import { Readable } from 'node:stream';
import { Raw, request } from './http.mjs';
import { WebSocket } from './upgrade.mjs';
import { range, sleep, until, within } from './wait.mjs';

const require = createRequire(import.meta.url);
const { pattern, numbered, Count } = require('../apps/numbers.js');
const libraries = { 2: require('socket.io-client-2'), 4: require('socket.io-client-4').io };

/** Nobody waits longer than this for anything. */
const PATIENCE = 60_000;
/** A client that is not answered says no more than so many messages ahead. */
const AHEAD = 20;

class Besieger {
  heard = 0;
  /** Whether it can be expected to be answered soon, all the time. */
  lively = true;

  constructor(siege, kind, name, options) {
    Object.assign(this, { siege, kind, name, ...options, tally: siege.tallies[kind] });
  }

  get running() {
    return this.siege.running && !this.broken;
  }

  fail(why, started) {
    this.siege.fail(this.kind, this.name, why, started);
  }

  /** A message or answer; `started` is when it was asked for. */
  hear(started) {
    this.heard++;
    if (started !== undefined) this.tally.times.push(performance.now() - started);
  }

  /** The session or WebSocket has ended although nobody wanted it to. */
  lose(why) {
    if (this.leaving || this.broken) return;
    this.broken = true;
    clearInterval(this.timer);
    this.fail(`lost: ${why}`);
  }

  /** Compares at the end what was said with what was heard. */
  compare(app) {
    const { sent, count } = this;
    if (app.got !== sent) this.fail(`the app heard ${app.got} of ${sent} messages`);
    if (app.sent !== count.last) this.fail(`heard ${count.last} of the app's ${app.sent} messages`);
    if (app.pid !== this.pid) this.fail(`begun with ${this.pid}, ended with ${app.pid}`);
  }

  abandon() {
    this.leaving = true;
  }
}

/** A Socket.IO session: numbered messages both ways, those of the client with acknowledgements. */
export class Session extends Besieger {
  sent = 0;
  acked = 0;
  count = new Count(why => this.fail(why));

  async start() {
    this.agent = this.siege.agent();
    const { url } = this.siege.proxy;
    const every = this.every / this.siege.pace;
    this.socket = libraries[this.generation](url, {
      forceNew: true,
      reconnection: false,
      transports: this.transports,
      agent: this.agent,
      timeout: PATIENCE,
      query: { name: this.name, every },
    });
    const { socket } = this;
    for (const event of ['connect_error', 'error', 'connect_timeout']) {
      socket.on(event, error => this.lose(`${event}: ${error?.message ?? error} ${describe(error)}`));
    }
    socket.on('disconnect', (reason, details) => this.lose(`${reason} ${describe(details)}`));
    socket.on('down', (n, text) => {
      this.count.take(n, text === pattern(`down ${n}`, 20).toString());
      this.tally.down++;
      this.hear();
    });
    socket.once('hello', ({ pid }) => (this.pid = pid));
    await until(() => this.broken || this.pid, { timeout: PATIENCE, what: `hello to ${this.name}` });
    if (this.transports.length > 1) {
      await until(() => this.broken || (socket.io.engine.transport.name === 'websocket' && !socket.io.engine.upgrading), {
        timeout: PATIENCE,
        what: `the upgrade of ${this.name}`,
      });
    }
    await sleep(Math.random() * 20);
    this.timer = setInterval(() => this.#say(), every * (0.8 + 0.4 * Math.random()));
  }

  #say() {
    if (!this.running || this.sent - this.acked >= AHEAD) return;
    const n = ++this.sent;
    const started = performance.now();
    this.socket.emit('up', n, pattern(`up ${n}`, 20).toString(), answer => {
      if (answer.n !== n || n !== this.acked + 1) this.fail(`acknowledged ${answer.n}, ${this.acked + 1} was due`, started);
      if (answer.pid !== this.pid) this.fail(`begun with ${this.pid}, acknowledged by ${answer.pid}`, started);
      this.acked = n;
      this.tally.up++;
      this.hear(started);
    });
  }

  get websocketPort() {
    return this.socket?.io.engine?.transport?.ws?._socket?.localPort;
  }

  async stop() {
    clearInterval(this.timer);
    if (!this.broken) {
      try {
        this.compare(await within(PATIENCE, () => `the account (${this.acked} of ${this.sent} acknowledged)`,
          new Promise(resolve => this.socket.emit('account', resolve))));
      } catch (error) {
        if (!this.broken) this.fail(error.message);
      }
    }
    this.abandon();
  }

  abandon() {
    this.leaving = true;
    clearInterval(this.timer);
    this.socket?.close();
    // Its last words must go out before the connections close.
    setTimeout(() => this.agent?.destroy(), 1000).unref();
  }
}

const describe = error => {
  const text = error?.context?.responseText ?? '';
  const inner = error?.description;
  return `${inner?.message ?? (typeof inner === 'object' ? inner?.code ?? '' : inner ?? '')} ${error?.code ?? ''} ${text}`.trim();
};

/** A plain WebSocket: numbered messages both ways, each side by its own clock. */
export class Socket extends Besieger {
  sent = 0;
  count = new Count(why => this.fail(why));

  async start() {
    const { size = 20, siege } = this;
    const every = this.every / siege.pace;
    this.lively = every > 0 && every <= 1000;
    const origin = this.secure ? `wss://127.0.0.1:${siege.proxy.securePort}` : `ws://127.0.0.1:${siege.proxy.port}`;
    this.socket = new WebSocket(`${origin}/ws?name=${this.name}&every=${every}&size=${size}`, {
      rejectUnauthorized: false,
      perMessageDeflate: false,
      handshakeTimeout: PATIENCE,
    });
    this.socket.on('error', error => this.lose(error.message));
    this.socket.on('close', (code, reason) => this.lose(`closed with ${code} ${reason}`));
    this.socket.on('message', data => this.#take(data));
    await until(() => this.broken || this.pid, { timeout: PATIENCE, what: `hello to ${this.name}` });
    await sleep(Math.random() * 20);
    if (every) this.timer = setInterval(() => this.#say(size), every * (0.8 + 0.4 * Math.random()));
  }

  #say(size) {
    if (!this.running || this.socket.bufferedAmount > 4 * size + 1000) return;
    const n = ++this.sent;
    this.socket.send(numbered.message(n, size), { binary: size > 1000 });
    this.tally.up++;
  }

  #take(data) {
    if (data[0] > 0x60) {
      const [what, value] = data.toString().split(' ');
      if (what === 'hello') this.pid = Number(value);
      else this.account?.(JSON.parse(value));
      return this.hear();
    }
    const { n, whole } = numbered.read(data);
    this.count.take(n, whole);
    this.tally.down++;
    this.hear();
  }

  get websocketPort() {
    return this.socket?._socket?.localPort;
  }

  async stop() {
    clearInterval(this.timer);
    if (!this.broken) {
      try {
        this.compare(await within(PATIENCE, 'the account', new Promise(resolve => {
          this.account = resolve;
          this.socket.send('account');
        })));
      } catch (error) {
        if (!this.broken) this.fail(error.message);
      }
    }
    this.leaving = true;
    this.socket.close(1000);
    await until(() => this.socket.readyState === WebSocket.CLOSED, { timeout: 10_000 }).catch(() => this.fail('no close frame came back'));
    this.abandon();
  }

  abandon() {
    this.leaving = true;
    clearInterval(this.timer);
    this.socket?.terminate();
  }
}

/** One that does the same again and again, until the siege is over. */
class Lane extends Besieger {
  rounds = 0;

  async start() {
    this.agent = this.siege.agent(this.keepAlive ?? true);
    this.going = this.#go();
  }

  async #go() {
    await sleep(Math.random() * (this.lasts ?? this.pause));
    while (this.siege.running) {
      const started = performance.now();
      try {
        await this.round(`${this.name}-${++this.rounds}`);
        this.tally.done++;
        this.hear(started);
      } catch (error) {
        if (!this.leaving) this.fail(`round ${this.rounds}: ${error.code ?? ''} ${error.message}`, started);
      }
      await sleep(this.pause * (0.7 + 0.6 * Math.random()));
    }
  }

  /** A request that must be answered with 200; its text or body. */
  async ask(path, options = {}) {
    const answer = await request(this.siege.proxy.port, { path, agent: this.agent, timeout: PATIENCE, ...options });
    if (answer.status !== 200) throw new Error(`status ${answer.status} ${answer.text.slice(0, 100)}`);
    return answer;
  }

  async stop() {
    await this.going;
    this.abandon();
  }

  abandon() {
    this.leaving = true;
    this.agent?.destroy();
  }
}

const sha256 = data => createHash('sha256').update(data).digest('hex');

/** Small requests, one after the other; with `size`, POSTs with a body. */
export class Asker extends Lane {
  answered = [];

  async round(id) {
    const body = pattern(id, this.size ?? 0);
    const answer = await this.ask(`/ask?id=${id}&ms=${this.rounds % 5}`, this.size ? { method: 'POST', body } : {});
    const [told, , hash] = answer.text.split(' ');
    if (told !== id || hash !== sha256(body)) throw new Error(`an answer to another question: ${answer.text}`);
    if (this.size) this.answered.push(id);
  }
}

/** A body that takes its time, with a length and without in turns. */
export class Upload extends Lane {
  lively = false;
  answered = [];

  async round(id) {
    const pieces = 30;
    const list = range(pieces).map(n => pattern(`${id}/${n}`, 2000 + n));
    const { lasts, siege } = this;
    const body = Readable.from((async function* drip() {
      for (const piece of list) {
        yield piece;
        await sleep(siege.running ? lasts / pieces : 5);
      }
    })());
    const whole = Buffer.concat(list);
    const headers = this.rounds % 2 ? { 'content-length': whole.length } : {};
    const answer = await this.ask(`/ask?id=${id}`, { method: 'POST', headers, body });
    const [told, , hash] = answer.text.split(' ');
    if (told !== id || hash !== sha256(whole)) throw new Error(`the app got another body than was sent: ${answer.text}`);
    this.answered.push(id);
  }
}

export class Download extends Lane {
  lively = false;

  async round(id) {
    const [pieces, size] = [30, 3000];
    const answer = await this.ask(`/download?id=${id}&pieces=${pieces}&size=${size}&ms=${this.lasts / pieces}${this.rounds % 2 ? '' : '&chunked'}`);
    const whole = Buffer.concat(range(pieces).map(n => pattern(`${id}/${n}`, size)));
    if (!answer.body.equals(whole)) throw new Error(`${answer.body.length} of ${whole.length} bytes, or others`);
  }
}

/** A stream of numbered events. */
export class Events extends Lane {
  lively = false;

  async round() {
    const events = 20;
    const answer = await this.ask(`/events?count=${events}&ms=${this.lasts / events}`);
    const expected = `${range(events).map(n => `data: ${n + 1}\n\n`).join('')}event: end\ndata:\n\n`;
    if (answer.text !== expected) throw new Error(`other events: ${JSON.stringify(answer.text.slice(-100))}`);
  }
}

/** Five requests in one write; five answers, in their order. */
export class Pipeline extends Lane {
  async round(id) {
    const { port } = this.siege.proxy;
    this.raw ??= await Raw.connect(port);
    const { raw } = this;
    const ids = range(5).map(n => `${id}.${n}`);
    const opens = ids.map(one => Object.assign(this.siege.begun(`pipelined ${one}`), { socket: raw.socket }));
    try {
      raw.write(ids.map((one, n) => `GET /ask?id=${one}&ms=${(n * 7) % 20} HTTP/1.1\r\nHost: x\r\n\r\n`).join(''));
      for (const [n, one] of ids.entries()) {
        const answer = await raw.response({ timeout: PATIENCE });
        opens[n].ended();
        const text = answer.body.toString();
        if (answer.status !== 200 || !text.startsWith(`${one} `)) throw new Error(`${one} got ${answer.status} ${text}`);
        if (/close/i.test(answer.headers.connection ?? '')) {
          if (n < 4) throw new Error(`Connection: close after ${n + 1} of 5`);
          raw.destroy();
          this.raw = undefined;
        }
      }
    } catch (error) {
      raw.destroy();
      this.raw = undefined;
      throw error;
    } finally {
      for (const open of opens) open.ended();
    }
  }

  abandon() {
    super.abandon();
    this.raw?.destroy();
  }
}

/** WebSockets that the app accepts late, one after the other: a few messages each. */
export class Late extends Lane {
  async round(id) {
    const path = `/ws?name=${id}&every=20&late=${this.late}`;
    const socket = new WebSocket(`ws://127.0.0.1:${this.siege.proxy.port}${path}`, { perMessageDeflate: false, handshakeTimeout: PATIENCE, agent: this.agent });
    const troubles = [];
    const count = new Count(why => troubles.push(why));
    try {
      await within(PATIENCE, 'messages', new Promise((resolve, reject) => {
        socket.on('error', reject);
        socket.on('close', code => reject(new Error(`closed with ${code}`)));
        socket.on('message', data => {
          const text = data.toString('latin1');
          if (text.startsWith('hello')) return;
          if (text.startsWith('account')) return resolve();
          const { n, whole } = numbered.read(data);
          count.take(n, whole);
          socket.send(data);
          if (n === 5) socket.send('account');
        });
      }));
      if (troubles.length) throw new Error(troubles.join('; '));
    } finally {
      socket.removeAllListeners('close');
      socket.close(1000);
      setTimeout(() => socket.terminate(), 2000).unref();
    }
  }
}

/** Sessions that come, say a little and go. */
export class Visitor extends Lane {
  async round(id) {
    const socket = libraries[4](this.siege.proxy.url, {
      forceNew: true, reconnection: false, transports: ['polling'], agent: this.agent, timeout: PATIENCE, query: { name: id, every: 50 },
    });
    try {
      await within(PATIENCE, 'a short session', new Promise((resolve, reject) => {
        for (const event of ['connect_error', 'disconnect']) {
          socket.on(event, (error, details) => reject(new Error(`${event}: ${error?.message ?? error} ${describe(error)} ${describe(details)}`)));
        }
        socket.on('hello', async () => {
          for (const n of [1, 2, 3]) await new Promise(done => socket.emit('up', n, pattern(`up ${n}`, 20).toString(), done));
          socket.emit('account', resolve);
        });
      }));
    } finally {
      socket.off('disconnect');
      socket.close();
    }
  }
}
