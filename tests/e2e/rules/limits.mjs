// How much, how many, how long.

import assert from 'node:assert/strict';
import { LIMITS, small } from './config.mjs';
import { json, shown, text } from './outcome.mjs';
import { range, sleep, until } from '../lib/wait.mjs';

const NO_BODY = 'an upgrade request has no body';
const status = code => result => assert.equal(result.status, code, shown(result));
/** Long fields and paths. */
const long = (letter, bytes) => letter.repeat(bytes);

const within = (least, most) => result => {
  assert.equal(result.status, 408, shown(result));
  assert.ok(result.ms >= least && result.ms < most, `after ${result.ms} ms`);
};
/** A body that stops, one that is too slow. */
const late = within(LIMITS.ms * 0.8, LIMITS.ms + 4000);
const slow = within(4000, 12_000);

/** Sends pieces of a body until an answer comes, or for so long; whether one has come. */
async function dripped(asking, piece, pause, most) {
  let over = false;
  const ended = () => (over = true);
  asking.answer.then(ended, ended);
  const end = performance.now() + most;
  while (!over && performance.now() < end) {
    asking.write(piece);
    await sleep(pause);
  }
  return over;
}

/** The same; returns the answer. */
async function drip(asking, ...more) {
  await dripped(asking, ...more);
  return asking.answer;
}

/** An upload that begins with so many bytes. */
async function upload(at, announce, begin) {
  const asking = (await at.open()).start({ method: 'POST', path: '/upload', announce, open: true, patience: 14_000 });
  return asking.write(Buffer.alloc(begin, 'x'));
}

/** Holds as many connections as there may be, and asks on one more; then again when one has left. */
async function beyond(at) {
  const held = [];
  const others = at.proxy.adopted.length;
  await until(async () => (await at.total('connections_open')) === others, { what: 'the connections before it to be gone' });
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
    name: 'clients.requests: beyond the rate a request is a 429 that says when to come again',
    app: 'web',
    own: at => ({ ...small({})(at), clients: { requests: '60/m', burst: 40 } }),
    act: async at => {
      const client = await at.open();
      for (const _ of range(150)) {
        const result = await client.ask();
        if (result.status !== 200) return result;
      }
      return undefined;
    },
    expect: result => {
      assert.equal(result?.status, 429, shown(result));
      assert.match(result.headers['retry-after'], /^\d+$/);
      assert.match(result.headers['x-request-id'], /^[0-9a-f]{32}$/);
    },
  },
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
    act: async at => (await upload(at, 100, 10)).answer,
    expect: late,
  },
  {
    name: 'body_timeout: a long body that stops coming is a 408',
    app: 'web',
    not: { upgrade: NO_BODY },
    act: async at => (await upload(at, 100_000, 50_000)).answer,
    expect: late,
    instead: {
      'pingora-http2': {
        says: 'Pingora has no time-out for a body of HTTP/2: only response_timeout ends the wait',
        act: async at => {
          const asking = await upload(at, 100_000, 50_000);
          const over = await Promise.race([asking.answer, sleep(LIMITS.ms + 1500)]);
          asking.leave();
          return over;
        },
        expect: over => assert.equal(over, undefined, 'the upload ended'),
      },
    },
  },
  {
    name: 'body_timeout: a long body that stops coming is a 408, whatever response_timeout says',
    app: 'strict',
    connections: 1,
    not: { upgrade: NO_BODY },
    act: async at => (await upload(at, 100_000, 50_000)).answer,
    expect: late,
    instead: {
      pingora: {
        says: 'Pingora waits for the answer while the body comes: a body that pauses for response_timeout is a 504',
        expect: result => {
          assert.equal(result.status, 504, shown(result));
          assert.ok(result.ms >= LIMITS.response * 0.8 && result.ms < LIMITS.response + 3000, `after ${result.ms} ms`);
        },
      },
    },
  },
  {
    name: 'body_rate: an upload of four bytes a second is a 408',
    app: 'web',
    not: { upgrade: NO_BODY },
    act: async at => drip(await upload(at, 1000, 10), 'x', 250, 13_000),
    expect: slow,
  },
  {
    name: 'body_rate: a long upload that comes down to four bytes a second is a 408',
    app: 'web',
    not: { upgrade: NO_BODY },
    act: async at => drip(await upload(at, 100_000, 50_000), 'x', 250, 13_000),
    expect: slow,
    instead: {
      pingora: {
        says: 'Pingora knows no least rate, and a worker has the upload: it goes on as long as no two pieces are response_timeout apart',
        act: async at => {
          const asking = await upload(at, 100_000, 50_000);
          const over = await dripped(asking, 'x', 250, 8000);
          asking.leave();
          return over;
        },
        expect: over => assert.equal(over, false, 'the upload ended'),
      },
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
    // Long enough for a connection that was opened before an upgrade to be idle until it is over, on a busy machine too.
    own: small({ keepalive_timeout: '5s', tunnel_idle_timeout: '5s' }),
    act: async at => {
      const client = await at.open();
      const first = await client.ask({ path: '/tunnel' });
      return { first, last: await client.idle(15_000) };
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
