// What both generations of Next.js are asked.

import assert from 'node:assert/strict';
import { inParts } from './clients.mjs';

/** The scripts and styles that a page asks for, which only a build knows. */
async function assets(target) {
  const page = await target.get('/');
  const paths = [...new Set([...page.text.matchAll(/(?:src|href)="(\/_next\/static\/[^"]+)"/g)].map(([, path]) => path.replaceAll('&amp;', '&')))];
  assert.ok(paths.some(path => path.includes('.js')) && paths.some(path => path.includes('.css')), `scripts and styles in ${paths}`);
  for (const path of paths) {
    const asset = await target.get(path);
    assert.equal(asset.status, 200, path);
    assert.match(asset.headers['cache-control'], /immutable/);
    assert.ok(asset.body.length > 0);
  }
}

/** What the router in the browser asks for when a link is followed. */
async function navigation(target) {
  const answer = await target.get('/dynamic?_rsc=zoo', { rsc: '1', cookie: 'name=Ada' });
  // A newer one insists on its own value for the parameter.
  const flight = answer.status === 307 ? await target.get(answer.headers.location, { rsc: '1', cookie: 'name=Ada' }) : answer;
  assert.match(flight.headers['content-type'], /text\/x-component/);
  assert.match(flight.text, /Ada/);
}

export const next = {
  build: [
    ['npm', 'run', 'build'],
    // The output "standalone" has no static files: its users copy them.
    ['sh', '-c', 'STANDALONE=1 npm run build && cp -r public .next-standalone/standalone/ && cp -r .next-standalone/static .next-standalone/standalone/.next-standalone/'],
  ],
  workers: 2,
  variants: {
    start: { start: { command: ['npm', 'start'] } },
    next: { start: { command: ['node_modules/.bin/next', 'start'] } },
    standalone: { start: { script: '.next-standalone/standalone/server.js' } },
    custom: { start: { script: 'server.js', env: { NODE_ENV: 'production' } }, aloneEnv: { NODE_ENV: 'production' } },
  },
  requests: [
    { path: '/', expect: { contains: ['A static page of Next', 'Zoo of Next'] } },
    { path: '/logo.svg', expect: { contains: 'the asset of next', headers: { 'content-type': 'image/svg+xml' } } },
    { path: '/dynamic', headers: { cookie: 'name=Ada', 'x-zoo': 'London', host: 'zoo.example' }, expect: { contains: ['Ada', 'London', 'zoo.example'], headers: { 'x-through': 'middleware' } } },
    // In which order its parts come is a matter of time.
    { path: '/stream', compareBody: false, expect: { contains: ['came at once', 'came later'] } },
    { path: '/api/hello?name=zoo', expect: { contains: '{"hello":"zoo"}' } },
    { path: '/hello?name=rewritten', expect: { contains: '{"hello":"rewritten"}' } },
    { path: '/api/hello', method: 'POST', body: { a: 1 }, expect: { status: 201, contains: '{"got":{"a":1}}' } },
    { path: '/ssr?name=Bob', expect: { contains: 'Bob' } },
    { path: '/old', expect: { status: 308, headers: { location: '/' } } },
    { path: '/private', expect: { status: 307, headers: { location: /\/\?from=private$/ } } },
    { path: '/nothing', expect: { status: 404 } },
    { path: '/_next/image?url=%2Fdot.png&w=64&q=75', name: 'an optimized image', ignore: ['x-nextjs-cache'], headers: { accept: 'image/webp' }, expect: { headers: { 'content-type': /^image\// } } },
    { path: '/_next/image?url=%2Flogo.svg&w=64&q=75', name: 'an image that may not be optimized', expect: { status: 400 } },
  ],
  uses: {
    'the scripts and styles of a page': assets,
    'a link that is followed': navigation,
    'a page that comes in parts': target => inParts(target, '/stream', 'came at once', 'came later'),
  },
};

/** A form without a script in the browser. Next.js takes it only from the host that it takes itself to be on. */
export async function serverAction(target) {
  const page = await target.get('/action');
  const [, id] = /name="(\$ACTION_ID_[0-9a-f]+)"/.exec(page.text) ?? [];
  assert.ok(id, page.text.slice(0, 500));
  const body = ['--zoo', `content-disposition: form-data; name="${id}"`, '', '', '--zoo', 'content-disposition: form-data; name="name"', '', 'Ada', '--zoo--', ''];
  const post = origin =>
    target.request({ path: '/action', method: 'POST', headers: { origin, 'content-type': 'multipart/form-data; boundary=zoo' }, body: body.join('\r\n') });
  const answer = await post(`http://${target.host}`);
  assert.equal(answer.status, 303, answer.text.slice(0, 500));
  assert.match(answer.headers.location, /\/dynamic\?by=Ada$/);
  assert.equal((await post('http://evil.example')).status, 500, 'a form of another site');
}
