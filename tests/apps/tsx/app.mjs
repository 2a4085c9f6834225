import { lastingSession, socketIoRoundTrips } from '../lib/clients.mjs';

export default {
  what: 'TypeScript by tsx, with Socket.IO',
  workers: 2,
  variants: {
    npx: { start: { command: ['npx', 'tsx', 'src/server.ts'] } },
    start: { start: { command: ['npm', 'start'] } },
    import: { start: { script: 'src/server.ts', node_args: ['--import', 'tsx'] } },
  },
  requests: [
    { path: '/', expect: { contains: '{"hello":"tsx"}' } },
    { path: '/?name=zoo', expect: { contains: '{"hello":"zoo"}' } },
  ],
  uses: {
    'Socket.IO round trips over polling': target => socketIoRoundTrips(target, 'polling'),
    'Socket.IO round trips over websocket': target => socketIoRoundTrips(target, 'websocket'),
  },
  lasting: target => lastingSession(target),
};
