import assert from 'node:assert/strict';
import { webSocket } from '../lib/clients.mjs';

export default {
  what: 'Fastify with static files, a schema, a stream and a WebSocket',
  start: { script: 'server.js' },
  workers: 2,
  requests: [
    { path: '/', expect: { contains: '{"hello":"fastify"}' } },
    { path: '/public/style.css', expect: { contains: 'the asset of fastify', headers: { 'content-type': /text\/css/ } } },
    { path: '/public/style.css', name: 'a range', headers: { range: 'bytes=0-3' }, expect: { status: 206, contains: 'body' } },
    { path: '/greet', method: 'POST', body: { name: 'zoo' }, expect: { status: 201, contains: ['Hello zoo', '127.0.0.1'] } },
    { path: '/greet', name: 'a body that the schema refuses', method: 'POST', body: {}, expect: { status: 400, contains: 'name' } },
    { path: '/stream', expect: { contains: 'line 4' } },
    { path: '/', name: 'HEAD /', method: 'HEAD' },
    { path: '/nothing', expect: { status: 404 } },
  ],
  uses: {
    'a WebSocket': async target => assert.equal(await webSocket(target, '/ws', 'zoo'), 'echo zoo'),
  },
};
