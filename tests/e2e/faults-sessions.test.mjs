// A sid is a claim of the client: it buys no way past max_concurrency, and a page cannot give it to another worker.

import assert from 'node:assert/strict';
import test from 'node:test';
import { connect } from './lib/sockets.mjs';
import { count } from './lib/load.mjs';
import { exchange, request } from './lib/http.mjs';
import { needsProxy, withProxy } from './lib/proxy.mjs';
import { Polling } from './lib/engineio.mjs';
import { ask, withSession } from './lib/streams.mjs';
import { steady, workers } from './lib/steer.mjs';
import { upgradeHead } from './lib/upgrade.mjs';
import { range, until } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };
const CLAIMS = 30;
const LIMIT = 2;
const claim = tag => `EIO=4&transport=polling&sid=AAAABBBBCCCCDDDD${tag}`;

/** The most requests that any worker had at once, of those to `/page`. */
async function most(proxy, workers) {
  const seen = new Map();
  await until(
    async () => {
      for (const answer of await Promise.all(range(4 * workers).map(() => request(proxy.port, { path: '/most' })))) {
        seen.set(answer.json.pid, Math.max(answer.json.most, seen.get(answer.json.pid) ?? 0));
      }
      return seen.size >= workers;
    },
    { what: () => `${workers} workers to say, so far ${seen.size}` },
  );
  return Math.max(...seen.values());
}

const claims = {
  'GET requests': ({ port }, tag) => request(port, { path: `/page?ms=150&${claim(tag)}` }),
  'streams of HTTP/2': ({ port }, tag) => withSession(port, session => ask(session, { ':path': `/page?ms=150&${claim(tag)}` })),
  'POST requests': ({ port }, tag) => request(port, { path: `/page?ms=150&${claim(tag)}`, method: 'POST', body: 'x' }),
};

for (const [name, send] of Object.entries(claims)) {
  for (const sio of ['', '1']) {
    test(
      `a made-up sid does not pass max_concurrency: ${name}, ${sio ? 'an app with Socket.IO' : 'an app without sessions'}`,
      options,
      t =>
        withProxy(
          proxy => ({
            listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
            apps: { web: { script: './faults.js', instances: 2, max_concurrency: LIMIT, env: { SIO: sio } } },
          }),
          async proxy => {
            await steady(proxy, 2);
            const { tag } = (await request(proxy.port, { path: '/tag' })).json;
            const answers = await Promise.all(range(CLAIMS).map(() => send(proxy, tag)));
            const highest = await most(proxy, 2);
            t.diagnostic(`${highest} at once, ${JSON.stringify(count(answers.map(answer => answer.status)))}`);
            assert.ok(highest <= LIMIT, `${highest} at once on one worker, the limit is ${LIMIT}`);
            assert.ok(answers.every(({ status }) => status === 200 || status === 503));
          },
        ),
    );
  }
}

for (const http of ['own', 'pingora']) {
  test(`a client that polls stays, though its pings come further apart than response_timeout: ${http}`, options, () =>
    withProxy(
      proxy => ({
        server: { http },
        apps: { web: { script: './rules.js', response_timeout: '1s', env: { ENGINE: '1', PING: '3000', NOTES: proxy.file('notes') } } },
      }),
      async proxy => {
        await steady(proxy, 1);
        const client = await connect(4, proxy.url, { transports: ['polling'] });
        try {
          const pings = [];
          client.engine.on('ping', () => pings.push(client.transport));
          await until(() => pings.length === 2 || client.disconnects.length > 0, { timeout: 20_000, what: 'two pings' });
          assert.deepEqual([pings, client.trouble], [['polling', 'polling'], []]);
          assert.equal((await request(proxy.port, { path: '/hang?name=x' })).status, 504);
        } finally {
          client.close();
        }
      },
    ));
}

test('a made-up sid does not pass the queue: beyond it requests are refused', options, t =>
  withProxy(
    { apps: { web: { script: './faults.js', instances: 2, max_concurrency: 1, queue: { max: 4, timeout: '5s' } } } },
    async proxy => {
      await steady(proxy, 2);
      const { tag } = (await request(proxy.port, { path: '/tag' })).json;
      const answers = await Promise.all(range(CLAIMS).map(() => request(proxy.port, { path: `/page?ms=1000&${claim(tag)}` })));
      const statuses = count(answers.map(answer => answer.status));
      t.diagnostic(JSON.stringify(statuses));
      // 2 under way and 4 that wait, and as many again if they came slowly.
      assert.ok(statuses[503] >= CLAIMS - 12, `${statuses[503] ?? 0} of ${CLAIMS} refused`);
    },
  ),
);

test('upgrades with a made-up sid to a page are under max_concurrency', options, t =>
  withProxy({ apps: { web: { script: './faults.js', instances: 2, max_concurrency: LIMIT } } }, async proxy => {
    await steady(proxy, 2);
    const { tag } = (await request(proxy.port, { path: '/tag' })).json;
    const answers = await Promise.all(
      range(CLAIMS).map(() => exchange(proxy.port, upgradeHead(`/page?ms=150&${claim(tag).replace('polling', 'websocket')}`))),
    );
    const highest = await most(proxy, 2);
    t.diagnostic(`${highest} at once, ${JSON.stringify(count(answers.map(answer => answer.status)))}`);
    assert.ok(highest <= LIMIT, `${highest} at once on one worker`);
  }),
);

test('a real session keeps its privileges: it goes on while its worker has all the requests that it may have', options, () =>
  withProxy({ apps: { web: { script: './faults.js', max_concurrency: LIMIT, env: { SIO: '1' } } } }, async proxy => {
    const client = await connect(4, proxy.url, { transports: ['polling'] });
    try {
      const busy = range(LIMIT).map(() => request(proxy.port, { path: '/page?ms=3000' }));
      await until(async () => (await workers(proxy))[0].active >= LIMIT, { what: 'the worker to be busy' });
      const asked = performance.now();
      await client.echo('x', 2500);
      assert.ok(performance.now() - asked < 2500);
      assert.deepEqual(client.trouble, []);
      assert.deepEqual(
        (await Promise.all(busy)).map(answer => answer.status),
        [200, 200],
      );
    } finally {
      client.close();
    }
  }),
);

const reflections = {
  'as an open packet': sid => `0{"sid":"${sid}","upgrades":[],"pingInterval":25000,"pingTimeout":20000}`,
  'as a payload of protocol 3': sid => {
    const packet = `0{"sid":"${sid}","upgrades":[],"pingInterval":25000,"pingTimeout":20000}`;
    return `${packet.length}:${packet}2:40`;
  },
  'as JSONP': sid => `___eio[0](${JSON.stringify(`0{"sid":"${sid}","upgrades":[]}`)});`,
};

for (const [name, text] of Object.entries(reflections)) {
  test(`a page that reflects another's sid ${name} teaches no owner for it`, options, () =>
    withProxy({ apps: { web: { script: './faults.js', instances: 3, env: { SIO: '1' } } } }, async proxy => {
      await steady(proxy, 3);
      const session = new Polling(proxy.port);
      const sid = await session.handshake();
      const [owner] = session.pids;
      const strangers = new Set();
      await until(
        async () => {
          const answer = await request(proxy.port, {
            path: `/reflect?EIO=4&transport=polling&text=${encodeURIComponent(text(sid))}`,
          });
          if (Number(answer.headers['x-pid']) !== owner) strangers.add(answer.headers['x-pid']);
          return strangers.size === 2;
        },
        { every: 1, what: 'both others to serve the page' },
      );
      for (const n of range(4)) {
        await session.emit('echo', n);
        assert.equal((await session.event('echo')).data, n);
      }
      assert.deepEqual([...session.pids], [owner], 'the session stays with its worker');
      await session.close();
    }),
  );
}
