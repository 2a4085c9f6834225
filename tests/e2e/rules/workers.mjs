// Workers that hang, die, are full or cannot be reached.

import assert from 'node:assert/strict';
import { readdirSync, renameSync } from 'node:fs';
import path from 'node:path';
import { noted, ofSession, often, session } from './asking.mjs';
import { shown, text } from './outcome.mjs';
import { range, sleep, until } from '../lib/wait.mjs';

const ENGINE = 'Engine.IO speaks HTTP/1';
const IS_GET = 'an upgrade is a GET';
const NO_BODY = 'an upgrade request has no body';
const STREAM_ENDS = 'a stream has said its end with its request';
const PINGORA_LEAVES = {
  says: 'Pingora takes the end of a client\'s side for its leaving',
  expect: ({ result }) => assert.equal(result.status, null, shown(result)),
};

let hidden;

export const workers = [
  {
    name: 'a worker that cannot be connected to: another one answers',
    app: 'unreachable',
    alone: true,
    before: async at => {
      await at.ready(2);
      const dir = path.join(at.proxy.runtime, 'workers');
      const [name] = readdirSync(dir).filter(file => file.startsWith('unreachable.') && file.endsWith('.sock'));
      hidden = path.join(dir, name);
      renameSync(hidden, `${hidden}.away`);
    },
    behind: () => renameSync(`${hidden}.away`, hidden),
    act: at => often(at, 6, { path: '/ok' }),
    expect: results => assert.deepEqual(results.map(result => result.status), range(6).map(() => 200)),
  },
  {
    name: 'a GET whose worker ends the connection without an answer goes to another, once',
    app: 'drop',
    act: async at => {
      const name = `drop.get.${at.name}`;
      return { result: await at.ask({ path: `/drop?name=${name}` }), pids: noted(at, name) };
    },
    expect: ({ result, pids }) => {
      assert.equal(result.status, 200, shown(result));
      assert.equal(pids.length, 2, `asked ${pids}`);
      assert.equal(new Set(pids).size, 2, `asked ${pids}`);
    },
    instead: {
      upgrade: {
        says: 'an upgrade opens a conversation: it is a 502 and is not sent again',
        expect: ({ result, pids }) => {
          assert.equal(result.status, 502, shown(result));
          assert.equal(pids.length, 1, `asked ${pids}`);
        },
      },
    },
  },
  {
    name: 'a POST whose worker ends the connection without an answer is a 502, done once',
    app: 'drop',
    not: { upgrade: IS_GET },
    act: async at => {
      const name = `drop.post.${at.name}`;
      return { result: await at.ask({ method: 'POST', path: `/drop?name=${name}`, body: 'once' }), pids: noted(at, name) };
    },
    expect: ({ result, pids }) => {
      assert.equal(result.status, 502, shown(result));
      assert.equal(pids.length, 1, `asked ${pids}`);
    },
  },
  {
    name: 'a GET that kills its workers is a 502 and kills two at most, an upgrade one',
    app: 'poison',
    alone: true,
    act: async at => {
      await at.ready(4);
      const name = `die.get.${at.name}`;
      return { result: await at.ask({ path: `/die?name=${name}` }), pids: noted(at, name) };
    },
    expect: ({ result, pids }, at) => {
      assert.equal(result.status, 502, shown(result));
      assert.ok(pids.length >= 1 && pids.length <= (at.upgrades ? 1 : 2), `killed ${pids}`);
    },
  },
  {
    name: 'a POST that kills its worker is a 502 and kills no other',
    app: 'poison',
    alone: true,
    not: { upgrade: IS_GET },
    act: async at => {
      await at.ready(4);
      const name = `die.post.${at.name}`;
      return { result: await at.ask({ method: 'POST', path: `/die?name=${name}`, body: 'poison' }), pids: noted(at, name) };
    },
    expect: ({ result, pids }) => {
      assert.equal(result.status, 502, shown(result));
      assert.equal(pids.length, 1, `killed ${pids}`);
    },
  },
  {
    name: 'a request of a session that kills its worker is a 502 and kills no other',
    app: 'chat',
    not: { 'http2-workers': ENGINE },
    alone: true,
    act: async at => {
      await at.ready(3);
      const { sid, pid } = await session(at);
      const name = `die.sid.${at.name}`;
      const transport = at.upgrades ? 'websocket' : 'polling';
      const result = await at.ask({ path: `/socket.io/?EIO=4&transport=${transport}&sid=${sid}&route=die&name=${name}` });
      return { result, pids: noted(at, name), owner: pid };
    },
    expect: ({ result, pids, owner }) => {
      assert.equal(result.status, 502, shown(result));
      assert.deepEqual(pids, [owner], 'killed');
    },
  },
  {
    name: 'no worker, and a queue that is full: 503 at once, with Retry-After',
    app: 'full',
    act: at => at.ask(),
    expect: result => {
      assert.equal(result.status, 503, shown(result));
      assert.match(result.headers['retry-after'], /^\d+$/);
      assert.ok(result.ms < 3000, `after ${result.ms} ms`);
    },
  },
  {
    name: 'no worker within the queue\'s timeout: 503, with Retry-After',
    app: 'waiting',
    act: at => at.ask(),
    expect: result => {
      assert.equal(result.status, 503, shown(result));
      assert.match(result.headers['retry-after'], /^\d+$/);
      assert.ok(result.ms >= 500 && result.ms < 4000, `after ${result.ms} ms`);
    },
  },
  {
    name: 'a request waits in the queue for the next worker',
    app: 'late',
    alone: true,
    act: async at => {
      const [{ pid }] = await at.ready(1);
      at.proxy.kill(pid);
      await until(async () => (await at.workers()).every(worker => worker.state !== 'ready'), { every: 2, what: 'no worker' });
      return { pid, result: await at.ask({ path: '/ok', patience: 12_000 }) };
    },
    expect: ({ pid, result }) => {
      assert.equal(result.status, 200, shown(result));
      assert.notEqual(result.headers['x-pid'], String(pid));
    },
  },
  {
    name: 'max_concurrency: a worker gets no more at once, and all are served',
    app: 'narrow',
    alone: true,
    connections: 6,
    act: at => crowd(at, '/held?ms=250'),
    expect: served,
  },
  {
    name: 'max_concurrency: a made-up sid passes neither it nor the queue',
    app: 'narrow',
    not: { 'http2-workers': ENGINE },
    alone: true,
    connections: 6,
    act: async at => {
      // It names a worker, but on a path where no Engine.IO is.
      const { sid } = await session(at);
      return crowd(at, `/held?ms=250&EIO=4&transport=${at.upgrades ? 'websocket' : 'polling'}&sid=${'A'.repeat(17)}${sid.slice(-3)}`);
    },
    expect: served,
  },
  {
    name: 'max_concurrency: a session\'s own request is not held back',
    app: 'narrow',
    not: { 'http2-workers': ENGINE },
    alone: true,
    act: async at => {
      const { sid } = await session(at);
      const full = range(2).map(() => at.direct('/held?ms=1500'));
      await until(async () => (await at.leases()) === 2, { what: 'a worker that is full' });
      const result = await at.ask(ofSession(at, sid));
      await Promise.all(full);
      return result;
    },
    expect: result => {
      assert.equal(result.status, 200, shown(result));
      assert.ok(result.ms < 1000, `after ${result.ms} ms`);
    },
  },
  {
    name: 'a client that sends no more and waits in the queue is answered in its turn',
    app: 'narrow',
    alone: true,
    not: { http2: STREAM_ENDS },
    act: at => ended(at, 700),
    expect: ({ result }) => {
      assert.equal(result.status, 200, shown(result));
      assert.equal(text(result), 'held');
    },
    instead: { 'pingora-http1': PINGORA_LEAVES },
  },
  {
    name: 'a client that sends no more waits for 2 s in the queue',
    app: 'narrow',
    alone: true,
    not: { http2: STREAM_ENDS },
    act: at => ended(at, 3500),
    expect: ({ result, failures }) => {
      assert.equal(result.status, null, shown(result));
      assert.ok(result.ms >= 1900 && result.ms < 3300, `after ${result.ms} ms`);
      assert.equal(failures, 1, 'counted as a client that left');
    },
    instead: { 'pingora-http1': PINGORA_LEAVES },
  },
  {
    name: 'a client that sends no more waits for 2 s for the worker',
    app: 'one',
    alone: true,
    not: { http2: STREAM_ENDS },
    act: at => ended(at, 0, '/held?ms=3500'),
    expect: ({ result, failures }) => {
      assert.equal(result.status, null, shown(result));
      assert.ok(result.ms >= 1900 && result.ms < 3300, `after ${result.ms} ms`);
      assert.equal(failures, 1, 'counted as a client that left');
    },
    instead: { 'pingora-http1': PINGORA_LEAVES },
  },
  {
    name: 'a short body is waited for before a worker is taken',
    app: 'one',
    alone: true,
    not: { upgrade: NO_BODY },
    act: at => halves(at, { announce: 10 }, 'fives'),
    expect: ({ early, late, result }) => {
      assert.deepEqual([early, late], [0, 0], 'workers taken before the body and after half of it');
      assert.match(text(result), /"bytes":10\b/, shown(result));
    },
  },
  {
    name: 'a body without a length takes a worker with its first byte',
    app: 'one',
    alone: true,
    not: { upgrade: NO_BODY },
    act: at => halves(at, { chunks: [] }, 'fives'),
    expect: ({ early, late, result }) => {
      assert.deepEqual([early, late], [0, 1], 'workers taken before the body and after half of it');
      assert.match(text(result), /"bytes":10\b/, shown(result));
    },
    instead: {
      'http2-workers': {
        says: 'a server of gRPC may speak first: its worker is taken at once',
        expect: ({ early, late, result }) => {
          assert.deepEqual([early, late], [1, 1]);
          assert.match(text(result), /"bytes":10\b/, shown(result));
        },
      },
    },
  },
  {
    name: 'a client that leaves: the app is told, and its worker is free',
    app: 'one',
    alone: true,
    act: async at => {
      const name = `left.${at.name}`;
      const asking = (await at.open()).start({ path: `/hang?name=${name}`, open: at.two ? undefined : true });
      await until(async () => (await at.direct(`/state?name=${name}`)).text === 'open', { what: 'the request at the app' });
      const during = await at.leases();
      asking.leave();
      const state = () => at.direct(`/state?name=${name}`).then(answer => answer.text);
      await until(async () => (await state()) === 'closed', { timeout: 5000, what: 'the app to be told' });
      await at.quiet();
      return { during };
    },
    expect: ({ during }) => assert.equal(during, 1, 'leases while it waits'),
  },
  {
    name: 'a worker is free after every kind of answer',
    app: 'strict',
    alone: true,
    connections: 4,
    act: async at => {
      const statuses = [];
      for (const way of ['/ok', '/cut', '/garbage', `/hang?name=free.${at.name}`]) statuses.push((await at.ask({ path: way })).status);
      await at.quiet();
      return statuses;
    },
    expect: (statuses, at) => {
      // A worker with HTTP/2 sends that as the body of an answer.
      const garbage = at.protocol === 'http2' ? 200 : 502;
      assert.deepEqual([statuses[0], ...statuses.slice(2)], [200, garbage, 504]);
    },
  },
];

/** Six at once. */
async function crowd(at, asked) {
  await at.direct('/most');
  const clients = [];
  for (const _ of range(6)) clients.push(await at.open());
  const results = await Promise.all(clients.map(client => client.ask({ path: asked })));
  return { results, most: Number((await at.direct('/most')).text) };
}

function served({ results, most }) {
  assert.deepEqual(results.map(result => result.status), range(6).map(() => 200));
  assert.equal(most, 2, 'at once at the worker');
}

/**
 * Asks and sends no more, while the worker is full for `ms`. What came of it, and how many clients were counted that left
 * (`failures`).
 */
async function ended(at, ms, path = '/held?ms=1') {
  await at.quiet();
  const left = async () => (await at.counters())['request_failures_total client_gone'];
  const before = await left();
  const client = await at.open();
  const full = ms ? range(2).map(() => at.direct(`/held?ms=${ms}`)) : [];
  if (ms) await until(async () => (await at.leases()) === 2, { what: 'a worker that is full' });
  const asking = client.start({ path });
  asking.raw.end();
  const result = await asking.answer;
  await Promise.all(full);
  await at.quiet();
  return { result, failures: (await left()) - before };
}

/** A body of ten bytes in halves; how many workers it has before, between, and what is answered. */
async function halves(at, framing, half) {
  await at.quiet();
  const asking = (await at.open()).start({ method: 'POST', path: '/upload', ...framing, open: true });
  await sleep(150);
  const early = await at.leases();
  asking.write(half);
  await sleep(150);
  const late = await at.leases();
  return { early, late, result: await asking.write(half).end().answer };
}
