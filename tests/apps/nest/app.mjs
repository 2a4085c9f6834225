import assert from 'node:assert/strict';
import { event, lastingSession, socketIo, socketIoRoundTrips } from '../lib/clients.mjs';

/** The gateway streams three events for one message. */
async function streamed(target) {
  const socket = socketIo(target);
  try {
    await event(socket, 'connect', ['connect_error']);
    const got = [];
    const all = new Promise(resolve => socket.on('events', n => got.push(n) === 3 && resolve()));
    socket.emit('events', {});
    await all;
    assert.deepEqual(got, [1, 2, 3]);
    const joined = event(socket, 'joined');
    assert.equal(await socket.timeout(5000).emitWithAck('join', 'zoo'), 'zoo');
    assert.deepEqual(await joined, [`${socket.id} is in zoo`]);
    if (socket.io.engine.transport.name !== 'websocket') await event(socket.io.engine, 'upgrade');
  } finally {
    socket.leave();
  }
}

const message = { message: 'identity' };

export default {
  what: 'NestJS with its Socket.IO gateway',
  build: [['npm', 'run', 'build']],
  variants: {
    prod: { start: { command: ['npm', 'run', 'start:prod'] }, workers: 2 },
    // It compiles at each start, into the one directory.
    start: { start: { command: ['npm', 'start'] }, workers: 1 },
  },
  requests: [
    { path: '/', expect: { contains: 'Hello Nest!' } },
    { path: '/cats/3', expect: { contains: '{"id":3,"lives":9}' } },
    { path: '/cats/10', expect: { status: 404, contains: 'no cat 10' } },
    { path: '/cats/x', expect: { status: 400 } },
    { path: '/cats', method: 'POST', body: { name: 'Tom' }, expect: { status: 201, contains: 'Tom' } },
    {
      name: 'the first poll of a session',
      path: '/socket.io/?EIO=4&transport=polling',
      mask: [/"sid":"[^"]*"/g],
      expect: { contains: '"upgrades":["websocket"]' },
    },
    { name: 'a preflight', path: '/socket.io/?EIO=4&transport=polling', method: 'OPTIONS', headers: { origin: 'http://zoo', 'access-control-request-method': 'GET' }, expect: { status: 204 } },
    { path: '/socket.io/?EIO=4&transport=polling&sid=unknown', name: 'a session that nobody has', expect: { status: 400, contains: 'Session ID unknown' } },
  ],
  load: [{ path: '/', expect: { contains: 'Hello Nest!' } }, { path: '/cats/3' }],
  uses: {
    'Socket.IO round trips over polling': target => socketIoRoundTrips(target, 'polling', message),
    'Socket.IO round trips over websocket': target => socketIoRoundTrips(target, 'websocket', message),
    'events, a room and the change from polling to websocket': streamed,
  },
  lasting: target => lastingSession(target, message),
};
