// TLS for tests: a certificate of the proxy's own, and clients that trust anybody.

import { execFileSync, spawn } from 'node:child_process';
import http2 from 'node:http2';
import https from 'node:https';
import tls from 'node:tls';
import { until, within } from './wait.mjs';

/** A certificate for localhost in the proxy's private directory, as `certificates` of a listener takes it. */
export function certificate(proxy, name = 'localhost', { rsa = false } = {}) {
  const [cert, key] = [proxy.file(`${name}.pem`), proxy.file(`${name}.key`)];
  proxy.file('.keep', '');
  const kind = rsa ? ['-newkey', 'rsa:2048'] : ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'];
  const more = ['-nodes', '-days', '30', '-subj', `/CN=${name}`, '-addext', `subjectAltName=DNS:${name},IP:127.0.0.1`];
  execFileSync('openssl', ['req', '-x509', ...kind, '-keyout', key, '-out', cert, ...more], { stdio: 'ignore' });
  return { cert, key };
}

/** A listener with TLS. */
export const listener = (proxy, port, more = {}) => ({ address: `127.0.0.1:${port}`, tls: { certificates: [certificate(proxy)], ...more } });

const trusting = { host: '127.0.0.1', servername: 'localhost', rejectUnauthorized: false };

/** A TLS connection after its handshake. It may be closed one way. */
export async function connect(port, options = {}) {
  const socket = tls.connect({ ...trusting, port, allowHalfOpen: true, ...options });
  await within(10_000, 'a TLS connection', new Promise((resolve, reject) => {
    socket.once('secureConnect', resolve);
    socket.once('error', reject);
  }));
  socket.setNoDelay(true);
  return socket;
}

/** One request over HTTP/1 and TLS. */
export function request(port, { path = '/', method = 'GET', headers = {}, body, agent = false, timeout = 20_000, ...options } = {}) {
  return new Promise((resolve, reject) => {
    const req = https.request({ ...trusting, port, path, method, headers, agent, ...options }, res => {
      const chunks = [];
      res.on('data', chunk => chunks.push(chunk));
      res.on('error', reject);
      res.on('end', () => {
        const all = Buffer.concat(chunks);
        resolve({ status: res.statusCode, headers: res.headers, body: all, text: all.toString('utf8') });
      });
    });
    req.on('error', reject);
    req.setTimeout(timeout, () => req.destroy(new Error(`no answer to ${path} within ${timeout} ms`)));
    req.end(body);
  });
}

/** A connection of HTTP/2 over TLS. */
export async function session(port, options = {}) {
  const made = http2.connect(`https://127.0.0.1:${port}`, { ...trusting, ...options });
  made.on('error', () => {});
  await within(10_000, 'an HTTP/2 connection over TLS', new Promise((resolve, reject) => {
    made.once('connect', resolve);
    made.once('close', () => reject(new Error('closed')));
    made.once('error', reject);
  }));
  return made;
}

/** One request on it. */
export const ask = (made, path, { body, ...headers } = {}) => within(20_000, `an answer to ${path}`, new Promise((resolve, reject) => {
  const stream = made.request({ ':path': path, ...(body !== undefined && { ':method': 'POST' }), ...headers });
  const parts = [];
  let head;
  stream.on('response', got => (head = got));
  stream.on('data', part => parts.push(part));
  stream.on('error', reject);
  stream.on('end', () => resolve({ status: head?.[':status'], headers: head, body: Buffer.concat(parts), text: Buffer.concat(parts).toString('utf8') }));
  stream.end(body);
}));

/** `openssl s_client`, whose commands (K, k, R, Q) are written as lines. */
export class SClient {
  constructor(port, args = []) {
    this.out = '';
    this.child = spawn('openssl', ['s_client', '-connect', `127.0.0.1:${port}`, '-servername', 'localhost', ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
    for (const stream of ['stdout', 'stderr']) this.child[stream].on('data', data => (this.out += data.toString('latin1')));
    this.child.stdin.on('error', () => {});
    this.exit = new Promise(resolve => this.child.once('exit', (code, signal) => resolve({ code, signal })));
  }

  write(text) {
    this.child.stdin.write(text);
    return this;
  }

  sees(pattern, timeout = 10_000) {
    return until(() => pattern.test(this.out), { timeout, what: () => `${pattern} from s_client: ${this.out.slice(-800)}` });
  }

  end() {
    this.child.kill('SIGKILL');
    return this.exit;
  }
}
