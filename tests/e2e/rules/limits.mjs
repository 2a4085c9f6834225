// How much, how many, how long.

import assert from 'node:assert/strict';
import { LIMITS, small } from './config.mjs';
import { json, shown, text } from './outcome.mjs';
import { range, sleep, until } from '../lib/wait.mjs';

const NO_BODY = 'an upgrade request has no body';
const status = code => result => assert.equal(result.status, code, shown(result));
/** Long fields and paths. */
const long = (letter, bytes) => letter.repeat(bytes);

/** Sends pieces of a body until an answer comes; returns that. */
async function drip(asking, piece, pause, most) {
  let answer;
  asking.answer.then(result => (answer = result), () => (answer = {}));
  const end = performance.now() + most;
  while (!answer && performance.now() < end) {
    asking.write(piece);
    await sleep(pause);
  }
  return asking.answer;
}

/** Holds as many connections as there may be, and asks on one more; then again when one has left. */
async function beyond(at) {
  const held = [];
  for (const _ of range(6)) held.push(await at.open());
  // A connection counts from its first byte at the latest.
  for (const [n, client] of held.entries()) {
    if (at.upgrades) client.start({ path: `/hang?name=${n}`, open: true });
    else await client.ask();
  }
  if (at.upgrades) await until(async () => (await at.leases()) === 6, { what: 'six upgrades under way' });
  const code = await at.direct('/ok').then(answer => answer.status, error => error.code);
  const refused = await at.total('connections_refused_total');
  held[0].close();
  return { beyond: code, refused, after: await until(() => at.direct('/ok').then(answer => answer.status, () => null), { what: 'a place' }) };
}

export const limits = [
  {
    name: 'head_size: a longer head is a 431',
    app: 'web',
    act: at => at.ask({ fields: [['X-Long', long('x', LIMITS.head + 500)]] }),
    expect: status(431),
  },
  {
    name: 'head_size: a head below it passes',
    app: 'web',
    act: at => at.ask({ fields: [['X-Long', long('x', LIMITS.head - 1500)]] }),
    expect: status(200),
  },
  {
    name: 'head_size: a longer request line is a 414',
    app: 'web',
    act: at => at.ask({ path: `/ok?${long('q', LIMITS.head + 500)}` }),
    expect: status(414),
  },
  {
    name: 'more than 100 fields are a 431',
    app: 'web',
    act: at => at.ask({ fields: range(120).map(n => [`X-${n}`, 'y']) }),
    expect: status(431),
  },
  {
    name: 'head_timeout: a head that drips in is a 408',
    app: 'web',
    act: async at => (await at.open()).drip(),
    expect: result => {
      assert.equal(result.status, 408, shown(result));
      assert.ok(result.ms >= LIMITS.ms * 0.8 && result.ms < LIMITS.ms + 4000, `after ${result.ms} ms`);
    },
  },
  {
    name: 'body_size: a body that says it is longer is a 413',
    app: 'web',
    not: { upgrade: NO_BODY },
    act: async at => (await at.open()).start({ method: 'POST', path: '/upload', announce: LIMITS.body + 1, open: true }).answer,
    expect: status(413),
  },
  {
    name: 'body_size: a body that becomes longer is a 413',
    app: 'web',
    not: { upgrade: NO_BODY },
    act: async at => {
      const asking = (await at.open()).start({ method: 'POST', path: '/upload', chunks: [], open: true });
      return drip(asking, Buffer.alloc(32 * 1024), 5, 5000);
    },
    expect: status(413),
  },
  {
    name: 'body_size: a body below it passes, by length and in pieces',
    app: 'web',
    connections: 2,
    not: { upgrade: NO_BODY },
    act: async at => [
      await at.ask({ method: 'POST', path: '/upload', body: Buffer.alloc(LIMITS.body) }),
      await at.ask({ method: 'POST', path: '/upload', chunks: range(8).map(() => Buffer.alloc(LIMITS.body / 8)) }),
    ],
    expect: results => {
      for (const result of results) assert.equal(json(result).bytes, LIMITS.body, shown(result));
    },
  },
  {
    name: 'body_timeout: a body that stops coming is a 408',
    app: 'web',
    not: { upgrade: NO_BODY },
    act: async at => (await at.open()).start({ method: 'POST', path: '/upload', announce: 100, open: true }).write('not all').answer,
    expect: result => {
      assert.equal(result.status, 408, shown(result));
      assert.ok(result.ms >= LIMITS.ms * 0.8 && result.ms < LIMITS.ms + 4000, `after ${result.ms} ms`);
    },
  },
  {
    name: 'body_rate: an upload of four bytes a second is a 408',
    app: 'web',
    not: { upgrade: NO_BODY },
    act: async at => {
      const asking = (await at.open()).start({ method: 'POST', path: '/upload', announce: 1000, open: true, patience: 14_000 });
      return drip(asking.write('first'), 'x', 250, 13_000);
    },
    expect: result => {
      assert.equal(result.status, 408, shown(result));
      assert.ok(result.ms >= 4000 && result.ms < 12_000, `after ${result.ms} ms`);
    },
  },
  {
    name: 'body_rate: a client that takes nothing of its answer is cut',
    app: 'web',
    not: { upgrade: 'a tunnel has no body; its limit is tunnel_idle_timeout' },
    act: async at => (await at.open()).stall({ path: `/big?bytes=${24 << 20}` }, 11_000),
    expect: result => {
      assert.equal(result.status, 200, shown(result));
      assert.ok(result.body.length < 24 << 20, `all ${result.body.length} bytes came`);
      // Which code a stream is ended with is not said anywhere.
      assert.ok(result.cut, shown({ ...result, body: undefined }));
    },
  },
  {
    name: 'response_timeout: a worker that does not answer is a 504',
    app: 'strict',
    act: at => at.ask({ path: `/hang?name=504.${at.name}` }),
    expect: result => {
      assert.equal(result.status, 504, shown(result));
      assert.ok(result.ms >= LIMITS.response * 0.8 && result.ms < LIMITS.response + 3000, `after ${result.ms} ms`);
      assert.match(text(result), /\w/, 'a body that a person can read');
    },
  },
  {
    name: 'keepalive_timeout: an idle connection ends without a word',
    app: 'web',
    own: small({ keepalive_timeout: '2s', tunnel_idle_timeout: '2s' }),
    act: async at => {
      const client = await at.open();
      const first = await client.ask({ path: '/tunnel' });
      return { first, last: await client.idle(9000) };
    },
    expect: ({ first, last }) => {
      assert.equal(first.status, 200, shown(first));
      assert.equal(last.body.length, 0, shown(last));
      assert.ok(last.ms >= 1000, `after ${last.ms} ms`);
      assert.notEqual(last.told, 'no GOAWAY');
    },
  },
  {
    name: 'connections: who comes beyond is not served, and is when one has left',
    app: 'web',
    own: small({ connections: 6 }),
    connections: 6,
    act: beyond,
    expect: ({ beyond, after }) => {
      assert.equal(beyond, 'ECONNRESET');
      assert.equal(after, 200);
    },
  },
  {
    name: 'connections_refused_total counts who comes beyond',
    app: 'web',
    own: small({ connections: 6 }),
    connections: 6,
    act: beyond,
    expect: ({ refused }) => assert.ok(refused >= 1, `counted ${refused}`),
  },
];
