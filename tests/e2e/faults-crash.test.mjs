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
import { range, sleep, until } from './lib/wait.mjs';

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

/** Ends a moment after the first connection: that of the proxy, which sees that it is ready. */
const BRIEF = `require('http').createServer(() => {}).on('connection', () => setTimeout(() => process.exit(3), 50)).listen()`;

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

test('an app whose workers are crashed again and again answers all others: somebody is always ready, or starting', options, t =>
  withProxy(noting({ instances: 4 }), async proxy => {
    await steady(proxy, 4);
    let over = false;
    const answers = [];
    const others = range(4).map(async () => {
      while (!over) {
        const asked = performance.now();
        const { status, text } = await request(proxy.port, { path: '/pid', timeout: 20_000 });
        answers.push({ status, text, took: performance.now() - asked });
        await sleep(10);
      }
    });
    // More often than it takes for each of the four slots to be in a crash loop.
    const crashed = () => notes(proxy, /crashed/).length;
    const booms = [];
    const end = performance.now() + 25_000;
    for (let n = 0; crashed() < 24 && performance.now() < end; n++) {
      booms.push(request(proxy.port, { path: `/crash?id=${n}`, timeout: 30_000 }));
      await sleep(400);
    }
    await Promise.all(booms);
    const crashes = crashed();
    const after = answers.length + 4;
    await until(() => answers.length > after + 100, { timeout: 20_000, what: 'answers after it' });
    over = true;
    await Promise.all(others);
    const longest = Math.round(Math.max(...answers.map(answer => answer.took)));
    t.diagnostic(`${crashes} crashes, ${answers.length} answers to others, the longest after ${longest} ms`);
    assert.ok(crashes >= 20, `${crashes} crashes`);
    const count = status => answers.filter(answer => answer.status === status).length;
    // Some lie in a worker that ends, and in the next one too, or are offered to four that have just ended.
    assert.ok(count(200) > 0.8 * answers.length, `${count(200)} of ${answers.length} are served`);
    assert.deepEqual(answers.slice(after).filter(({ status }) => status !== 200), []);
    assert.ok(longest < 9000, `the longest wait is ${longest} ms`);
  }),
);

test('an app that ends as soon as it is ready is not started without a pause', options, () =>
  withProxy(
    { apps: { web: { command: [process.execPath, '-e', BRIEF], instances: 2 } } },
    { ready: false },
    async proxy => {
      const ends = () => proxy.lines.filter(({ text }) => /exited with code 3, ready for/.test(text));
      // Failed slots: from here on only one is started at a time, because nobody else is there.
      await proxy.line(/ALARM crash-loop/, { timeout: 30_000 });
      const [from, since] = [ends().length, performance.now()];
      await until(() => ends().length >= from + 6, { timeout: 30_000, what: 'more ends, although its slots have failed' });
      const each = (performance.now() - since) / 6;
      assert.ok(each > 400, `it is started every ${Math.round(each)} ms`);
    },
  ),
);
