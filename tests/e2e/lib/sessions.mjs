// The check that every app of whatever form must pass.

import assert from 'node:assert/strict';
import http from 'node:http';
import { PLAIN } from './proxy.mjs';
import { connect } from './sockets.mjs';
import { pooled, range } from './wait.mjs';

/** Polling clients and upgrading clients: all stay on their worker. */
export async function keepsSessions(proxy, { options = {}, clients = 30, client = 4, workers = 3 } = {}) {
  const sockets = await pooled(range(2 * clients), 30, async i => {
    const transports = i % 2 ? ['polling'] : ['polling', 'websocket'];
    const socket = await connect(client, proxy.url, { transports, agent: i % 3 ? false : new http.Agent({ keepAlive: true }), ...options });
    if (transports.length > 1) await socket.upgraded();
    return socket;
  });
  try {
    for (const round of range(6)) await Promise.all(sockets.map((s, i) => s.echo(`${i}/${round}`)));
    assert.deepEqual(sockets.flatMap((s, i) => s.trouble.map(text => `client ${i}: ${text}`)), []);
    assert.equal(new Set(sockets.map(s => s.hello.pid)).size, PLAIN ? 1 : workers, 'every worker has sessions');
    return sockets.map(s => s.hello);
  } finally {
    for (const s of sockets) s.close();
  }
}
