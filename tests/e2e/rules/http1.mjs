// HTTP/1 on a raw connection, and upgrades, as the table asks.

import { randomBytes } from 'node:crypto';
import { Raw } from '../lib/http.mjs';
import { connect } from '../lib/tls.mjs';
import { sleep, within } from '../lib/wait.mjs';
import { add, outcome } from './outcome.mjs';

const PATIENCE = 8000;

const chunk = data => Buffer.concat([Buffer.from(`${Buffer.byteLength(data).toString(16)}\r\n`), Buffer.from(data), Buffer.from('\r\n')]);

/** The bytes of a request: its head and what it says of its body at once. */
function spell({ method = 'GET', path, host, version = '1.1', fields = [], body, chunks, announce }) {
  const lines = [`${method} ${path} HTTP/${version}`, `Host: ${host}`, ...fields.map(([name, value]) => `${name}: ${value}`)];
  if (announce !== undefined) lines.push(`Content-Length: ${announce}`);
  else if (body !== undefined) lines.push(`Content-Length: ${Buffer.byteLength(body)}`);
  else if (chunks) lines.push('Transfer-Encoding: chunked');
  const parts = [Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1')];
  if (body !== undefined) parts.push(Buffer.from(body));
  for (const data of chunks ?? []) parts.push(chunk(data));
  return Buffer.concat(parts);
}

function addLine(headers, line) {
  const at = line.indexOf(':');
  add(headers, line.slice(0, at), line.slice(at + 1).trim());
}

/** One head; null when the connection ended before it. */
async function readHead(raw, patience) {
  try {
    const { raw: bytes, status } = await raw.head(patience);
    const headers = {};
    for (const line of bytes.slice(0, -4).split('\r\n').slice(1)) addLine(headers, line);
    return { status, headers };
  } catch (error) {
    if (!raw.ended) throw error;
    return null;
  }
}

/** A body, and whether it was cut. */
async function readBody(raw, headers, patience) {
  const parts = [];
  const trailers = {};
  try {
    if (/chunked/i.test(headers['transfer-encoding'] ?? '')) {
      for (;;) {
        const size = parseInt((await raw.through('\r\n', patience)).toString('latin1'), 16);
        if (size === 0) break;
        parts.push(await raw.take(size, `a chunk of ${size}`, patience));
        await raw.take(2, 'the end of a chunk', patience);
      }
      for (let line; (line = (await raw.through('\r\n', patience)).toString('latin1')).length > 2;) addLine(trailers, line);
    } else if (headers['content-length'] !== undefined) {
      parts.push(await raw.take(Number(headers['content-length']), 'the body', patience));
    } else {
      parts.push(await raw.rest(patience));
    }
    return { body: Buffer.concat(parts), trailers, cut: false };
  } catch (error) {
    if (!raw.ended) throw error;
    return { body: Buffer.concat([...parts, raw.buffer]), cut: true };
  }
}

async function read(raw, { method = 'GET', patience = PATIENCE } = {}, from = performance.now()) {
  const hints = [];
  for (;;) {
    const head = await readHead(raw, patience);
    if (!head) return outcome(from, { hints, ended: true });
    const { status, headers } = head;
    if (status === 101) return { switched: true, ...outcome(from, { hints, status, headers }) };
    if (status < 200) {
      hints.push(head);
      continue;
    }
    const none = method === 'HEAD' || status === 204 || status === 304;
    const told = none ? { body: Buffer.alloc(0), cut: false } : await readBody(raw, headers, patience);
    const ended = raw.ended || /\bclose\b/i.test(headers.connection ?? '');
    return outcome(from, { hints, status, headers, ...told, ended });
  }
}

/** A request under way. */
class Asking {
  constructor(raw, request, answer) {
    Object.assign(this, { raw, chunked: Boolean(request.chunks), trailers: request.trailers ?? {}, answer });
  }

  write(data) {
    this.raw.write(this.chunked ? chunk(data) : data);
    return this;
  }

  end() {
    if (this.chunked) this.raw.write(`0\r\n${Object.entries(this.trailers).map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`);
    return this;
  }

  leave() {
    this.raw.destroy();
  }
}

export class Http1 {
  constructor(raw) {
    this.raw = raw;
    raw.socket.on('error', () => {});
  }

  static async open(port, secure = false) {
    return new Http1(secure ? Raw.over(await connect(port, { ALPNProtocols: ['http/1.1'] })) : await Raw.connect(port));
  }

  prepare(request) {
    return request;
  }

  /** `open: true` leaves the body unfinished. */
  start(request) {
    const from = performance.now();
    const prepared = this.prepare(request);
    this.raw.write(spell(prepared));
    const answer = this.finish(read(this.raw, prepared, from), from);
    answer.catch(() => {});
    const asking = new Asking(this.raw, prepared, answer);
    return request.open ? asking : asking.end();
  }

  async finish(answer) {
    const result = await answer;
    if (!result.switched) return result;
    return { ...result, cut: 'a 101 that nobody asked for' };
  }

  ask(request) {
    return this.start(request).answer;
  }

  /** Requests one behind the other, none of which waits for an answer. */
  async together(requests, pause) {
    const from = performance.now();
    const prepared = requests.map(request => this.prepare(request));
    if (pause) {
      for (const one of prepared) {
        this.raw.write(spell(one));
        await sleep(pause);
      }
    } else {
      this.raw.write(Buffer.concat(prepared.map(spell)));
    }
    const results = [];
    for (const one of prepared) results.push(await read(this.raw, one, from));
    return results;
  }

  /** A head that comes a field at a time and never ends. */
  async drip(request) {
    const from = performance.now();
    const prepared = this.prepare(request);
    this.raw.write(spell(prepared).subarray(0, -2));
    let over = false;
    const more = (async () => {
      while (!over && !this.raw.ended && performance.now() - from < PATIENCE) {
        this.raw.write('X-More: 1\r\n');
        await sleep(100);
      }
    })();
    const result = await read(this.raw, {}, from);
    over = true;
    await more;
    return result;
  }

  /** A request one of whose fields no reader takes. */
  broken(request) {
    return this.ask({ ...request, fields: [...request.fields ?? [], ['X-Broken', 'a\0b']] });
  }

  /** Asks for something big, takes nothing of it for `ms`, then sees what comes. */
  async stall(request, ms) {
    const from = performance.now();
    this.raw.write(spell(this.prepare(request)));
    this.raw.socket.pause();
    await sleep(ms);
    this.raw.socket.resume();
    return this.finish(read(this.raw, { patience: 3 * PATIENCE }, from), from);
  }

  /** Waits for the end of the idle connection; the bytes that came before it. */
  async idle(timeout) {
    const from = performance.now();
    const bytes = await this.raw.rest(timeout);
    return outcome(from, { body: bytes, ended: true });
  }

  close() {
    this.raw.destroy();
  }
}

/** Each request is an upgrade; the first that is switched takes the connection. */
export class Upgrade extends Http1 {
  static async open(port) {
    const client = new Upgrade(await Raw.connect(port));
    client.port = port;
    return client;
  }

  prepare(request) {
    return {
      ...request,
      fields: [
        ['Connection', 'Upgrade'], ['Upgrade', 'websocket'], ['Sec-WebSocket-Version', '13'],
        ['Sec-WebSocket-Key', randomBytes(16).toString('base64')], ...request.fields ?? [],
      ],
    };
  }

  async ask(request) {
    if (this.used) {
      this.raw.destroy();
      this.raw = await Raw.connect(this.port);
      this.raw.socket.on('error', () => {});
    }
    this.used = true;
    return super.ask(request);
  }

  /** What came through the tunnel is told as the body. */
  async finish(answer, from) {
    const { switched, ...result } = await answer;
    if (!switched) return result;
    const length = Number(result.headers['x-tunnel'] ?? 0);
    let [body, cut] = [Buffer.alloc(0), false];
    try {
      body = await this.raw.take(length, 'all that the tunnel should bring', PATIENCE);
    } catch (error) {
      if (!this.raw.ended) throw error;
      [body, cut] = [this.raw.buffer, true];
    }
    return { ...result, body, cut, status: 200, told: '101', ms: Math.round(performance.now() - from) };
  }

  idle(timeout) {
    return within(timeout, 'the end of the tunnel', super.idle(timeout));
  }
}
