// WebSockets over TLS: a listener with a certificate of its own, and clients.

import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { freePort } from './proxy.mjs';
import { WebSocket, upgradeHead } from './upgrade.mjs';
import { until } from './wait.mjs';

/** Plain HTTP on the proxy's port, and TLS on another, `proxy.securePort`. */
export async function reservePort() {
  const securePort = await freePort();
  return proxy => {
    const cert = proxy.file('tls/cert.pem', '');
    const key = path.join(path.dirname(cert), 'key.pem');
    execFileSync('openssl', [
      'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '30', '-subj', '/CN=localhost',
      '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1', '-keyout', key, '-out', cert,
    ], { stdio: 'ignore' });
    proxy.securePort = securePort;
    return [{ address: `127.0.0.1:${proxy.port}` }, { address: `127.0.0.1:${securePort}`, tls: { certificates: [{ cert, key }] } }];
  };
}

export function openSecure(proxy, path, options = {}) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://127.0.0.1:${proxy.securePort}${path}`, {
      perMessageDeflate: false, rejectUnauthorized: false, handshakeTimeout: 15_000, ...options,
    });
    socket.once('open', () => resolve(socket));
    socket.once('error', reject);
  });
}

/** What the app of a siege says of this WebSocket. */
export function account(socket) {
  const answer = new Promise((resolve, reject) => {
    socket.on('message', data => {
      const [what, value] = data.toString().split(' ');
      if (what === 'account') resolve(JSON.parse(value));
    });
    socket.once('close', code => reject(new Error(`closed with ${code}`)));
  });
  socket.send('account');
  return answer;
}

/** A WebSocket by `openssl s_client`, which changes its keys when it is told to. */
export class SClient {
  out = '';

  static async open(proxy, path, args = ['-tls1_3']) {
    const client = new SClient();
    client.child = spawn('openssl', ['s_client', ...args, '-connect', `127.0.0.1:${proxy.securePort}`], { stdio: 'pipe' });
    for (const from of ['stdout', 'stderr']) client.child[from].on('data', data => (client.out += data.toString('latin1')));
    client.child.on('exit', () => (client.ended = true));
    client.child.stdin.on('error', () => {});
    await client.until(/Verify return code/);
    client.child.stdin.write(upgradeHead(path));
    await client.until(/101 Switching Protocols/);
    return client;
  }

  /** Output like this, after what was waited for before. */
  async until(pattern) {
    await until(() => {
      const found = pattern.exec(this.out);
      if (found) this.out = this.out.slice(found.index + found[0].length);
      else if (this.ended) throw Object.assign(new Error(`s_client has ended: ${this.out}`), { fatal: true });
      return found;
    }, { timeout: 20_000, what: () => `${pattern} of s_client: ${this.out.slice(-500)}` });
  }

  /** `K` asks for a key update in return, `k` does not. */
  async updateKey(command) {
    this.child.stdin.write(`${command}\n`);
    await this.until(/KEYUPDATE/);
  }

  /** A text message, and what comes back. */
  async ask(text, answer) {
    const mask = randomBytes(4);
    const payload = Buffer.from(text).map((byte, i) => byte ^ mask[i % 4]);
    this.child.stdin.write(Buffer.concat([Buffer.from([0x81, 0x80 | payload.length]), mask, payload]));
    await this.until(answer);
  }

  close() {
    this.child.kill('SIGKILL');
  }
}
