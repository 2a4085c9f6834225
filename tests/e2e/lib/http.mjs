// HTTP clients: Node's own for ordinary requests, a raw socket for everything it would not send.

import http from 'node:http';
import net from 'node:net';
import { within } from './wait.mjs';

/** One request. `agent: false` (the default) takes a new connection. */
export function request(port, { path = '/', method = 'GET', headers = {}, body, agent = false, timeout = 20_000 } = {}) {
  const started = new Promise((resolve, reject) => {
    const req = http.request({ host: '127.0.0.1', port, path, method, headers, agent }, res => {
      const chunks = [];
      res.on('data', chunk => chunks.push(chunk));
      res.on('error', reject);
      res.on('aborted', () => reject(Object.assign(new Error('answer cut short'), { code: 'CUT', status: res.statusCode })));
      res.on('end', () => {
        const all = Buffer.concat(chunks);
        resolve({
          status: res.statusCode,
          headers: res.headers,
          rawHeaders: res.rawHeaders,
          version: res.httpVersion,
          body: all,
          get text() {
            return all.toString('utf8');
          },
          get json() {
            return JSON.parse(this.text);
          },
        });
      });
    });
    req.on('error', reject);
    req.setTimeout(timeout, () => req.destroy(new Error(`no answer to ${method} ${path} within ${timeout} ms`)));
    if (body && typeof body.pipe === 'function') body.pipe(req);
    else req.end(body);
  });
  return started;
}

/** A TCP connection of which the test sees every byte. */
export class Raw {
  static async connect(port, options = {}) {
    const raw = new Raw();
    raw.socket = net.connect({ host: '127.0.0.1', port, ...options });
    raw.socket.setNoDelay(true);
    await within(5000, 'a TCP connection', new Promise((resolve, reject) => {
      raw.socket.once('connect', resolve);
      raw.socket.once('error', reject);
    }));
    return raw.#attend();
  }

  /** The same over a stream that is connected, as of TLS. */
  static over(socket) {
    const raw = new Raw();
    raw.socket = socket;
    return raw.#attend();
  }

  #attend() {
    const raw = this;
    raw.socket.on('data', chunk => raw.#take(chunk));
    raw.socket.on('end', () => raw.#finish());
    raw.socket.on('error', error => raw.#finish(error));
    raw.socket.on('close', () => raw.#finish());
    return raw;
  }

  buffer = Buffer.alloc(0);
  /** The other side has finished sending (or the connection broke). */
  ended = false;
  #chunks = [];
  #waiting = new Set();

  #take(chunk) {
    this.#chunks.push(chunk);
    this.#wake();
  }

  #finish(error) {
    this.error ??= error;
    this.ended = true;
    this.#wake();
  }

  #wake() {
    for (const look of [...this.#waiting]) look();
  }

  #join() {
    if (this.#chunks.length === 0) return this.buffer;
    this.buffer = Buffer.concat([this.buffer, ...this.#chunks]);
    this.#chunks = [];
    return this.buffer;
  }

  write(data) {
    this.socket.write(data);
    return this;
  }

  /** Half-closes: no more from us. */
  end(data) {
    this.socket.end(data);
    return this;
  }

  destroy() {
    this.socket.destroy();
  }

  /** Waits until `look(buffer, ended)` returns a value. */
  need(look, what, timeout = 15_000) {
    const shown = () => `${what}; got ${this.#join().length} bytes ${JSON.stringify(this.buffer.toString('latin1', 0, 300))}`
      + `${this.ended ? ' and the end' : ''}${this.error ? ` (${this.error.code})` : ''}`;
    let check;
    const found = new Promise((resolve, reject) => {
      check = () => {
        try {
          const value = look(this.#join(), this.ended);
          if (value !== undefined) resolve(value);
          else if (this.ended) reject(new Error(`the connection ended before ${shown()}`));
        } catch (error) {
          reject(error);
        }
      };
      this.#waiting.add(check);
      check();
    });
    return within(timeout, shown, found).finally(() => this.#waiting.delete(check));
  }

  async take(bytes, what = `${bytes} bytes`, timeout) {
    await this.need(buffer => (buffer.length >= bytes ? true : undefined), what, timeout);
    const taken = this.buffer.subarray(0, bytes);
    this.buffer = this.buffer.subarray(bytes);
    return taken;
  }

  async through(mark, timeout) {
    const end = await this.need(buffer => {
      const at = buffer.indexOf(mark);
      return at < 0 ? undefined : at + mark.length;
    }, JSON.stringify(mark), timeout);
    return this.take(end);
  }

  /** Everything up to the end of the connection. */
  async rest(timeout) {
    const all = await this.need((buffer, ended) => (ended ? buffer : undefined), 'the end', timeout);
    this.buffer = Buffer.alloc(0);
    return all;
  }

  async head(timeout) {
    const raw = (await this.through('\r\n\r\n', timeout)).toString('latin1');
    const [first, ...lines] = raw.slice(0, -4).split('\r\n');
    const [, version, status, reason] = /^HTTP\/(\d\.\d) (\d{3}) ?(.*)$/.exec(first) ?? [];
    const headers = {};
    for (const line of lines) {
      const at = line.indexOf(':');
      const name = line.slice(0, at).toLowerCase();
      headers[name] = headers[name] === undefined ? line.slice(at + 1).trim() : `${headers[name]}, ${line.slice(at + 1).trim()}`;
    }
    return { raw, version, status: Number(status), reason, headers };
  }

  /** One whole response; `method` says whether a body may follow. */
  async response({ method = 'GET', timeout } = {}) {
    const head = await this.head(timeout);
    const { status, headers } = head;
    let body = Buffer.alloc(0);
    if (method === 'HEAD' || status < 200 || status === 204 || status === 304) return { ...head, body };
    if (/chunked/i.test(headers['transfer-encoding'] ?? '')) {
      const parts = [];
      for (;;) {
        const size = parseInt((await this.through('\r\n', timeout)).toString('latin1'), 16);
        if (size === 0) break;
        parts.push(await this.take(size, `a chunk of ${size}`, timeout));
        await this.take(2);
      }
      while ((await this.through('\r\n', timeout)).length > 2);
      body = Buffer.concat(parts);
    } else if (headers['content-length'] !== undefined) {
      body = await this.take(Number(headers['content-length']), 'the body', timeout);
    } else {
      body = await this.rest(timeout);
    }
    return { ...head, body };
  }

  /** Waits for the other side to close. */
  closed(timeout = 10_000) {
    return this.need((_, ended) => (ended ? true : undefined), 'the end of the connection', timeout);
  }
}

/** The payload of a body in chunks that are written in the plainest way: no extensions. `null` for any other. */
export function dechunk(text, trailers = /^$/) {
  let payload = '';
  for (;;) {
    const [line, digits] = /^([0-9a-f]{1,16})\r\n/i.exec(text) ?? [];
    if (!line) return null;
    const size = parseInt(digits, 16);
    text = text.slice(line.length);
    if (size === 0) break;
    if (text.slice(size, size + 2) !== '\r\n') return null;
    payload += text.slice(0, size);
    text = text.slice(size + 2);
  }
  return text.endsWith('\r\n') && trailers.test(text.slice(0, -2)) ? payload : null;
}

/** Sends bytes on a new connection and reads one response. */
export async function exchange(port, bytes, options = {}) {
  const raw = await Raw.connect(port);
  try {
    raw.write(bytes);
    const response = await raw.response(options);
    if (options.thenClosed) await raw.closed();
    return response;
  } finally {
    raw.destroy();
  }
}
