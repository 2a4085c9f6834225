import { inParts } from '../lib/clients.mjs';

const form = ['--zoo', 'content-disposition: form-data; name="title"', '', 'a title', '--zoo',
  'content-disposition: form-data; name="file"; filename="a.txt"', 'content-type: text/plain', '', 'x'.repeat(20_000), '--zoo--', ''].join('\r\n');

export default {
  what: 'Hono on its Node.js server: pages, JSON, cookies, an upload, events, static files',
  start: { script: 'index.js' },
  workers: 2,
  requests: [
    { path: '/', expect: { contains: 'Hello Hono' } },
    { path: '/static/app.js', expect: { contains: 'the asset of hono', headers: { 'content-type': /javascript/ } } },
    { path: '/api/users/17?q=a%20b', expect: { contains: '{"id":"17","q":"a b"}' } },
    { path: '/where', derive: false, headers: { host: 'zoo.example' }, expect: { contains: ['"url":"http://zoo.example/where"', '127.0.0.1'] } },
    { path: '/session', headers: { cookie: 'visits=4' }, expect: { contains: 'visit 5' } },
    { path: '/form', method: 'POST', headers: { 'content-type': 'multipart/form-data; boundary=zoo' }, body: form, expect: { contains: '20000' } },
    { path: '/events', expect: { contains: 'data: tick 2', headers: { 'content-type': /text\/event-stream/ } } },
    { path: '/', name: 'HEAD /', method: 'HEAD' },
    { path: '/none', expect: { status: 404, contains: 'nothing here' } },
  ],
  uses: { 'events that come one by one': target => inParts(target, '/events', 'tick 0', 'tick 2') },
  expected: {
    'GET /where': {
      differs: 'a client of IPv4 is 127.0.0.1, not ::ffff:127.0.0.1 as a server on :: sees it: it connects to the listener of the proxy',
      seen: /::ffff:127\.0\.0\.1.* alone, .*"127\.0\.0\.1/,
    },
  },
};
