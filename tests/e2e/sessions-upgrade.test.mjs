// Sessions that begin by polling and move to a WebSocket, and sessions that are a WebSocket from the start.

import assert from 'node:assert/strict';
import test from 'node:test';
import { PLAIN, withProxy } from './lib/proxy.mjs';
import { connect } from './lib/sockets.mjs';
import { pooled, range } from './lib/wait.mjs';

const CLIENTS = 300;
const WORKERS = 4;

const check = async (proxy, t, { client, transports, clients = CLIENTS, rounds = 5 }) => {
  const sockets = await pooled(range(clients), 100, async i => {
    const socket = await connect(client, proxy.url, { transports });
    await socket.echo(`first of ${i}`);
    await socket.upgraded();
    return socket;
  });
  try {
    for (const round of range(rounds)) await Promise.all(sockets.map((s, i) => s.echo(`${i}/${round}`)));
    assert.deepEqual(sockets.flatMap((s, i) => s.trouble.map(text => `client ${i}: ${text}`)), []);
    for (const s of sockets) assert.equal(s.transport, 'websocket');
    const pids = new Set(sockets.map(s => s.hello.pid));
    assert.equal(pids.size, PLAIN ? 1 : WORKERS, 'every worker has sessions');
  } finally {
    for (const s of sockets) s.close();
  }
};

for (const { server, client } of [{ server: 2, client: 2 }, { server: 3, client: 2 }, { server: 3, client: 4 }, { server: 4, client: 4 }]) {
  test(`socket.io ${server}.x, clients ${client}.x: polling then websocket, and websocket only`, { timeout: 120_000 }, t =>
    withProxy({ apps: { chat: { script: './sio.js', instances: WORKERS, env: { SIO: String(server) } } } }, async proxy => {
      await t.test(`${CLIENTS} clients upgrade and keep their worker`, () => check(proxy, t, { client, transports: ['polling', 'websocket'] }));
      await t.test(`${CLIENTS} clients by websocket only`, () => check(proxy, t, { client, transports: ['websocket'] }));
    }));
}
