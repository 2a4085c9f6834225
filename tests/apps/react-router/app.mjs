import { assetsOf, inParts } from '../lib/clients.mjs';

export default {
  what: 'React Router as a framework, on its own server',
  node: 22,
  build: [['npm', 'run', 'build']],
  workers: 2,
  variants: {
    start: { start: { command: ['npm', 'start'] } },
    serve: { start: { script: 'node_modules/.bin/react-router-serve', args: ['./build/server/index.js'] } },
  },
  requests: [
    { path: '/?name=zoo', compareBody: false, expect: { contains: ['React Router rendered this for', 'zoo', 'came later', 'Zoo of React Router'] } },
    { path: '/_.data?name=zoo', name: 'the data of a page', expect: { contains: 'zoo' } },
    { path: '/?index', name: 'a form', method: 'POST', compareBody: false, headers: { 'content-type': 'application/x-www-form-urlencoded' }, body: 'name=Bob', expect: { contains: ['stored', 'Bob'] } },
    { path: '/api/sum?a=1&b=2', expect: { contains: '{"sum":3}' } },
    { path: '/old', expect: { status: 302, headers: { location: '/?name=moved' } } },
    { path: '/asset.txt', expect: { contains: 'the asset of react-router' } },
    { path: '/nothing', compareBody: false, expect: { status: 404 } },
  ],
  uses: {
    'a page that comes in parts': target => inParts(target, '/', 'waits', 'came later'),
    'the scripts of a page': target => assetsOf(target, /\/assets\/[^"'\s]+\.(?:js|css)/g),
  },
};
