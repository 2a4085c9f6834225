// A worker that drains ends its polling sessions by itself: nobody waits for a long poll to return.

import assert from 'node:assert/strict';
import test from 'node:test';
import { needsProxy, withProxy } from './lib/proxy.mjs';
import { connect } from './lib/sockets.mjs';
import { steady, succeed } from './lib/steer.mjs';
import { pooled, range, until } from './lib/wait.mjs';

const options = { timeout: 180_000, ...needsProxy };
const SESSIONS = 60;
/** Of server and client. Every client polls; a client of 2.x speaks the protocol of 1.x, too. */
const pairs = [[1, 2], [2, 2], [3, 4], [4, 4], [4, 2]];

for (const [server, client] of pairs) {
  test(`a rollout under ${SESSIONS} polling sessions, server ${server}.x, client ${client}.x`, options, t =>
    withProxy(
      { apps: { chat: { script: './sio.js', instances: 2, min_ready: '200ms', env: { SIO: String(server) } } } },
      async proxy => {
        await steady(proxy, 2);
        const sockets = await pooled(range(SESSIONS), 20, () =>
          connect(client, proxy.url, { transports: ['polling'], reconnection: true, reconnectionDelay: 500 }));
        const old = new Set(sockets.map(socket => socket.hello.pid));
        assert.equal(old.size, 2);
        const came = sockets.map(() => []);
        sockets.forEach((socket, i) => socket.socket.on('hello', hello => came[i].push(hello.pid)));
        const { ms } = await succeed(proxy, ['restart', 'chat']);
        await until(() => came.every(pids => pids.length > 0 && !old.has(pids.at(-1))), { what: 'every client on a new worker' });
        await steady(proxy, 2);
        t.diagnostic(`${Math.round(ms)} ms for the rollout; clients began anew ${came.flat().length} times`);
        for (const socket of sockets) {
          assert.deepEqual(socket.errors, []);
          assert.deepEqual([...new Set(socket.disconnects)], ['transport close']);
          assert.ok(!old.has(await socket.echo('there')));
          socket.close();
        }
        // As it was: each worker's polls return after up to 25 s.
        assert.ok(ms < 15_000, `${ms} ms`);
      },
    ));
}

test('at a stop every waiting poll gets an answer', options, t =>
  withProxy({ apps: { chat: { script: './sio.js', instances: 2 } } }, async proxy => {
    await steady(proxy, 2);
    const sockets = await pooled(range(SESSIONS), 20, () => connect(4, proxy.url, { transports: ['polling'] }));
    const started = performance.now();
    await proxy.interrupt();
    t.diagnostic(`${Math.round(performance.now() - started)} ms for the stop`);
    proxy.ended = { code: 0, signal: null };
    await until(() => sockets.every(socket => socket.disconnects.length > 0), { what: 'every client to know' });
    const cut = sockets.filter(socket => socket.disconnects[0] !== 'transport close');
    assert.deepEqual(cut.map(socket => socket.disconnects), []);
    sockets.forEach(socket => socket.close());
  }));
