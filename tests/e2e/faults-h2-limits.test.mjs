// Limits hold over HTTP/2 as they do over HTTP/1.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import http2 from 'node:http2';
import { after, before, describe, test } from 'node:test';
import { Raw, request } from './lib/http.mjs';
import { freePort, needsProxy, startProxy, withProxy } from './lib/proxy.mjs';
import { status, steady } from './lib/steer.mjs';
import { ask, withSession } from './lib/streams.mjs';
import { pooled, range, sleep, until } from './lib/wait.mjs';

const timeout = 60_000;
const config =
  (limits, web = {}, more = {}) =>
  proxy => ({
    ...more,
    listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
    limits,
    apps: { web: { script: './faults.js', env: { NOTES: proxy.file('notes', '') }, ...web } },
  });

describe('limits over HTTP/2', { ...needsProxy }, () => {
  let proxy;
  before(async () => {
    proxy = await startProxy(
      config(
        { body_size: '100kib', body_timeout: '1s', head_size: '8kib', head_timeout: '1s', keepalive_timeout: '2s' },
        { response_timeout: '2s' },
      ),
    );
  });
  after(() => proxy?.stop());
  const check = (name, body) => test(name, { timeout }, () => withSession(proxy.port, session => body(session)));
  const post = (headers = {}) => ({ ':path': '/upload', ':method': 'POST', ...headers });

  check('body_size: a longer content-length is refused with 413', async session => {
    const answer = await ask(session, post({ 'content-length': 300_000 }), {
      send: stream => stream.write(Buffer.alloc(1000)),
      timeout: 5000,
    });
    assert.equal(answer.status, 413);
  });

  check('body_size: a body without a length is refused with 413 when it is longer', async session => {
    const answer = await ask(session, post(), { body: Buffer.alloc(300_000), timeout: 5000 });
    assert.equal(answer.status, 413);
    assert.equal((await ask(session)).status, 200, 'the connection goes on');
  });

  check('head_size: a longer head is refused with 431', async session => {
    const answer = await ask(session, Object.fromEntries(range(9).map(n => [`x-long-${n}`, 'x'.repeat(1000)])), {
      timeout: 5000,
    });
    assert.equal(answer.status, 431);
    assert.equal((await ask(session)).status, 200, 'the connection goes on');
  });

  check('head_size: a longer path is refused with 414 or 431', async session => {
    const answer = await ask(session, { ':path': `/pid?${'x'.repeat(9000)}` }, { timeout: 5000 });
    assert.ok([414, 431].includes(answer.status), `${answer.status}`);
  });

  check('more than 100 fields are refused with 431', async session => {
    const answer = await ask(session, Object.fromEntries(range(120).map(n => [`x-${n}`, '1'])), { timeout: 5000 });
    assert.equal(answer.status, 431);
  });

  check('body_timeout: an upload that stops is refused with 408', async session => {
    const answer = await ask(session, post(), { send: stream => stream.write('begun'), timeout: 6000 });
    assert.equal(answer.status, 408);
    assert.equal((await ask(session)).status, 200, 'the connection goes on');
  });

  check('response_timeout: no answer is 504', async session => {
    const answer = await ask(session, { ':path': '/hang' }, { timeout: 6000 });
    assert.equal(answer.status, 504);
    assert.equal((await ask(session)).status, 200, 'the connection goes on');
  });

  check('a greeting that is never finished ends after head_timeout', async () => {
    for (const begun of [
      'PRI * HTTP/2.0\r\n',
      'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
      'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x10\x01\x04\0\0\0\x01',
    ]) {
      const raw = await Raw.connect(proxy.port);
      raw.socket.on('error', () => {});
      raw.write(Buffer.from(begun, 'latin1'));
      await raw.closed(6000).finally(() => raw.destroy());
    }
  });
});

test('HTTP/2: a computing worker gets no new requests, and what it has read is done once', { timeout, ...needsProxy }, () =>
  withProxy(config({}, { instances: 2, heartbeat_timeout: '2s', min_ready: '0s' }), async proxy =>
    withSession(proxy.port, async session => {
      const computing = ask(session, { ':path': '/spin?id=A&ms=6500' }, { timeout: 20_000 });
      await sleep(4500);
      const answers = await Promise.all(
        range(10).map(async () => {
          const asked = performance.now();
          const answer = await ask(session);
          return `${answer.status} ${performance.now() - asked < 1500 ? 'soon' : 'late'}`;
        }),
      );
      assert.deepEqual([...new Set(answers)], ['200 soon']);
      assert.equal((await computing).status, 200);
      const began = readFileSync(proxy.file('notes'), 'utf8')
        .split('\n')
        .filter(line => /began A/.test(line));
      assert.equal(began.length, 1);
    }),
  ),
);

/** What the metrics say of these families, summed over their labels that match. */
const summed = (text, family, labels = /./) =>
  text
    .split('\n')
    .filter(line => line.replace(/^pingora_unix_proxy_/, '').startsWith(`${family}_total`) && labels.test(line))
    .reduce((sum, line) => sum + Number(line.split(' ')[1]), 0);

test('HTTP/2: requests, failures and retries are counted as over HTTP/1', { timeout, ...needsProxy }, async t => {
  const metrics = await freePort();
  const more = { metrics: { address: `127.0.0.1:${metrics}` } };
  await withProxy(config({}, { instances: 3 }, more), async proxy => {
    const counted = async () => {
      const { text } = await request(metrics, { path: '/metrics' });
      return {
        requests: summed(text, 'requests', /5\d\d|5xx/),
        failures: summed(text, 'request_failures'),
        retries: summed(text, 'request_retries'),
      };
    };
    const over = {
      'HTTP/1': path_ => request(proxy.port, { path: path_, headers: { host: 'x' } }),
      'HTTP/2': path_ => withSession(proxy.port, session => ask(session, { ':path': path_ }, { timeout: 5000 })),
    };
    const grown = {};
    for (const [name, send] of Object.entries(over)) {
      await steady(proxy, 3, { timeout: 30_000 });
      const before = await counted();
      const statuses = [(await send('/crash?id=1')).status, (await send('/pid')).status];
      const after = await counted();
      grown[name] = { statuses, ...Object.fromEntries(Object.keys(after).map(key => [key, after[key] - before[key]])) };
    }
    t.diagnostic(JSON.stringify(grown));
    assert.deepEqual(grown['HTTP/1'].statuses, [502, 200]);
    // One more retry may be owed to a connection that a dead worker left behind.
    for (const all of Object.values(grown)) all.retries = Math.min(all.retries, 1);
    assert.equal(grown['HTTP/1'].retries, 1);
    assert.deepEqual(grown['HTTP/2'], grown['HTTP/1']);
  });
});

test('HTTP/2: 15 connections with 100 streams each leave the proxy descriptors to answer others', { timeout, ...needsProxy }, t =>
  withProxy(config({ connections: 100 }, { instances: 2 }), { nofile: 1024 }, async proxy => {
    const sessions = range(15).map(() => http2.connect(proxy.url));
    try {
      for (const session of sessions) session.on('error', () => {});
      const open = sessions.flatMap(session =>
        range(100).map(() => {
          const stream = session.request({ ':path': '/hang' });
          stream.on('error', () => {});
          stream.on('response', () => {});
          return stream;
        }),
      );
      // They are all there, or have been refused.
      await sleep(1500);
      const asked = performance.now();
      const found = await status(proxy);
      t.diagnostic(
        `status after ${Math.round(performance.now() - asked)} ms, ${open.filter(stream => stream.closed).length} of ${open.length} streams refused`,
      );
      assert.ok(found.apps.length, 'the status is answered');
      // One more client is served or refused, but does not hang.
      const outcome = await request(proxy.port, { path: '/pid', timeout: 10_000 }).then(
        answer => answer.status,
        error => error.code ?? error.message,
      );
      assert.ok([200, 503, 'ECONNRESET'].includes(outcome), `${outcome}`);
    } finally {
      for (const session of sessions) session.destroy();
    }
    await until(async () => (await request(proxy.port, { path: '/pid', timeout: 5000 })).status === 200, {
      what: 'service afterwards',
    });
  }),
);

const MIB = 2 ** 20;
const resident = pid => Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) * 1024;

/** Streams whose answers nobody takes; how much more memory the proxy has then, and after their end. */
async function unread(proxy, settings, streams) {
  const before = resident(proxy.pid);
  const sessions = range(2).map(() => http2.connect(proxy.url, { settings }));
  try {
    await pooled(sessions, 2, async session => {
      session.on('error', () => {});
      await Promise.all(
        range(streams / 2).map(
          () =>
            new Promise((resolve, reject) => {
              const stream = session.request({ ':path': '/big?mib=2' });
              stream.on('error', reject);
              stream.on('response', () => {
                stream.pause();
                resolve();
              });
            }),
        ),
      );
    });
    // What is to be taken in has been when it grows no more.
    let last = 0;
    await until(
      () => {
        const now = resident(proxy.pid);
        const rests = now - last < MIB / 4;
        last = now;
        return rests;
      },
      { every: 500, what: 'its memory to rest' },
    );
    return { grown: (last - before) / MIB };
  } finally {
    for (const session of sessions) session.destroy();
  }
}

test('HTTP/2: 200 streams that nobody reads hold little memory', { timeout, ...needsProxy }, t =>
  withProxy(config({}, {}), async proxy => {
    const { grown } = await unread(proxy, { initialWindowSize: 0 }, 200);
    t.diagnostic(`${grown.toFixed(1)} MiB more`);
    // 64 KiB a stream, and as much again for what the allocator keeps.
    assert.ok(grown < 30, `${grown.toFixed(1)} MiB for 200 streams`);
  }),
);
