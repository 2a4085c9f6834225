// Routes: which one serves a request, and what it does; the same over HTTP/1, HTTP/2, an upgrade and Pingora's path.

import assert from 'node:assert/strict';
import { describe, test, before, after } from 'node:test';
import { Raw, request } from './lib/http.mjs';
import { ask, withSession } from './lib/http2.mjs';
import { needsProxy, startProxy, withProxy } from './lib/proxy.mjs';
import { succeed } from './lib/steer.mjs';
import { configure } from './lib/proxy.mjs';

const options = { timeout: 60_000, ...needsProxy };
const app = (name, more) => ({ script: './mirror.js', affinity: 'none', env: { NAME: name }, ...more });

const config = http => proxy => ({
  server: { http },
  listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
  apps: { web: app('web'), api: app('api'), two: app('two'), off: app('off', { maintenance: { retry_after: '1h' } }) },
  error_pages: {
    404: proxy.file('404.html', '<h1>not here</h1>'),
    '5xx': [proxy.file('5xx.html', '<h1>broken</h1>'), proxy.file('5xx.json', '{"broken":true}')],
  },
  routes: [
    { host: 'a.example', app: 'web' },
    { host: '127.0.0.1', app: 'web' },
    { host: 'a.example', path: '/api', app: 'api', strip_prefix: '/api' },
    { host: 'a.example', path: '/v2', app: 'api', strip_prefix: '/v2', add_prefix: '/next' },
    { host: 'a.example', exact: '/one', app: 'two' },
    { host: 'a.example', regex: '^/item/[0-9]+$', app: 'two' },
    { host: 'a.example', path: '/post', methods: ['POST'], app: 'two' },
    { host: 'a.example', path: '/beta', headers: { 'X-Beta': true }, app: 'two' },
    { host: 'a.example', path: '/old', redirect: { to: '/new{rest}{query}', status: 301 } },
    { host: 'a.example', path: '/secure', redirect: 'https://{host}{path}{query}' },
    { host: 'a.example', path: '/text', answer: { body: 'hello', content_type: 'text/x-test' } },
    { host: 'a.example', path: '/none', answer: { status: 204 } },
    { host: 'a.example', path: '/page', answer: { file: proxy.file('page.html', '<p>page</p>') } },
    { host: 'a.example', path: '/closed', maintenance: true, app: 'web' },
    { host: 'a.example', path: '/small', limits: { body_size: '10b' }, app: 'web' },
    { host: 'a.example', path: '/large', app: 'web', limits: { body_size: '2mb' } },
    { host: 'a.example', path: '/slow', app: 'web', limits: { response_timeout: '300ms' } },
    { host: '*.example', app: 'api' },
    { host: 'off.test', app: 'off' },
  ],
  limits: { body_size: '100kb', body_timeout: '2s' },
});

/** Ways to ask: each gives {status, headers, text}. */
const ways = {
  http1: proxy => async (path, { headers = {}, ...more } = {}) => request(proxy.port, { path, headers: { host: 'a.example', ...headers }, ...more }),
  http2: proxy => (path, { headers: { host = 'a.example', ...headers } = {}, method = 'GET', body } = {}) =>
    withSession(proxy.port, async session => {
      const { status, head, text } = await ask(session, { ':path': path, ':method': method, ':authority': host, ...headers }, { body });
      return { status, headers: head ?? {}, text, get json() { return JSON.parse(text); } };
    }),
};

for (const http of ['own', 'pingora']) {
  for (const [name, way] of Object.entries(ways)) {
    describe(`${name}, carried by ${http}`, options, () => {
      let proxy;
      let get;
      before(async () => {
        proxy = await startProxy(config(http));
        get = way(proxy);
      }, { timeout: 60_000 });
      after(() => proxy?.stop());

      test('the most specific route wins', async () => {
        for (const [path, wanted, more] of [
          ['/', 'web'], ['/apis', 'web'], ['/api', 'api'], ['/api/x', 'api'], ['/one', 'two'], ['/one/', 'web'], ['/one?x', 'two'],
          ['/item/7', 'two'], ['/item/x', 'web'], ['/post', 'web'], ['/post', 'two', { method: 'POST', body: 'x' }],
          ['/beta', 'web'], ['/beta', 'two', { headers: { 'x-beta': '1' } }], ['/', 'api', { headers: { host: 'b.example' } }],
          ['//api//x', 'api'], ['/%61pi/x', 'api'], ['/projects/a%2Fb', 'web'],
        ]) {
          const answer = await get(path, more);
          assert.equal(answer.status, 200, path);
          assert.equal(answer.json.app, wanted, path);
        }
        assert.equal((await get('/', { headers: { host: 'nobody.test' } })).status, 404);
      });

      test('the worker gets the path as it was asked, unless a prefix is taken off or put in front', async () => {
        for (const [path, url, prefix] of [
          ['/x//y/%7e?q=%2F', '/x//y/%7e?q=%2F'], ['/projects/a%2Fb', '/projects/a%2Fb'],
          ['/api', '/', '/api'], ['/api/x?y=1', '/x?y=1', '/api'], ['//api/%7Ex', '/~x', '/api'], ['/v2/x', '/next/x', '/v2'],
        ]) {
          const { json } = await get(path, { headers: { 'x-forwarded-prefix': '/evil' } });
          assert.equal(json.url, url, path);
          assert.equal(json.headers['x-forwarded-prefix'], prefix, path);
        }
      });

      test('redirects lead where they are told to, and to no other host', async () => {
        for (const [path, status, location] of [
          ['/old/x?y=1', 301, '/new/x?y=1'], ['/old', 301, '/new'], ['/secure/x?y', 302, 'https://a.example/secure/x?y'],
          ['/old//evil.test', 301, '/new/evil.test'],
        ]) {
          const answer = await get(path);
          assert.equal(answer.status, status, path);
          assert.equal(answer.headers.location, location, path);
        }
      });

      test('fixed answers and maintenance', async () => {
        const text = await get('/text');
        assert.deepEqual([text.status, text.text, text.headers['content-type']], [200, 'hello', 'text/x-test']);
        const head = await get('/text', { method: 'HEAD' });
        assert.deepEqual([head.status, head.text, head.headers['content-length']], [200, '', '5']);
        const none = await get('/none');
        assert.deepEqual([none.status, none.text, none.headers['content-length']], [204, '', undefined]);
        const page = await get('/page');
        assert.deepEqual([page.text, page.headers['content-type']], ['<p>page</p>', 'text/html; charset=utf-8']);
        const closed = await get('/closed/x');
        assert.deepEqual([closed.status, closed.headers['retry-after']], [503, '120']);
        const off = await get('/', { headers: { host: 'off.test' } });
        assert.deepEqual([off.status, off.headers['retry-after']], [503, '3600']);
      });

      test('error pages have the form that is asked for', async () => {
        const nobody = { host: 'nobody.test' };
        assert.equal((await get('/', { headers: nobody })).text, '<h1>not here</h1>');
        const json = await get('/', { headers: { ...nobody, accept: 'application/json' } });
        assert.equal(JSON.parse(json.text).status, 404);
        assert.match(json.headers['content-type'], /json/);
        const broken = await get('/fail', { headers: { accept: 'application/json' } });
        assert.deepEqual([broken.status, broken.text], [502, '{"broken":true}']);
        const html = await get('/fail', { headers: { accept: 'text/html,*/*;q=0.8' } });
        assert.deepEqual([html.status, html.text], [502, '<h1>broken</h1>']);
      });

      test('limits of a route replace those of all', async () => {
        const post = (path, size) => get(path, { method: 'POST', body: 'x'.repeat(size), headers: { 'content-length': String(size) } });
        assert.equal((await post('/small', 5)).status, 200);
        assert.equal((await post('/small', 50)).status, 413);
        assert.equal((await post('/x', 50)).status, 200);
        assert.equal((await post('/x', 200_000)).status, 413);
        const large = await post('/large', 1_000_000);
        assert.deepEqual([large.status, large.headers['x-bytes']], [200, '1000000']);
        assert.equal((await get('/slow')).status, 504);
      });
    });
  }
}

test('an upgrade goes by routes, too', options, () =>
  withProxy(config('own'), async proxy => {
    const upgrade = async path => {
      const raw = await Raw.connect(proxy.port);
      raw.write(`GET ${path} HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n`);
      const response = await raw.response();
      raw.destroy();
      return response;
    };
    const mirrored = await upgrade('/api/socket.io/?EIO=4');
    assert.equal(mirrored.status, 101);
    const { app, url, headers } = JSON.parse(Buffer.from(mirrored.headers['x-mirror'], 'base64'));
    assert.deepEqual([app, url, headers['x-forwarded-prefix']], ['api', '/socket.io/?EIO=4', '/api']);
    assert.equal((await upgrade('/old/x')).status, 301);
    assert.equal((await upgrade('/closed')).status, 503);
    assert.equal((await upgrade('/x/..%2fold')).status, 400);
  }));

test('an answer of the proxy keeps the connection, with its body read', options, () =>
  withProxy(config('own'), async proxy => {
    const raw = await Raw.connect(proxy.port);
    for (const [path, status] of [['/text', 200], ['/old', 301], ['/none', 204], ['/closed', 503], ['/', 200]]) {
      raw.write(`POST ${path} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello`);
      assert.equal((await raw.response()).status, status, path);
    }
    raw.destroy();
  }));

test('routes and pages change with a reload', options, () => {
  const made = body => proxy => ({ apps: { web: app('web') }, routes: [{ path: '/' }, { path: '/text', answer: { body } }] });
  return withProxy(made('one'), async proxy => {
    assert.equal((await request(proxy.port, { path: '/text' })).text, 'one');
    configure(proxy, made('two')(proxy));
    await succeed(proxy, ['reload']);
    assert.equal((await request(proxy.port, { path: '/text' })).text, 'two');
  });
});
