// A request that crashes or blocks its worker: how many workers see it, and what its client and others get.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { connect } from './lib/sockets.mjs';
import { exchange, request } from './lib/http.mjs';
import { needsProxy, withProxy } from './lib/proxy.mjs';
import { ask, withSession } from './lib/streams.mjs';
import { steady } from './lib/steer.mjs';
import { upgradeHead } from './lib/upgrade.mjs';
import { range, sleep } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };

/** An app whose requests leave notes in a file; `web` are more of its keys. */
const noting =
  (web, more = {}) =>
  proxy => ({
    ...more,
    listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
    apps: { web: { script: './faults.js', env: { NOTES: proxy.file('notes', ''), SIO: '1' }, ...web } },
  });
const notes = (proxy, pattern) =>
  readFileSync(proxy.file('notes'), 'utf8')
    .split('\n')
    .filter(line => pattern.test(line));

async function tagOf(proxy) {
  return (await request(proxy.port, { path: '/tag' })).json;
}

/** How a request is sent that crashes its worker, and how many it may cost. */
const crashes = {
  'an upgrade': { most: 1, send: ({ port }) => exchange(port, upgradeHead('/crash?id=1')) },
  'an upgrade with a sid': {
    most: 1,
    send: async proxy =>
      exchange(proxy.port, upgradeHead(`/crash?id=1&EIO=4&transport=websocket&sid=AAAABBBBCCCC${(await tagOf(proxy)).tag}`)),
  },
  'a POST': { most: 1, send: ({ port }) => request(port, { path: '/crash?id=1', method: 'POST', body: 'x' }) },
  'a GET': { most: 2, send: ({ port }) => request(port, { path: '/crash?id=1' }) },
  'a POST over HTTP/2': {
    most: 1,
    send: ({ port }) => withSession(port, session => ask(session, { ':path': '/crash?id=1', ':method': 'POST' }, { body: 'x' })),
  },
  'a GET over HTTP/2': { most: 2, send: ({ port }) => withSession(port, session => ask(session, { ':path': '/crash?id=1' })) },
};

for (const [name, { most, send }] of Object.entries(crashes)) {
  test(`${name} that crashes its worker: 502, and at most ${most === 1 ? 'one worker dies' : 'two workers die'}`, options, () =>
    withProxy(noting({ instances: 4 }), async proxy => {
      await steady(proxy, 4);
      const answer = await send(proxy);
      const dead = notes(proxy, /crashed 1/);
      assert.equal(answer.status, 502);
      assert.ok(dead.length >= 1 && dead.length <= most, `${dead.length} workers were killed: ${dead}`);
      assert.equal((await request(proxy.port, { path: '/pid' })).status, 200, 'the others serve on');
    }),
  );
}

const hung = { instances: 3, heartbeat_timeout: '2s', min_ready: '0s' };

test('a request that computes for long is answered, once; meanwhile others are not sent to its worker', options, t =>
  withProxy(noting(hung), async proxy => {
    await steady(proxy, 3);
    const started = performance.now();
    const computing = ['GET', 'POST'].map(method =>
      request(proxy.port, { path: `/spin?id=${method}&ms=6500`, method, body: method === 'POST' ? 'x' : undefined }),
    );
    let over = false;
    const both = Promise.all(computing).finally(() => (over = true));
    both.catch(() => {});
    // Who is silent for 2 s counts as hung, 4 s if it has just come; from then on the third worker has everything.
    await sleep(4500);
    const slow = [];
    while (!over) {
      const asked = performance.now();
      assert.equal((await request(proxy.port, { path: '/pid' })).status, 200);
      if (performance.now() - asked > 1500) slow.push(Math.round(performance.now() - asked));
      await sleep(50);
    }
    const answers = await both;
    t.diagnostic(`answered after ${Math.round(performance.now() - started)} ms: ${answers.map(answer => answer.status)}`);
    assert.deepEqual(
      answers.map(answer => answer.status),
      [200, 200],
    );
    for (const id of ['GET', 'POST'])
      assert.equal(notes(proxy, new RegExp(`began ${id} `)).length, 1, `${id} was carried out once`);
    assert.deepEqual(slow, [], 'other requests go to the worker that answers');
  }),
);

test('a request that computes for longer than response_timeout gets 504 then, not before', options, () =>
  withProxy(noting({ ...hung, response_timeout: '6s' }), async proxy => {
    await steady(proxy, 3);
    const started = performance.now();
    const answers = await Promise.all(
      ['GET', 'POST'].map(method =>
        request(proxy.port, { path: `/spin?id=${method}&ms=8000`, method, body: method === 'POST' ? 'x' : undefined }).then(
          answer => ({ status: answer.status, ms: performance.now() - started }),
        ),
      ),
    );
    for (const { status, ms } of answers) {
      assert.equal(status, 504);
      assert.ok(ms > 5800 && ms < 8000, `after ${Math.round(ms)} ms`);
    }
    for (const id of ['GET', 'POST'])
      assert.equal(notes(proxy, new RegExp(`began ${id} `)).length, 1, `${id} went to one worker`);
  }),
);

test('a hung worker that is killed: an idempotent request is done again only when the first worker is dead', options, () =>
  withProxy(noting({ ...hung, unhealthy_timeout: '2s' }), async proxy => {
    await steady(proxy, 3);
    const [get, post] = await Promise.all(
      ['GET', 'POST'].map(method =>
        request(proxy.port, {
          path: `/spin?id=${method}&ms=8000`,
          method,
          body: method === 'POST' ? 'x' : undefined,
          timeout: 30_000,
        }),
      ),
    );
    // The second worker is killed like the first.
    assert.deepEqual([get.status, post.status], [502, 502]);
    const began = notes(proxy, /began GET /);
    assert.ok(began.length <= 2, `${began.length} times`);
    for (const line of began) assert.match(line, /beside $/, 'it was begun beside another that lived');
    assert.equal(notes(proxy, /began POST /).length, 1);
  }),
);

test('a hung worker: a session that is bound to it waits, and goes on', options, () =>
  withProxy(noting(hung), async proxy => {
    await steady(proxy, 3);
    const clients = await Promise.all(range(6).map(() => connect(4, proxy.url, { transports: ['polling'] })));
    const lost = [];
    for (const { socket } of clients)
      socket.on('disconnect', (why, details) =>
        lost.push(`${why} ${details?.context?.status} ${details?.context?.responseText}`),
      );
    try {
      const from = performance.now();
      const computing = request(proxy.port, { path: '/spin?id=GET&ms=7000' });
      await proxy.line(/stands still/, { from, timeout: 6500 });
      const echoes = await Promise.all(clients.map(client => client.echo('x', 10_000).catch(error => error.message)));
      assert.deepEqual(lost, [], `sessions ended; ${echoes}`);
      assert.equal((await computing).status, 200);
      assert.deepEqual(
        clients.flatMap(client => client.trouble),
        [],
      );
    } finally {
      for (const client of clients) client.close();
    }
  }),
);
