// How a client's connection goes on, and how it ends: said beforehand, and without the loss of what is on its way.

import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { after, before, describe, test } from 'node:test';
import { Raw, request } from './lib/http.mjs';
import { count } from './lib/load.mjs';
import { needsProxy, startProxy, withProxy } from './lib/proxy.mjs';
import { range, sleep, until } from './lib/wait.mjs';

const timeout = 30_000;
const GET = 'GET /pid HTTP/1.1\r\nHost: x\r\n\r\n';
const closes = ({ headers }) => /\bclose\b/i.test(headers.connection ?? '');

function curl() {
  try {
    return execFileSync('curl', ['--version'], { encoding: 'utf8' }) && undefined;
  } catch {
    return 'curl is not installed';
  }
}

describe("an answer before the request's body is complete", { ...needsProxy }, () => {
  let proxy;
  before(async () => {
    proxy = await startProxy({ apps: { web: { script: './faults.js' } } });
  });
  after(() => proxy?.stop());

  const bodies = {
    'a length': { head: 'Content-Length: 200000', first: 'x'.repeat(1000), rest: 'x'.repeat(199_000) },
    chunks: {
      head: 'Transfer-Encoding: chunked',
      first: `3e8\r\n${'x'.repeat(1000)}\r\n`,
      rest: `7d0\r\n${'y'.repeat(2000)}\r\n0\r\n\r\n`,
    },
    'a length far beyond what anybody would read': { head: 'Content-Length: 5000000000', first: 'x'.repeat(1000) },
  };
  for (const [name, { head, first, rest }] of Object.entries(bodies)) {
    test(`${name}: it says Connection: close, or the connection serves the next request`, { timeout }, async () => {
      const raw = await Raw.connect(proxy.port);
      raw.socket.on('error', () => {});
      try {
        raw.write(`POST /early?code=413 HTTP/1.1\r\nHost: x\r\n${head}\r\n\r\n${first}`);
        const answer = await raw.response();
        assert.deepEqual([answer.status, answer.body.toString()], [413, 'early']);
        if (closes(answer)) return await raw.closed();
        assert.ok(rest, 'a body without an end can only end with the connection');
        raw.write(rest + GET);
        const next = await raw.response();
        assert.equal(next.status, 200);
      } finally {
        raw.destroy();
      }
    });
  }

  test(
    'Expect: 100-continue that is not met: it says Connection: close, or the connection serves the next request',
    { timeout },
    async () => {
      const raw = await Raw.connect(proxy.port);
      raw.socket.on('error', () => {});
      try {
        raw.write('POST /early?code=417 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 20000\r\n\r\n');
        const answer = await raw.response();
        assert.equal(answer.status, 417);
        if (closes(answer)) return await raw.closed();
        raw.write('x'.repeat(20_000) + GET);
        assert.equal((await raw.response()).status, 200);
      } finally {
        raw.destroy();
      }
    },
  );

  test('curl with Expect and a 417 sends the body again and gets its answer', { timeout, skip: curl() }, async () => {
    const said = await new Promise(resolve => {
      execFile(
        'curl',
        [
          '-sS',
          '-m',
          '15',
          '-o',
          '/dev/null',
          '-w',
          '%{http_code} %{num_connects}',
          '-H',
          'Expect: 100-continue',
          '--data-binary',
          `@${new URL(import.meta.url).pathname}`,
          `${proxy.url}/early?code=417`,
        ],
        (error, out, err) => resolve({ code: error?.code ?? 0, out, err }),
      );
    });
    // Its second try is without Expect, and is answered with 417 like everything there.
    assert.deepEqual([said.code, said.out.split(' ')[0]], [0, '417'], JSON.stringify(said));
    assert.ok(Number(said.out.split(' ')[1]) <= 2, `${said.out} connections`);
  });
});

test('answers say how long the connection may be idle, less than it really may', { timeout, ...needsProxy }, () =>
  withProxy({ limits: { keepalive_timeout: '4s' }, apps: { web: { script: './faults.js' } } }, async proxy => {
    const raw = await Raw.connect(proxy.port);
    try {
      raw.write(GET);
      const { headers } = await raw.response();
      const [, hint] = /(?:^|[ ,])timeout=(\d+)/.exec(headers['keep-alive'] ?? '') ?? [];
      assert.ok(hint, `Keep-Alive: ${headers['keep-alive']}`);
      assert.ok(hint >= 1 && hint < 4, `timeout=${hint} with a limit of 4 s`);
      // A client that keeps to it is served.
      await sleep(hint * 1000);
      raw.write(GET);
      assert.equal((await raw.response()).status, 200);
    } finally {
      raw.destroy();
    }
  }),
);

test('a client that keeps to what answers say never meets the end of its connection', { timeout, ...needsProxy }, t =>
  withProxy({ limits: { keepalive_timeout: '3s' }, apps: { web: { script: './faults.js' } } }, async proxy => {
    // Paced around the limit: whoever does not know of it meets the proxy as it closes.
    const outcomes = await Promise.all(
      range(100).map(async lane => {
        // Without a time-out of its own it would not look at the hint.
        const agent = new http.Agent({ keepAlive: true, maxSockets: 1, timeout: 20_000 });
        const ask = () =>
          request(proxy.port, { agent, path: '/pid' }).then(
            answer => answer.status,
            error => error.code ?? error.message,
          );
        const found = [];
        for (let round = 0; round < 3; round++) {
          found.push(await ask());
          await sleep(2995 + (lane % 10));
        }
        found.push(await ask());
        agent.destroy();
        return found;
      }),
    );
    t.diagnostic(JSON.stringify(count(outcomes.flat())));
    assert.deepEqual(count(outcomes.flat()), { 200: 400 });
  }),
);

test('an answer after which the connection ends makes no such promise', { timeout, ...needsProxy }, () =>
  withProxy({ limits: { keepalive_timeout: '4s' }, apps: { web: { script: './faults.js' } } }, async proxy => {
    for (const head of ['GET /pid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n', 'GET /pid HTTP/1.0\r\n\r\n']) {
      const raw = await Raw.connect(proxy.port);
      raw.write(head);
      const { headers } = await raw.response();
      assert.equal(headers['keep-alive'], undefined);
      await raw.closed();
      raw.destroy();
    }
  }),
);

test('a request that crosses the end of its idle connection is not answered with a reset', { timeout, ...needsProxy }, t =>
  withProxy({ limits: { keepalive_timeout: '500ms' }, apps: { web: { script: './faults.js' } } }, async proxy => {
    const outcomes = await Promise.all(
      range(30).map(async () => {
        const raw = await Raw.connect(proxy.port, { allowHalfOpen: true });
        try {
          raw.write(GET);
          await raw.response();
          await raw.closed();
          // On its way when the end came. A reset is seen by what is written next.
          raw.write(GET);
          await sleep(50);
          raw.write(GET);
          await sleep(100);
          return raw.error?.code ?? 'an end';
        } finally {
          raw.destroy();
        }
      }),
    );
    t.diagnostic([...new Set(outcomes)].join());
    assert.deepEqual([...new Set(outcomes)], ['an end']);
  }),
);

/** What /proc/net/tcp says of timers of the proxy's side: `02` is keepalive's. */
const timers = (port, clients) =>
  readFileSync('/proc/net/tcp', 'latin1')
    .split('\n')
    .map(line => line.trim().split(/\s+/))
    .filter(
      ([, local, remote]) => parseInt(local?.split(':')[1], 16) === port && clients.includes(parseInt(remote.split(':')[1], 16)),
    )
    .map(fields => fields[5].split(':')[0]);

test("a client's connection has TCP keepalive", { timeout, ...needsProxy }, () =>
  withProxy({ apps: { web: { script: './faults.js' } } }, async proxy => {
    const raw = await Raw.connect(proxy.port);
    try {
      raw.write(GET);
      await raw.response();
      const { localPort } = raw.socket;
      await until(() => timers(proxy.port, [localPort])[0] !== '01', { what: 'nothing under way' });
      assert.deepEqual(timers(proxy.port, [localPort]), ['02']);
    } finally {
      raw.destroy();
    }
  }),
);
