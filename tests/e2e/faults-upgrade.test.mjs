// Upgrades that are no plain WebSocket handshake: nothing may become a raw tunnel that was not asked for as a WebSocket.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { Raw, request } from './lib/http.mjs';
import { needsProxy, withProxy } from './lib/proxy.mjs';
import { upgradeHead } from './lib/upgrade.mjs';

const options = { timeout: 60_000, ...needsProxy };
const config = proxy => ({
  apps: { web: { script: './faults.js', response_timeout: '5s', env: { NOTES: proxy.file('notes', '') } } },
});
const inside = 'GET /fields HTTP/1.1\r\nHost: x\r\nX-Real-IP: 6.6.6.6\r\n\r\n';

async function withUpgrade(proxy, head, body) {
  const raw = await Raw.connect(proxy.port);
  try {
    raw.write(head);
    return await body(raw);
  } finally {
    raw.destroy();
  }
}

test('a 103 and a 101 in one packet: the hints and the tunnel both come', options, () =>
  withProxy(config, proxy =>
    withUpgrade(proxy, upgradeHead('/hints'), async raw => {
      let head = await raw.head(4000);
      // Whether the hints go on to the client is the proxy's choice.
      if (head.status === 103) head = await raw.head(4000);
      assert.equal(head.status, 101);
      raw.write('through');
      assert.equal((await raw.take(7)).toString(), 'through');
    }),
  ),
);

for (const to of ['h2c', 'websocket, h2c', 'h2c, websocket', 'TLS/1.0']) {
  test(`a worker that answers a WebSocket upgrade by 101 ${to}: 502, no tunnel`, options, () =>
    withProxy(config, proxy =>
      withUpgrade(proxy, upgradeHead(`/echo?to=${encodeURIComponent(to)}`), async raw => {
        assert.equal((await raw.head()).status, 502);
        raw.socket.on('error', () => {});
        raw.write('through');
        assert.ok(!(await raw.rest()).includes('through'), 'nothing goes to the worker any more');
      }),
    ),
  );
}

for (const offered of ['h2c, websocket', 'websocket, h2c', 'websocket/14, h2c', 'h2c', 'TLS/1.0']) {
  const head = upgradeHead('/echo').replace('Upgrade: websocket', `Upgrade: ${offered}`);
  test(`a client that offers ${offered} gets a WebSocket or an answer, never a tunnel of another kind`, options, () =>
    withProxy(config, proxy =>
      withUpgrade(proxy, head, async raw => {
        raw.socket.on('error', () => {});
        const answer = await raw.head();
        const seen = readFileSync(proxy.file('notes'), 'utf8');
        assert.ok(!/upgraded .*(h2c|TLS)/i.test(seen), `the worker was asked for ${seen.trim()}`);
        if (answer.status === 101) assert.equal(answer.headers.upgrade.toLowerCase(), 'websocket');
        else assert.ok(answer.status < 500, `${answer.status}`);
      }),
    ),
  );
}

test("what follows a refused upgrade is a request of its own, with the proxy's word on the client", options, () =>
  withProxy(config, async proxy => {
    const head = upgradeHead('/fields').replace('Upgrade: websocket', 'Upgrade: h2c');
    await withUpgrade(proxy, head + inside, async raw => {
      raw.socket.on('error', () => {});
      const first = await raw.response();
      if (/close/i.test(first.headers.connection ?? '')) return;
      const second = await raw.response();
      assert.equal(JSON.parse(second.body).headers['x-real-ip'], '127.0.0.1');
    });
    assert.equal((await request(proxy.port, { path: '/pid' })).status, 200);
  }),
);
