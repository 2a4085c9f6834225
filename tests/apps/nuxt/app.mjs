import assert from 'node:assert/strict';
import { assetsOf, webSocket } from '../lib/clients.mjs';

export default {
  what: 'Nuxt 4 with pages, an API, static files and a WebSocket of Nitro',
  node: 22,
  build: [['npm', 'run', 'build']],
  workers: 2,
  variants: {
    start: { start: { command: ['npm', 'start'] } },
    node: { start: { script: '.output/server/index.mjs' } },
  },
  // Nuxt writes into each page when it was rendered.
  mask: [/prerenderedAt:\d+/g],
  requests: [
    { path: '/', expect: { contains: 'Nuxt rendered this' } },
    { path: '/cats/3', headers: { cookie: 'name=Ada' }, expect: { contains: ['cat ', 'Ada'] } },
    { path: '/cats/10', headers: { accept: 'text/html' }, expect: { status: 404, contains: 'no such cat' } },
    { path: '/api/hello?name=zoo', expect: { contains: 'zoo' } },
    { path: '/api/hello', method: 'POST', body: { a: 1 }, expect: { status: 201 } },
    { path: '/asset.txt', ignore: ['last-modified'], expect: { contains: 'the asset of nuxt' } },
    { path: '/old', expect: { status: 307, headers: { location: '/' } } },
    { path: '/nothing', headers: { accept: 'application/json' }, expect: { status: 404 } },
  ],
  uses: {
    'the scripts and styles of a page': target => assetsOf(target, /\/_nuxt\/[^"'\s]+\.(?:js|css)/g),
    'a WebSocket of Nitro': async target => assert.equal(await webSocket(target, '/_ws', 'zoo'), 'echo zoo'),
  },
};
