// Files of a directory, and paths that try to leave it or to reach what a route keeps closed.

import assert from 'node:assert/strict';
import { mkdirSync, symlinkSync, writeFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { describe, test, before, after } from 'node:test';
import zlib from 'node:zlib';
import { connections } from './lib/connections.mjs';
import { Raw, request } from './lib/http.mjs';
import { ask, withSession } from './lib/http2.mjs';
import { needsProxy, startProxy } from './lib/proxy.mjs';
import { until } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };
const SECRET = 'the secret of the machine';
const BIG = 3_000_000;

/** public/ with what is served, and around it what must not be. */
function site(proxy) {
  const write = (name, text) => proxy.file(`site/${name}`, text);
  write('secret.txt', SECRET);
  write('public/index.html', '<h1>home</h1>');
  write('public/sub/index.html', '<h1>sub</h1>');
  write('public/empty.txt', '');
  write('public/plain.txt', 'plain');
  write('public/café.html', 'café');
  write('public/app.js', 'x'.repeat(100));
  write('public/app.js.gz', zlib.gzipSync('x'.repeat(100)));
  write('public/app.js.br', zlib.brotliCompressSync('x'.repeat(100)));
  write('public/.env', SECRET);
  write('public/.git/config', SECRET);
  write('public/.well-known/security.txt', 'mail us');
  write('public/big.bin', Buffer.alloc(BIG, 'abcdefghij'));
  write('out/secret.txt', SECRET);
  const at = path.dirname(proxy.file('site/x'));
  mkdirSync(path.join(at, 'public/listing'));
  symlinkSync('../secret.txt', path.join(at, 'public/link.txt'));
  symlinkSync('../out', path.join(at, 'public/linked'));
  symlinkSync('/etc', path.join(at, 'public/etc'));
  symlinkSync(path.join(at, 'secret.txt'), path.join(at, 'public/absolute.txt'));
  symlinkSync('loop', path.join(at, 'public/loop'));
  symlinkSync('plain.txt', path.join(at, 'public/inside.txt'));
  symlinkSync('/proc/self/root', path.join(at, 'public/root'));
  return path.join(at, 'public');
}

const config = http => proxy => ({
  server: { http },
  listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
  apps: { web: { script: './mirror.js', affinity: 'none', env: { NAME: 'web' } } },
  limits: { body_timeout: '1s' },
  routes: [
    { path: '/', files: { directory: site(proxy), cache_control: 'max-age=60' }, app: 'web' },
    { path: '/assets', files: path.join(path.dirname(proxy.file('site/x')), 'public'), strip_prefix: '/assets' },
    { path: '/admin', answer: { status: 403, body: 'closed' } },
  ],
});

const ways = {
  http1: proxy => async (target, { headers = {}, method = 'GET' } = {}) => {
    const raw = await Raw.connect(proxy.port);
    const fields = Object.entries({ Host: 'a', ...headers }).map(([name, value]) => `${name}: ${value}\r\n`).join('');
    raw.write(`${method} ${target} HTTP/1.1\r\n${fields}\r\n`);
    const { status, headers: answered, body } = await raw.response({ method });
    raw.destroy();
    return { status, headers: answered, body: Buffer.from(body), text: body.toString() };
  },
  http2: proxy => (target, { headers = {}, method = 'GET' } = {}) =>
    withSession(proxy.port, async session => {
      const { status, head = {}, body, text } = await ask(session, { ':path': target, ':method': method, ':authority': 'a', ...headers });
      return { status, headers: head, body, text };
    }),
};

/** Paths that some server reads as one below /admin. */
const TO_ADMIN = [
  '/admin', '/admin/', '//admin', '/admin/x', '/./admin', '/%61dmin', '/%61%64%6d%69%6e', '/x/../admin', '/x/./../admin', '/x/y/../../admin', '/../admin',
  '/x/%2e%2e/admin', '/x/%2E%2E/admin', '/x/.%2e/admin', '/x/%2e./admin', '/x%2f..%2fadmin', '/x/..%2fadmin', '/x%2F../admin', '/x%2f%2e%2e%2fadmin',
  '/x/%252e%252e/admin', '/x%252f..%252fadmin', '/%2561dmin', '/%252561dmin', '/x/..%5cadmin', '/x%5c..%5cadmin', '/admin%2fx', '/admin%2Fx', '/admin%5cx', '/admin%252fx',
  '/admin;x', '/admin;x=1/y', '/x/..;/admin', '/x/..;a=b/admin', '/admin%3bx', '/;/admin', '/admin%00', '/admin%00.html', '/admin%00/x', '/admin%2500',
  '/x/%c0%ae%c0%ae/admin', '/x/%c0%ae./admin', '/admin%c0%afx', '/x/..%c0%afadmin', '/admin%e0%80%afx', '/admin%ef%bc%8fx', '/admin%u002fx', '/x/%u002e%u002e/admin', '/%u0061dmin',
  '/admin/..%2fx', '/admin/../x', '/admin/%2e%2e/x', '/admin%2f..%2fx', '/admin%2f..', '/admin/.', '/admin/..;/x', '//x/..//admin', '/x//../admin', '/%2e/admin', '/.%2f/admin',
];

/** Paths that some server would take for a file outside of the directory, or for a hidden one. */
const TO_SECRETS = [
  '/../secret.txt', '/../../../../../../etc/passwd', '/sub/../../secret.txt', '/%2e%2e/secret.txt', '/..%2fsecret.txt', '/%2e%2e%2fsecret.txt', '/..%5csecret.txt', '/sub/..%2f..%2fsecret.txt',
  '/%252e%252e/secret.txt', '/%c0%ae%c0%ae/secret.txt', '/..;/secret.txt', '/..%00/secret.txt', '/secret.txt%00', '/link.txt', '/linked/secret.txt', '/linked/', '/absolute.txt', '/etc/passwd', '/etc/',
  '/root/etc/passwd', '/loop', '/loop/x', '/.env', '/%2eenv', '/.git/config', '/sub/../.env', '/./.env', '//.env', '/.git%2fconfig', '/listing', '/listing/', '/sub%2findex.html', '/assets/../secret.txt',
  '/assets/..%2fsecret.txt', '/assets/%2e%2e/%2e%2e/secret.txt', '/assets/.env', '/assets/link.txt', '/assets//etc/passwd', '/assets/linked/secret.txt', '/proc/self/environ', '/plain.txt/', '/plain.txt/x',
  '/big.bin/../../secret.txt', `/${'a'.repeat(300)}`, `/${'../'.repeat(200)}etc/passwd`, `/${'%2e%2e/'.repeat(100)}etc/passwd`,
];

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

      test('what a route keeps closed is reached by no way of writing its path', async () => {
        for (const target of TO_ADMIN) {
          const { status, text } = await get(target);
          assert.ok(status === 400 || status === 403, `${target}: ${status} ${text}`);
        }
        assert.equal((await get('/admin')).status, 403);
        assert.equal((await get('/administrator')).status, 200);
      });

      test('nothing outside of the directory is sent, and nothing hidden', async () => {
        for (const target of TO_SECRETS) {
          const { status, text } = await get(target);
          assert.doesNotMatch(text, /secret of the machine|root:x:|PATH=/, target);
          assert.ok([200, 400, 403, 404].includes(status), `${target}: ${status}`);
          if (status === 200) assert.match(text, /"app":"web"/, `${target}: the app answers`);
        }
      });

      test('files are sent with their types; what is missing goes to the app', async () => {
        for (const [target, type, text] of [
          ['/', 'text/html; charset=utf-8', '<h1>home</h1>'], ['/index.html', 'text/html; charset=utf-8', '<h1>home</h1>'],
          ['/sub/', 'text/html; charset=utf-8', '<h1>sub</h1>'], ['/plain.txt?x=1', 'text/plain; charset=utf-8', 'plain'],
          ['/inside.txt', 'text/plain; charset=utf-8', 'plain'], ['/caf%C3%A9.html', 'text/html; charset=utf-8', 'café'],
          ['/empty.txt', 'text/plain; charset=utf-8', ''], ['/.well-known/security.txt', 'text/plain; charset=utf-8', 'mail us'],
          ['/assets/plain.txt', 'text/plain; charset=utf-8', 'plain'],
        ]) {
          const answer = await get(target);
          assert.deepEqual([answer.status, answer.headers['content-type'], answer.text], [200, type, text], target);
        }
        assert.equal((await get('/plain.txt')).headers['cache-control'], 'max-age=60');
        const slash = await get('/sub?x=1');
        assert.deepEqual([slash.status, slash.headers.location], [308, '/sub/?x=1']);
        assert.equal(JSON.parse((await get('/missing')).text).url, '/missing');
        assert.equal(JSON.parse((await get('/plain.txt', { method: 'DELETE' })).text).method, 'DELETE');
        const head = await get('/plain.txt', { method: 'HEAD' });
        assert.deepEqual([head.status, head.headers['content-length'], head.text], [200, '5', '']);
        // The only app stands behind it.
        assert.equal((await get('/assets/missing')).status, 404);
      });

      test('conditions, ranges and encodings', async () => {
        const { headers: { etag, 'last-modified': modified } } = await get('/plain.txt');
        assert.match(etag, /^"[\w.-]+"$/);
        assert.equal(new Date(modified).getTime(), Math.floor(statSync(path.join(path.dirname(proxy.file('site/x')), 'public/plain.txt')).mtimeMs / 1000) * 1000);
        for (const [headers, status, text, more] of [
          [{ 'if-none-match': etag }, 304, ''], [{ 'if-none-match': '"x"' }, 200, 'plain'], [{ 'if-modified-since': modified }, 304, ''],
          [{ 'if-match': '"x"' }, 412], [{ range: 'bytes=1-2' }, 206, 'la', { 'content-range': 'bytes 1-2/5' }],
          [{ range: 'bytes=-2' }, 206, 'in', { 'content-range': 'bytes 3-4/5' }], [{ range: 'bytes=9-' }, 416, '', { 'content-range': 'bytes */5' }],
          [{ range: 'bytes=0-0,2-2' }, 200, 'plain'], [{ range: 'bytes=0-1', 'if-range': etag }, 206, 'pl'], [{ range: 'bytes=0-1', 'if-range': '"x"' }, 200, 'plain'],
        ]) {
          const answer = await get('/plain.txt', { headers });
          assert.equal(answer.status, status, JSON.stringify(headers));
          if (text !== undefined) assert.equal(answer.text, text, JSON.stringify(headers));
          for (const [field, value] of Object.entries(more ?? {})) assert.equal(answer.headers[field], value);
        }
        for (const [accept, encoding, decode] of [
          ['gzip, br', 'br', zlib.brotliDecompressSync], ['gzip', 'gzip', zlib.gunzipSync], ['br;q=0, gzip;q=0.5', 'gzip', zlib.gunzipSync], ['identity', undefined, x => x],
        ]) {
          const answer = await get('/app.js', { headers: { 'accept-encoding': accept } });
          assert.equal(answer.headers['content-encoding'], encoding, accept);
          assert.equal(answer.headers.vary, 'Accept-Encoding');
          assert.equal(decode(answer.body).toString(), 'x'.repeat(100));
        }
      });

      test('a large file arrives whole, and in parts', async () => {
        const whole = await get('/big.bin');
        assert.equal(whole.body.length, BIG);
        assert.ok(whole.body.equals(Buffer.alloc(BIG, 'abcdefghij')));
        const part = await get('/big.bin', { headers: { range: 'bytes=1000005-2000004' } });
        assert.equal(part.status, 206);
        assert.ok(part.body.equals(Buffer.alloc(1_000_005, 'abcdefghij').subarray(5)));
      });
    });
  }
}

test('a client that does not take a file is cut off after body_timeout', options, async () => {
  const proxy = await startProxy(at => {
    const made = config('own')(at);
    writeFileSync(path.join(made.routes[0].files.directory, 'huge.bin'), Buffer.alloc(64 << 20));
    return made;
  });
  try {
    const raw = await Raw.connect(proxy.port);
    raw.socket.pause();
    raw.write('GET /huge.bin HTTP/1.1\r\nHost: a\r\n\r\n');
    assert.equal(JSON.parse((await request(proxy.port, { path: '/x' })).text).app, 'web', 'others are served meanwhile');
    await until(() => !connections(proxy.port).has(raw.socket.localPort), { timeout: 15_000, what: 'the end of the connection' });
    raw.destroy();
  } finally {
    await proxy.stop();
  }
});
