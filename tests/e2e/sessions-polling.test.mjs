// Polling alone is the hard case: every request of a session may come on another connection, and only one worker
// knows the session.

import assert from 'node:assert/strict';
import http from 'node:http';
import test from 'node:test';
import { PLAIN, withProxy } from './lib/proxy.mjs';
import { connect } from './lib/sockets.mjs';
import { pooled, range } from './lib/wait.mjs';

const WORKERS = 4;
const ROUNDS = 20;

// The mixed pairs speak the older protocol to the newer server: fewer of them will do.
const pairs = [
  { server: 2, client: 2, CLIENTS: 300 },
  { server: 3, client: 2, CLIENTS: 60 },
  { server: 3, client: 4, CLIENTS: 300 },
  { server: 4, client: 2, CLIENTS: 60 },
  { server: 4, client: 4, CLIENTS: 300 },
];

for (const { server, client, CLIENTS } of pairs) {
  test(`${CLIENTS} polling clients ${client}.x on ${WORKERS} workers of socket.io ${server}.x, ${ROUNDS} rounds`, { timeout: 180_000 }, t =>
    withProxy({ apps: { chat: { script: './sio.js', instances: WORKERS, env: { SIO: String(server) } } } }, async proxy => {
      // A third each: a new connection per request; one pool of connections for many sessions; a pool of their own.
      const shared = new http.Agent({ keepAlive: true });
      const agents = [() => false, () => shared, () => new http.Agent({ keepAlive: true })];
      const clients = await pooled(range(CLIENTS), 60, i =>
        connect(client, proxy.url, { transports: ['polling'], agent: agents[i % 3]() }));
      try {
        const started = performance.now();
        for (const round of range(ROUNDS)) await Promise.all(clients.map((c, i) => c.echo(`${i}/${round}`)));
        t.diagnostic(`${CLIENTS * ROUNDS} echoes in ${Math.round(performance.now() - started)} ms`);
        const trouble = clients.flatMap((c, i) => c.trouble.map(text => `client ${i}: ${text}`));
        assert.deepEqual(trouble, []);
        for (const c of clients) assert.equal(c.transport, 'polling');
        const perWorker = clients.reduce((map, c) => map.set(c.hello.pid, (map.get(c.hello.pid) ?? 0) + 1), new Map());
        t.diagnostic(`sessions per worker: ${[...perWorker.values()]}`);
        assert.equal(perWorker.size, PLAIN ? 1 : WORKERS, 'every worker has sessions');
        if (!PLAIN) assert.ok(Math.min(...perWorker.values()) >= CLIENTS / WORKERS / 2, `spread over the workers: ${[...perWorker.values()]}`);
      } finally {
        for (const c of clients) c.close();
        shared.destroy();
      }
    }));
}
