import { assetsOf } from '../lib/clients.mjs';

const form = { 'content-type': 'application/x-www-form-urlencoded', accept: 'text/html' };

export default {
  what: 'SvelteKit on its adapter for Node.js',
  node: 22,
  build: [['npm', 'run', 'build']],
  workers: 2,
  variants: {
    start: { start: { command: ['npm', 'start'] } },
    node: { start: { script: 'build/index.js' } },
  },
  // Its users must say where it is served: without TLS it takes https for granted, and refuses forms.
  env: { PROTOCOL_HEADER: 'x-forwarded-proto', HOST_HEADER: 'host' },
  requests: [
    { path: '/?q=zoo', headers: { cookie: 'name=Ada' }, expect: { contains: ['SvelteKit rendered this for Ada (zoo)', '127.0.0.1'] } },
    { path: '/__data.json?q=zoo', name: 'the data of a page', expect: { contains: 'zoo' } },
    { path: '/', name: 'a form', method: 'POST', headers: { ...form, origin: 'http://zoo.example', host: 'zoo.example', 'x-forwarded-proto': 'http' }, body: 'name=Bob', expect: { contains: 'stored Bob' } },
    { path: '/', name: 'a form of another site', method: 'POST', headers: { ...form, origin: 'http://evil.example' }, body: 'name=Bob', expect: { status: 403 } },
    { path: '/api/sum?a=1&b=2', expect: { contains: '{"sum":3}' } },
    { path: '/api/sum?a=x', headers: { accept: 'application/json' }, expect: { status: 400, contains: 'numbers, please' } },
    { path: '/asset.txt', ignore: ['last-modified'], expect: { contains: 'the asset of sveltekit' } },
    { path: '/nothing', expect: { status: 404 } },
  ],
  uses: { 'the scripts and styles of a page': target => assetsOf(target, /\.?\/_app\/[^"'\s]+\.(?:js|css)/g) },
};
