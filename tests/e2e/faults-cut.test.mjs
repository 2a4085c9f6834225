// An answer that was cut must look cut, and what is logged about a failure must hold no secrets.

import assert from 'node:assert/strict';
import http2 from 'node:http2';
import path from 'node:path';
import test from 'node:test';
import { Raw, exchange, request } from './lib/http.mjs';
import { needsProxy, suiteDir, withProxy } from './lib/proxy.mjs';
import { ask, withSession } from './lib/streams.mjs';
import { upgradeHead } from './lib/upgrade.mjs';
import { sleep } from './lib/wait.mjs';

const { NGHTTP2_INTERNAL_ERROR } = http2.constants;
const options = { timeout: 60_000, ...needsProxy };
const wire = { command: ['node', path.join(suiteDir, 'apps/wire.js'), '{socket}'], preload: false };

/** Reads an answer to the end of its connection; says whether a client can take it for whole. */
async function looksWhole(port, bytes, begun = () => {}) {
  const raw = await Raw.connect(port);
  try {
    raw.write(bytes);
    const head = await raw.head();
    begun();
    const body = (await raw.rest()).toString('latin1');
    const chunked = /chunked/i.test(head.headers['transfer-encoding'] ?? '');
    return { head, body, whole: !raw.error && (!chunked || body.endsWith('0\r\n\r\n')), error: raw.error?.code };
  } finally {
    raw.destroy();
  }
}

/**
 * Has `body` ask a worker that reads nothing of the request, answers half, and is killed then. With bytes unread its
 * connection is reset: nothing else tells a cut from an end.
 */
async function besideDeaf(proxy, ask_) {
  const pid = Number((await request(proxy.port, { path: '/pid' })).text);
  assert.equal((await request(proxy.port, { path: '/deaf' })).text, 'deaf');
  return ask_(() => proxy.kill(pid));
}

for (const version of ['1.1', '1.0']) {
  test(`HTTP/${version}: an answer without a length whose worker resets the connection does not look whole`, options, t =>
    withProxy({ apps: { web: wire } }, proxy =>
      besideDeaf(proxy, async kill => {
        const { head, body, whole, error } = await looksWhole(proxy.port, `GET /any HTTP/${version}\r\nHost: x\r\n\r\n`, kill);
        t.diagnostic(`${head.status}, ${body.length} bytes, ${error ?? 'no error'}`);
        assert.equal(head.status, 200);
        assert.ok(!whole, 'the client saw a regular end');
      }),
    ),
  );

  test(`HTTP/${version}: an answer without a length that came to its end looks whole`, options, () =>
    withProxy({ apps: { web: wire } }, async proxy => {
      const { head, body, whole } = await looksWhole(proxy.port, `GET /cut HTTP/${version}\r\nHost: x\r\n\r\n`);
      assert.equal(head.status, 200);
      assert.match(body, /half of it/);
      assert.ok(whole);
    }),
  );
}

test('HTTP/2: an answer without a length whose worker resets the connection does not look whole', options, () =>
  withProxy(
    proxy => ({ listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }], apps: { web: wire } }),
    proxy =>
      besideDeaf(proxy, kill =>
        withSession(proxy.port, async session => {
          const asked = ask(session, { ':path': '/any' });
          await sleep(400);
          kill();
          const answer = await asked;
          assert.equal(answer.code, NGHTTP2_INTERNAL_ERROR);
        }),
      ),
  ),
);

const SECRET = 'c4f1b9e2';
const secrets = `token=${SECRET}&sid=${SECRET}`;

/** The requests that end badly, by the status of their answer. */
const failures = {
  'a GET': [502, ({ port }) => request(port, { path: `/crash?${secrets}` })],
  'a POST': [502, ({ port }) => request(port, { path: `/crash?${secrets}`, method: 'POST', body: 'x' })],
  'a GET that nobody answers': [504, ({ port }) => request(port, { path: `/hang?${secrets}` })],
  'an upgrade': [502, ({ port }) => exchange(port, upgradeHead(`/crash?${secrets}`))],
  'a GET over HTTP/2': [502, ({ port }) => withSession(port, session => ask(session, { ':path': `/crash?${secrets}` }))],
  'a GET over HTTP/2 that nobody answers': [
    504,
    ({ port }) => withSession(port, session => ask(session, { ':path': `/hang?${secrets}` }, { timeout: 5000 })),
  ],
  'a GET in absolute form': [
    502,
    ({ port }) => exchange(port, `GET http://user:${SECRET}@x/crash?${secrets} HTTP/1.1\r\nHost: x\r\n\r\n`),
  ],
};

const config = proxy => ({
  listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
  apps: { web: { script: './faults.js', instances: 3, response_timeout: '1s' } },
});

for (const [name, [status, send]] of Object.entries(failures)) {
  test(`${name} that ends with ${status}: the log has its path, not its query`, options, () =>
    withProxy(config, async proxy => {
      const from = performance.now();
      const answer = await send(proxy);
      // One that is refused for its form is not logged at all.
      if (answer.status === 400 && name.includes('absolute')) return;
      assert.equal(answer.status, status);
      // Whatever is said of it has been said when the proxy has ended.
      await proxy.line(/crash|hang|502|504/, { from, timeout: 1000 }).catch(() => {});
      const told = proxy.lines.filter(line => line.text.includes(SECRET)).map(line => line.text);
      assert.deepEqual(told, []);
    }),
  );
}
