// Workers that say nothing for a while.

import assert from 'node:assert/strict';
import { noted, ofSession, often, session } from './asking.mjs';
import { shown, text } from './outcome.mjs';
import { range, until } from '../lib/wait.mjs';

const ENGINE = 'Engine.IO speaks HTTP/1';

/** The process that is stopped, by app: rows of other apps may run at the same time. */
const stopped = new Map();
/** The sessions that it has. */
let sids;

async function stop(at, pid) {
  stopped.set(at.app, pid);
  at.proxy.kill(pid, 'SIGSTOP');
  const seen = async () => (await at.workers()).some(worker => worker.pid === pid && worker.state !== 'ready');
  await until(seen, { timeout: 15_000, what: 'the hang to be seen' });
}

const go = at => at.proxy.kill(stopped.get(at.app), 'SIGCONT');

export const hangs = [
  {
    name: 'a worker that hangs gets no new request',
    app: 'hang',
    not: { 'http2-workers': 'without the preload script no heartbeat tells' },
    alone: true,
    before: async at => {
      const [{ pid }] = await at.ready(4);
      await stop(at, pid);
    },
    behind: async at => {
      go(at);
      await at.ready(4);
    },
    act: at => often(at, 8, { path: '/ok' }),
    expect: (results, at) => {
      assert.deepEqual(results.map(result => result.status), range(8).map(() => 200));
      for (const result of results) assert.notEqual(result.headers['x-pid'], String(stopped.get(at.app)));
    },
  },
  {
    name: 'a worker that is silent but lives is waited for, and the request is done once',
    app: 'hang',
    alone: 'rule',
    timeout: 60_000,
    before: at => at.ready(4),
    behind: at => at.ready(4),
    act: async at => {
      const name = `block.${at.name}`;
      const result = await at.ask({ path: `/block?name=${name}&ms=5500`, patience: 15_000 });
      return { result, pids: noted(at, name) };
    },
    expect: ({ result, pids }) => {
      assert.equal(result.status, 200, shown(result));
      assert.deepEqual(pids, [Number(text(result))], 'who had it');
    },
  },
  {
    name: 'a session waits for its worker that hangs',
    app: 'chat',
    not: { 'http2-workers': ENGINE },
    alone: 'rule',
    before: async at => {
      await at.ready(3);
      const all = [];
      for (const _ of range(16)) all.push(await session(at));
      const [{ pid }] = all;
      sids = all.filter(one => one.pid === pid).map(one => one.sid);
      await stop(at, pid);
      setTimeout(go, 2000, at);
    },
    behind: at => at.ready(3),
    act: at => at.ask({ ...ofSession(at, sids.pop()), patience: 10_000 }),
    expect: (result, at) => {
      assert.equal(result.status, 200, shown(result));
      assert.equal(result.headers['x-pid'], String(stopped.get(at.app)));
    },
  },
];
