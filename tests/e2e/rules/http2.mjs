// HTTP/2 by prior knowledge, as the table asks.

import http2 from 'node:http2';
import { sleep, within } from '../lib/wait.mjs';
import { Frames } from './frames.mjs';
import { add, outcome } from './outcome.mjs';

const PATIENCE = 8000;
const { NGHTTP2_NO_ERROR, NGHTTP2_PROTOCOL_ERROR, NGHTTP2_INTERNAL_ERROR } = http2.constants;
const codes = Object.fromEntries(Object.entries(http2.constants).filter(([name]) => /^NGHTTP2_[A-Z_]+$/.test(name)).map(([name, code]) => [code, name.slice(8)]));

function spell({ method = 'GET', path, host, fields = [], body, announce }) {
  const headers = { ':method': method, ':path': path, ':authority': host };
  for (const [name, value] of fields) {
    const key = name.toLowerCase();
    headers[key] = headers[key] === undefined ? value : [headers[key], value].flat();
  }
  const length = announce ?? (body === undefined ? undefined : Buffer.byteLength(body));
  if (length !== undefined) headers['content-length'] = String(length);
  return headers;
}

function plain(headers) {
  const all = {};
  for (const [name, value] of Object.entries(headers)) {
    if (name.startsWith(':')) continue;
    for (const one of [value].flat()) add(all, name, String(one));
  }
  return all;
}

/** How a stream that has begun its answer ended: RFC 9113 has INTERNAL_ERROR for an answer that breaks off. */
function cutOf(code, headers, method, bytes) {
  if (code === NGHTTP2_INTERNAL_ERROR) return true;
  const length = headers?.['content-length'];
  const whole = method === 'HEAD' || length === undefined || Number(length) === bytes;
  if (code === NGHTTP2_NO_ERROR) return whole ? false : 'shorter than its length, with END_STREAM';
  return length !== undefined && whole ? false : `RST_STREAM ${codes[code] ?? code}`;
}

class Asking {
  constructor(stream, answer) {
    Object.assign(this, { stream, answer });
  }

  write(data) {
    this.stream.write(data);
    return this;
  }

  end() {
    this.stream.end();
    return this;
  }

  leave() {
    this.stream.close(http2.constants.NGHTTP2_CANCEL);
  }
}

export class Http2 {
  static async open(port, secure = false) {
    const client = new Http2();
    Object.assign(client, { port, secure });
    client.session = http2.connect(`${secure ? 'https' : 'http'}://127.0.0.1:${port}`, { rejectUnauthorized: false, servername: 'localhost' });
    client.session.on('error', () => {});
    client.session.on('goaway', () => (client.goaway = true));
    await within(5000, 'an HTTP/2 connection', new Promise((resolve, reject) => {
      client.session.once('connect', resolve);
      client.session.once('close', () => reject(new Error('closed')));
      client.session.once('error', reject);
    }));
    return client;
  }

  start(request) {
    const from = performance.now();
    const { body, chunks = [], open, patience = PATIENCE } = request;
    const bare = body === undefined && !request.chunks && request.announce === undefined;
    const stream = this.session.request(spell(request), { endStream: bare && !open, waitForTrailers: Boolean(request.trailers) });
    if (request.trailers) stream.on('wantTrailers', () => stream.sendTrailers(request.trailers));
    const answer = within(patience, () => `the end of the stream of ${request.path}`, this.watch(stream, request, from));
    answer.catch(() => {});
    if (body !== undefined) stream.write(body);
    for (const data of chunks) stream.write(data);
    const asking = new Asking(stream, answer);
    return open || bare ? asking : asking.end();
  }

  watch(stream, { method = 'GET' }, from) {
    return new Promise(resolve => {
      const [hints, parts] = [[], []];
      let head;
      let trailers = {};
      stream.on('headers', headers => hints.push({ status: headers[':status'], headers: plain(headers) }));
      stream.on('response', headers => (head = headers));
      stream.on('trailers', headers => (trailers = plain(headers)));
      stream.on('data', data => parts.push(data));
      stream.on('error', () => {});
      stream.on('close', () => {
        const body = Buffer.concat(parts);
        const code = stream.rstCode;
        if (!head) {
          const status = code === NGHTTP2_PROTOCOL_ERROR ? 400 : null;
          return resolve(outcome(from, { status, hints, told: `RST_STREAM ${codes[code] ?? code}` }));
        }
        const headers = plain(head);
        resolve(outcome(from, { status: head[':status'], headers, trailers, hints, body, cut: cutOf(code, headers, method, body.length) }));
      });
    });
  }

  ask(request) {
    return this.start(request).answer;
  }

  async together(requests, pause = 0) {
    const answers = [];
    for (const one of requests) {
      answers.push(this.ask(one));
      await sleep(pause);
    }
    return Promise.all(answers);
  }

  async frames(fn) {
    const frames = await Frames.open(this.port, this.secure);
    try {
      return await fn(frames);
    } finally {
      frames.close();
    }
  }

  drip(request) {
    return this.frames(frames => frames.drip(request));
  }

  broken(request) {
    return this.frames(frames => {
      frames.headers({ ...request, fields: [...request.fields ?? [], ['x-broken', 'a\0b']] });
      return frames.answer();
    });
  }

  async stall(request, ms) {
    const from = performance.now();
    const stream = this.session.request(spell(request), { endStream: true });
    const answer = within(3 * PATIENCE + ms, 'the end of the stream', this.watch(stream, request, from));
    stream.pause();
    await sleep(ms);
    stream.resume();
    return answer;
  }

  async idle(timeout) {
    const from = performance.now();
    if (!this.session.closed && !this.session.destroyed) {
      await within(timeout, 'the end of the connection', new Promise(resolve => this.session.once('close', resolve)));
    }
    return outcome(from, { ended: true, told: this.goaway ? 'GOAWAY' : 'no GOAWAY' });
  }

  close() {
    this.session.destroy();
  }
}
