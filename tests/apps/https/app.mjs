import { certificate } from '../lib/certificate.mjs';
import { lastingSession, socketIoRoundTrips } from '../lib/clients.mjs';

export default {
  what: 'an https server with Express and Socket.IO: the proxy speaks plain HTTP to it',
  build: [certificate],
  start: { script: 'server.js' },
  scheme: 'https',
  workers: 2,
  requests: [
    { path: '/', derive: false },
    { path: '/protocol', expect: { contains: '{"authorized":false,"servername":null}' } },
    { path: '/echo', method: 'POST', headers: { 'content-type': 'text/plain' }, body: 'zoo', expect: { contains: 'zoo' } },
  ],
  uses: {
    'Socket.IO round trips over polling': target => socketIoRoundTrips(target, 'polling'),
    'Socket.IO round trips over websocket': target => socketIoRoundTrips(target, 'websocket'),
  },
  expected: {
    'GET /': {
      differs: 'req.secure is false: the client speaks plain HTTP to the proxy. Behind another proxy with TLS write app.set("trust proxy", "loopback")',
      seen: /by https" alone, "Hello by http"/,
    },
  },
  lasting: target => lastingSession(target),
};
