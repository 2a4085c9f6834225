// HTTP/2 without TLS: Pingora carries it, and the same rules decide as for HTTP/1.

import assert from 'node:assert/strict';
import http2 from 'node:http2';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { needsProxy, withProxy } from './lib/proxy.mjs';
import { range } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };

/** One request over an HTTP/2 session. */
function ask(session, headers, body) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ':path': '/pid', ...headers });
    let head;
    const chunks = [];
    stream.on('response', h => (head = h)).on('data', chunk => chunks.push(chunk)).on('error', reject);
    stream.on('end', () => resolve({ status: head[':status'], head, text: Buffer.concat(chunks).toString() }));
    stream.end(body);
  });
}

test('HTTP/2 by prior knowledge: streams, bodies, client address, affinity, errors', options, async () => {
  const config = proxy => ({
    listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
    apps: { web: { script: './http.js', instances: 3, affinity: { header: 'x-user' } } },
    routes: [{ path: '/', app: 'web', host: 'app.example' }, { path: '/', app: 'web', host: '127.0.0.1' }],
  });
  await withProxy(config, {}, async ({ port }) => {
    const session = http2.connect(`http://127.0.0.1:${port}`);
    try {
      const pids = await Promise.all(range(60).map(i => ask(session, { 'x-user': `user${i % 20}` })));
      assert.ok(pids.every(answer => answer.status === 200));
      for (const i of range(60)) assert.equal(pids[i].text, pids[i % 20].text, 'one key, one worker');
      assert.equal(new Set(pids.map(answer => answer.text)).size, 3);

      const body = Buffer.alloc(300_000, 'x');
      const echo = await ask(session, { ':path': '/upload', ':method': 'POST' }, body);
      assert.equal(echo.status, 200);

      const seen = JSON.parse((await ask(session, { ':path': '/head', 'x-forwarded-for': '9.9.9.9', 'x-real-ip': '9.9.9.9' })).text);
      assert.equal(seen.headers['x-forwarded-for'], '127.0.0.1');
      assert.equal(seen.headers['x-real-ip'], '127.0.0.1');
      assert.equal(seen.remoteAddress, '127.0.0.1');

      const lost = await ask(session, { ':authority': 'nobody.example' });
      assert.equal(lost.status, 404);
    } finally {
      session.close();
    }
    // HTTP/1 on the same listener.
    assert.equal((await request(port, { path: '/pid', headers: { 'x-user': 'user0' } })).status, 200);
  });
});
