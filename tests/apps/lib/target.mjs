// Where an app is asked: alone on a port of its own, or behind the proxy.

import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import { gunzipSync } from 'node:zlib';

const TIMEOUT = 20_000;

export class Target {
  /** `scheme`: http, https or http2 (with TLS) or h2c. Behind the proxy it is always http. */
  constructor({ port, scheme = 'http', alone, dir, workers = 1, ports = {} }) {
    Object.assign(this, { port, scheme, alone, dir, workers, ports });
  }

  get host() {
    return `127.0.0.1:${this.port}`;
  }

  /** For clients that take an address. */
  get url() {
    return `${this.scheme === 'http' || this.scheme === 'h2c' ? 'http' : 'https'}://${this.host}`;
  }

  get ws() {
    return this.url.replace(/^http/, 'ws');
  }

  /** One request to its end. A text or an object (sent as JSON) as `body`. */
  request({ path = '/', method = 'GET', headers = {}, body, agent = false } = {}) {
    if (body !== undefined && typeof body === 'object' && !Buffer.isBuffer(body)) {
      headers = { 'content-type': 'application/json', ...headers };
      body = JSON.stringify(body);
    }
    if (body !== undefined) headers = { 'content-length': String(Buffer.byteLength(body)), ...headers };
    const ask = ['http2', 'h2c'].includes(this.scheme) ? askHttp2 : askHttp1;
    return ask(this, { path, method, headers, body, agent });
  }

  async get(path, headers) {
    return this.request({ path, headers });
  }

  async json(path, options) {
    const answer = await this.request({ path, ...options });
    if (answer.status >= 400) throw new Error(`${options?.method ?? 'GET'} ${path}: ${answer.status} ${answer.text.slice(0, 500)}`);
    return JSON.parse(answer.text);
  }
}

const answerOf = (status, headers, chunks) => {
  const raw = Buffer.concat(chunks);
  const body = headers['content-encoding'] === 'gzip' && raw.length > 0 ? gunzipSync(raw) : raw;
  return { status, headers, body, text: body.toString('utf8') };
};

function askHttp1({ port, scheme }, { path, method, headers, body, agent }) {
  const client = scheme === 'https' ? https : http;
  return new Promise((resolve, reject) => {
    const req = client.request({ host: '127.0.0.1', port, path, method, headers, agent, rejectUnauthorized: false }, res => {
      const chunks = [];
      res.on('data', chunk => chunks.push(chunk));
      res.on('error', reject);
      res.on('end', () => resolve(answerOf(res.statusCode, res.headers, chunks)));
    });
    req.on('error', reject);
    req.setTimeout(TIMEOUT, () => req.destroy(new Error(`no answer to ${method} ${path} within ${TIMEOUT} ms`)));
    req.end(body);
  });
}

function askHttp2(target, { path, method, headers, body }) {
  return new Promise((resolve, reject) => {
    const session = http2.connect(target.url, { rejectUnauthorized: false });
    const fail = error => {
      session.destroy();
      reject(error);
    };
    session.on('error', fail);
    session.setTimeout(TIMEOUT, () => fail(new Error(`no answer to ${method} ${path} within ${TIMEOUT} ms`)));
    const stream = session.request({ ':path': path, ':method': method, ...headers });
    const chunks = [];
    let head;
    stream.on('response', fields => (head = fields));
    stream.on('data', chunk => chunks.push(chunk));
    stream.on('error', fail);
    stream.on('end', () => {
      session.close();
      const fields = Object.entries(head).filter(([name]) => !name.startsWith(':'));
      resolve(answerOf(head[':status'], Object.fromEntries(fields), chunks));
    });
    stream.end(body);
  });
}
