// Workers that take nothing, and workers that never come to their answer: every wait for them ends.

import assert from 'node:assert/strict';
import path from 'node:path';
import test from 'node:test';
import { Raw } from './lib/http.mjs';
import { needsProxy, suiteDir, withProxy } from './lib/proxy.mjs';
import { ask, withSession } from './lib/streams.mjs';

const options = { timeout: 60_000, ...needsProxy };
const BODY = 4_000_000;
const web = {
  command: ['node', path.join(suiteDir, 'apps/unread.js'), '{socket}'],
  preload: false,
  response_timeout: '1s',
  drain_timeout: '1s',
};
const config = http => proxy => ({
  server: { http },
  listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
  apps: { web },
});

async function statusOf(proxy, request) {
  const raw = await Raw.connect(proxy.port);
  raw.socket.on('error', () => {});
  try {
    raw.write(request);
    for (;;) {
      const { status } = await raw.response();
      if (status >= 200) return status;
    }
  } finally {
    raw.destroy();
  }
}

for (const http of ['own', 'pingora']) {
  test(`a worker that takes none of a long body ends in a 504 (http: ${http})`, options, () =>
    withProxy(config(http), async proxy => {
      const head = `POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: ${BODY}\r\n\r\n`;
      assert.equal(await statusOf(proxy, head + 'x'.repeat(BODY)), 504);
    }),
  );

  test(`a worker that only informs ends in a 502 (http: ${http})`, options, () =>
    withProxy(config(http), async proxy => {
      assert.equal(await statusOf(proxy, 'GET /inform HTTP/1.1\r\nHost: x\r\n\r\n'), 502);
      await withSession(proxy.port, async session => {
        assert.equal((await ask(session, { ':path': '/inform' })).status, 502);
      });
    }),
  );
}
