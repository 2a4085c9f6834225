// Slow clients: they hold no worker, and not for as long as they like.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Raw, request } from './lib/http.mjs';
import { needsProxy, withProxy } from './lib/proxy.mjs';
import { ask, withSession } from './lib/streams.mjs';
import { range, sleep, until } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };
const LIMIT = 4;
const config = (limits, web) => proxy => ({
  listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
  limits,
  apps: { web: { script: './faults.js', ...web } },
});

/** Writes a byte now and then until it is ended. */
function drip(raw, bytes, every) {
  raw.socket.on('error', () => {});
  const timer = setInterval(() => (raw.ended ? clearInterval(timer) : raw.write(bytes)), every);
  return () => {
    clearInterval(timer);
    raw.destroy();
  };
}

const slow = {
  'a short body that comes byte by byte': async port => {
    const raw = await Raw.connect(port);
    raw.write('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx');
    return drip(raw, 'x', 500);
  },
  'a long body of which nothing comes': async port => {
    const raw = await Raw.connect(port);
    raw.write('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n');
    return drip(raw, '', 60_000);
  },
  'a chunked body of which nothing comes': async port => {
    const raw = await Raw.connect(port);
    raw.write('POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n');
    return drip(raw, '', 60_000);
  },
};

for (const [name, begin] of Object.entries(slow)) {
  test(`${name} takes no worker: others are served`, options, () =>
    withProxy(config({}, { max_concurrency: LIMIT, queue: { max: 10, timeout: '1s' } }), async proxy => {
      const ends = await Promise.all(range(2 * LIMIT).map(() => begin(proxy.port)));
      try {
        // They have all been looked at before those that come now.
        await sleep(300);
        const answers = await Promise.all(range(LIMIT).map(() => request(proxy.port, { path: '/pid' })));
        assert.deepEqual(
          answers.map(answer => answer.status),
          Array(LIMIT).fill(200),
        );
      } finally {
        for (const end of ends) end();
      }
    }),
  );
}

test('HTTP/2: short bodies that come byte by byte take no worker: others are served', options, () =>
  withProxy(config({}, { max_concurrency: LIMIT, queue: { max: 10, timeout: '1s' } }), proxy =>
    withSession(proxy.port, async session => {
      const streams = range(2 * LIMIT).map(() => {
        const stream = session.request({ ':path': '/upload', ':method': 'POST', 'content-length': 1000 });
        stream.on('error', () => {});
        stream.write('x');
        return stream;
      });
      await sleep(300);
      const answers = await Promise.all(range(LIMIT).map(() => request(proxy.port, { path: '/pid' })));
      assert.deepEqual(
        answers.map(answer => answer.status),
        Array(LIMIT).fill(200),
      );
      for (const stream of streams) stream.close();
    }),
  ),
);

test('slow bodies come to their end all the same', options, () =>
  withProxy(config({}, {}), async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.write('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n');
    for (const byte of 'abcdefghij') {
      await sleep(30);
      raw.write(byte);
    }
    const answer = await raw.response();
    assert.deepEqual([answer.status, JSON.parse(answer.body).bytes], [200, 10]);
    raw.destroy();
  }),
);

/** Waits for the other side to end a connection, in whatever way. */
const ended = (raw, limit) => raw.need((_, over) => over || undefined, 'the end of the connection', limit);

/** Sends a head, then a piece three times a second as long as `body` runs. */
async function dripping(port, head, piece, body) {
  const raw = await Raw.connect(port);
  raw.write(head + piece);
  const end = drip(raw, piece, 300);
  try {
    await body(raw);
  } finally {
    end();
  }
}

// Default rate: 240 bytes a second; of an upload over 5 s, of a download over body_timeout. Far from the border, and all at once, as each waits for a window.
test('bodies below the least rate are cut off, in either direction, on HTTP/1 and HTTP/2', options, t =>
  withProxy(config({ body_timeout: '5s' }, { instances: 2 }), async proxy => {
    const WINDOWS = 14_000;
    const post = (path, framing) => `POST ${path} HTTP/1.1\r\nHost: x\r\n${framing}\r\n\r\n`;
    const cases = {
      'an upload with a length': () =>
        dripping(proxy.port, post('/upload', 'Content-Length: 1000000'), 'x', async raw => {
          const answer = await raw.response({ timeout: WINDOWS });
          assert.equal(answer.status, 408);
          assert.match(answer.headers.connection, /close/i);
          await raw.closed();
        }),
      'an upload in chunks': () =>
        dripping(proxy.port, post('/upload', 'Transfer-Encoding: chunked'), '1\r\nx\r\n', async raw => {
          assert.equal((await raw.response({ timeout: WINDOWS })).status, 408);
        }),
      'an upload behind an answer': () =>
        dripping(proxy.port, post('/echo', 'Content-Length: 1000000'), 'x', async raw => {
          await raw.head();
          await ended(raw, WINDOWS);
        }),
      'an upload over HTTP/2': () =>
        withSession(proxy.port, async session => {
          let timer;
          try {
            const send = stream => (timer = setInterval(() => stream.closed || stream.write('x'), 300));
            const answer = await ask(
              session,
              { ':path': '/upload', ':method': 'POST', 'content-length': 1_000_000 },
              { send, timeout: WINDOWS },
            );
            assert.equal(answer.status, 408);
          } finally {
            clearInterval(timer);
          }
        }),
      'a download that is not read': () =>
        dripping(proxy.port, 'GET /big?mib=64 HTTP/1.1\r\nHost: x\r\n\r\n', '', async raw => {
          let got = 0;
          let last = '';
          raw.socket.removeAllListeners('data');
          raw.socket.on('data', bytes => {
            got += bytes.length;
            last = (last + bytes.toString('latin1')).slice(-7);
          });
          raw.socket.pause();
          await sleep(WINDOWS);
          raw.socket.resume();
          await ended(raw, 5000);
          assert.ok(got < 64 * 2 ** 20, `${got} bytes came`);
          assert.notEqual(last, '\r\n0\r\n\r\n', 'what was cut looks cut');
        }),
      'a download over HTTP/2 that is not read': () =>
        withSession(proxy.port, async session => {
          const stream = session.request({ ':path': '/big?mib=64' });
          stream.on('error', () => {});
          await until(() => stream.closed || session.closed || session.destroyed, {
            timeout: WINDOWS,
            what: 'the end of the stream',
          });
        }),
    };
    const failed = [];
    await Promise.all(
      Object.entries(cases).map(async ([name, run]) => {
        const from = performance.now();
        await run().catch(error => failed.push(`${name}: ${error.message.slice(0, 200)}`));
        t.diagnostic(`${name}: ${Math.round(performance.now() - from)} ms`);
      }),
    );
    assert.deepEqual(failed, []);
    assert.equal((await request(proxy.port, { path: '/pid' })).status, 200);
  }),
);
