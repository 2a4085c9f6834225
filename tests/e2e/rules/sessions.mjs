// Who leads a client to its worker, and what is counted.

import assert from 'node:assert/strict';
import { ofSession, session } from './asking.mjs';
import { shown, text } from './outcome.mjs';
import { range, until } from '../lib/wait.mjs';

const ENGINE = 'Engine.IO speaks HTTP/1';
const KEYS = range(8).map(n => `key${n}`);

/** Each key twice on the path, and once by plain HTTP/1: pids by key. */
async function led(at, field) {
  const found = [];
  for (const key of KEYS) {
    const [name, value] = field(key);
    const client = at.keyed ??= await at.open();
    const pids = [];
    for (const _ of range(2)) pids.push((await client.ask({ path: '/ok', fields: [[name, value].flat()].concat(at.two && name === 'Cookie' ? [['Cookie', 'z=1']] : []) })).headers['x-pid']);
    pids.push((await at.direct('/ok', { headers: { [name]: value } })).headers['x-pid']);
    found.push(pids);
  }
  return found;
}

function faithful(found) {
  for (const [i, pids] of found.entries()) assert.equal(new Set(pids).size, 1, `${KEYS[i]} went to ${pids}`);
  assert.ok(new Set(found.flat()).size >= 2, 'not all to one worker');
}

/** What a request added to the counters of the app. */
async function counted(at, ...asked) {
  const before = await at.counters();
  const results = [];
  for (const one of asked) results.push(await (await at.open()).start(one).answer);
  const after = await at.counters();
  const added = Object.fromEntries(Object.entries(after).map(([key, value]) => [key, value - (before[key] ?? 0)]).filter(([, value]) => value));
  return { results, added };
}

export const sessions = [
  {
    name: 'affinity: a session id leads to the worker that gave it',
    app: 'chat',
    not: { 'http2-workers': ENGINE },
    alone: true,
    connections: 6,
    act: async at => {
      await at.ready(3);
      const found = [];
      for (const _ of range(3)) {
        const { sid, pid } = await session(at);
        const pids = [`${pid}`];
        for (const packet of at.upgrades ? ['none'] : ['40', '42["x"]']) {
          const answer = await at.ask(ofSession(at, sid, packet));
          pids.push(answer.status === 200 ? answer.headers['x-pid'] : `${answer.status}`);
        }
        found.push(pids);
      }
      return found;
    },
    expect: found => {
      for (const pids of found) assert.equal(new Set(pids).size, 1, `went to ${pids}`);
    },
  },
  {
    name: 'a poll of a session waits for its next packet, longer than response_timeout',
    app: 'patient',
    not: { 'http2-workers': ENGINE, upgrade: 'an upgrade waits for no packet' },
    connections: 5,
    act: async at => {
      const { sid } = await session(at);
      const [open, path] = [ofSession(at, sid), `/socket.io/?EIO=4&transport=polling&sid=${sid}`];
      const found = [(await at.ask(open)).status];
      // What the connection begins with, then a ping, and another one that comes long after it was answered.
      await at.ask({ path });
      found.push(text(await at.ask({ path })), (await at.ask(ofSession(at, sid, '3'))).status, text(await at.ask({ path })));
      return found;
    },
    expect: found => assert.deepEqual(found, [200, '2', 200, '2']),
  },
  {
    name: 'the id of a session buys no time where Engine.IO does not serve',
    app: 'patient',
    not: { 'http2-workers': ENGINE, upgrade: 'Engine.IO itself ends an upgrade on another path after a second' },
    act: async at => {
      const { sid } = await session(at);
      return at.ask({ path: `/hang?name=claim.${at.name}&EIO=4&transport=polling&sid=${sid}` });
    },
    expect: result => assert.equal(result.status, 504, shown(result)),
  },
  {
    name: 'affinity by header: one value, one worker, the same on every path',
    app: 'bound',
    act: at => led(at, key => ['X-User', key]),
    expect: faithful,
  },
  {
    name: 'affinity by cookie: one value, one worker, the same on every path',
    app: 'biscuit',
    act: at => led(at, key => ['Cookie', `user=${key}`]),
    expect: faithful,
  },
  {
    name: 'requests_total counts answers by class; an upgrade is a 1xx',
    app: 'counted',
    alone: true,
    connections: 2,
    act: at => counted(at, { path: '/ok' }, { path: '/status?code=404' }),
    expect: ({ added }, at) => {
      assert.equal(added[`requests_total ${at.upgrades ? '1xx' : '2xx'}`], 1, JSON.stringify(added));
      assert.equal(added['requests_total 4xx'], 1, JSON.stringify(added));
    },
  },
  {
    name: 'request_failures_total counts by reason: no answer, malformed, cut',
    app: 'counted',
    alone: true,
    connections: 3,
    act: at => counted(at, { path: `/hang?name=count.${at.name}` }, { path: '/garbage' }, { path: '/cut' }),
    expect: ({ added, results }) => {
      assert.deepEqual(results.slice(0, 2).map(result => result.status), [504, 502]);
      for (const reason of ['no_answer', 'malformed_answer', 'truncated_answer']) assert.equal(added[`request_failures_total ${reason}`], 1, `${reason} of ${JSON.stringify(added)}`);
      assert.equal(added['requests_total 5xx'], 2, JSON.stringify(added));
    },
    instead: {
      'http2-workers': {
        says: 'what is no HTTP/2 ends the connection with the worker, as one that died: only the two others are asked',
        act: async at => counted(at, { path: `/hang?name=count.${at.name}` }, { path: '/cut' }),
        expect: ({ added, results }) => {
          assert.deepEqual(results.map(result => result.status), [504, 200]);
          for (const reason of ['no_answer', 'truncated_answer']) assert.equal(added[`request_failures_total ${reason}`], 1, `${reason} of ${JSON.stringify(added)}`);
          assert.equal(added['requests_total 5xx'], 1, JSON.stringify(added));
        },
      },
    },
  },
  {
    name: 'request_retries_total counts what went to a second worker',
    app: 'counted',
    alone: true,
    act: at => counted(at, { path: `/drop?name=count.${at.name}` }),
    expect: ({ added, results: [result] }) => {
      assert.equal(result.status, 200, shown(result));
      assert.equal(added.request_retries_total, 1, JSON.stringify(added));
    },
    instead: {
      upgrade: {
        says: 'an upgrade is not sent again',
        expect: ({ added, results: [result] }) => {
          assert.equal(result.status, 502, shown(result));
          assert.equal(added.request_retries_total ?? 0, 0, JSON.stringify(added));
        },
      },
    },
  },
  {
    name: 'request_failures_total and queue_refused_total count requests without a worker',
    app: 'full',
    alone: true,
    act: at => counted(at, {}),
    expect: ({ added }) => {
      assert.equal(added['request_failures_total no_worker'], 1, JSON.stringify(added));
      assert.equal(added['requests_total 5xx'], 1, JSON.stringify(added));
      assert.equal(added.queue_refused_total, 1, JSON.stringify(added));
    },
  },
  {
    name: 'request_failures_total counts clients that leave',
    app: 'counted',
    alone: true,
    act: async at => {
      const before = await at.counters();
      const asking = (await at.open()).start({ path: `/hang?name=gone.${at.name}`, open: at.two ? undefined : true });
      await until(async () => (await at.leases()) === 1, { what: 'the request at the app' });
      asking.leave();
      await at.quiet();
      const key = 'request_failures_total client_gone';
      return (await at.counters())[key] - before[key];
    },
    expect: added => assert.equal(added, 1),
  },
  {
    name: 'a request that no route takes is counted for no app',
    app: 'counted',
    alone: true,
    act: at => counted(at, { host: 'nobody.example' }),
    expect: ({ added, results: [result] }) => {
      assert.equal(result.status, 404, shown(result));
      assert.deepEqual(added, {});
    },
  },
];
