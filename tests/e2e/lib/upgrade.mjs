// WebSocket upgrades: by the ws library, and by hand for what it would not do.

import { createRequire } from 'node:module';
import { randomBytes } from 'node:crypto';
import { Raw } from './http.mjs';

const require = createRequire(import.meta.url);
export const WebSocket = require('ws');

/** Opens, sends one message, waits for it to come back, closes. Returns what went wrong, or nothing. */
export function echoOnce(port, text, { path = '/ws', timeout = 30_000 } = {}) {
  return new Promise(resolve => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`, { perMessageDeflate: false, handshakeTimeout: timeout });
    let echoed = false;
    let upgraded = false;
    let trouble;
    const timer = setTimeout(() => {
      trouble = `nothing for ${timeout} ms (upgraded: ${upgraded}, echoed: ${echoed})`;
      socket.terminate();
    }, timeout);
    socket.on('upgrade', () => (upgraded = true));
    socket.on('open', () => socket.send(text));
    socket.on('message', data => {
      echoed = data.toString() === text;
      if (!echoed) trouble = `sent ${text}, got ${data}`;
      socket.close(1000);
    });
    socket.on('error', error => (trouble ??= `${error.message} (upgraded: ${upgraded})`));
    socket.on('close', code => {
      clearTimeout(timer);
      if (!echoed) trouble ??= `closed with ${code} before the echo (upgraded: ${upgraded})`;
      else if (code !== 1000) trouble ??= `closed with ${code} after the echo`;
      resolve(trouble);
    });
  });
}

export function open(port, path = '/ws', options = {}) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`, { perMessageDeflate: false, handshakeTimeout: 15_000, ...options });
    socket.once('open', () => resolve(socket));
    socket.once('error', reject);
  });
}

export const upgradeHead = (path, more = '') =>
  `GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n`
  + `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\n${more}\r\n`;

/** Upgrades on a raw connection; `early` follows the head in the same write. */
export async function rawUpgrade(port, path, { early = '', ...options } = {}) {
  const raw = await Raw.connect(port, { allowHalfOpen: true, ...options });
  raw.write(Buffer.concat([Buffer.from(upgradeHead(path)), Buffer.from(early)]));
  raw.answer = await raw.head();
  return raw;
}
