import assert from 'node:assert/strict';
import { event, lastingSession, socketIo, socketIoRoundTrips } from '../lib/clients.mjs';

/** The package learns of a session after its client does: a second request that is quick is refused, alone too. */
const patient = true;

/** Two clients of one app worker meet in its cluster's adapter, whichever process of the cluster each has. */
async function broadcast(target) {
  const sockets = Array.from({ length: 6 }, () => socketIo(target, { transports: ['websocket'] }));
  try {
    await Promise.all(sockets.map(socket => event(socket, 'connect', ['connect_error'])));
    const told = sockets.map(socket => event(socket, 'told'));
    sockets[0].emit('tell everybody', 'news');
    // Behind the proxy each worker is a cluster of its own.
    const heard = target.alone ? Promise.all(told) : Promise.race(told.slice(1));
    assert.match(JSON.stringify(await heard), /news/);
    await Promise.allSettled(target.alone ? [] : [told[0]]);
    for (const promise of told) promise.catch(() => {});
  } finally {
    for (const socket of sockets) socket.leave();
  }
}

export default {
  what: 'a cluster of its own',
  requests: [{ path: '/', expect: { contains: 'a worker of a cluster' } }],
  variants: {
    plain: { what: 'a cluster by node:cluster', start: { script: 'plain.js' }, workers: 2 },
    sticky: {
      what: 'a cluster with @socket.io/sticky and its adapter',
      start: { script: 'sticky.js' },
      notes: [
        'the package itself refuses a session now and then, alone too; its client tries again',
      ],
      workers: 2,
      uses: {
        'Socket.IO round trips over polling': target => socketIoRoundTrips(target, 'polling', { patient }),
        'Socket.IO round trips over websocket': target => socketIoRoundTrips(target, 'websocket', { patient }),
        'a message to everybody in the cluster': broadcast,
      },
      lasting: target => lastingSession(target, { patient }),
    },
  },
};
