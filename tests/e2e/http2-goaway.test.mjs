// The ends of HTTP/2 connections that are not the client's wish: GOAWAY first, and nothing that was asked is lost.

import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import test from 'node:test';
import { alone, upgraded } from './lib/handoff.mjs';
import { ask, connect, withSession } from './lib/http2.mjs';
import { configure, needsProxy, needsUpgrade, withProxy } from './lib/proxy.mjs';
import { pidsOf, steady, succeed } from './lib/steer.mjs';
import { range, sleep, until, within } from './lib/wait.mjs';

const ROUNDS = process.env.SLOW ? 6 : 2;
/** Of h2load. */
const CLIENTS = 6;
const options = { timeout: 90_000, ...needsProxy };
const config = (more = {}) => proxy => ({
  listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
  apps: { web: { script: './frames.js', instances: 2, min_ready: '200ms', drain_timeout: '3s' } },
  ...more,
});

function h2load() {
  try {
    return /nghttp2\/(\S+)/.exec(execFileSync('h2load', ['--version'], { encoding: 'utf8' }))[1];
  } catch {
    return undefined;
  }
}
const noH2load = h2load() ? undefined : 'h2load is not installed (Debian: nghttp2-client)';
if (noH2load) console.log(`skipped: HTTP/2 under h2load: ${noH2load}`);

/**
 * h2load while `body` runs. It does not connect again after GOAWAY but counts what it has not sent yet as failed: so it runs again and
 * again, and what counts is that every request which it did send was answered.
 */
async function underLoad(t, proxy, body) {
  let over = false;
  const runs = [];
  const loading = (async () => {
    while (!over) runs.push(await loadOnce(proxy.port));
  })();
  try {
    await body();
    await sleep(500);
  } finally {
    over = true;
    await loading;
  }
  const sum = name => runs.reduce((all, run) => all + run[name], 0);
  const cut = runs.filter(run => run.started < run.total).length;
  t.diagnostic(`${runs.length} runs, ${sum('started')} requests sent, ${sum('succeeded')} succeeded; ${cut} runs met a GOAWAY`);
  for (const run of runs) {
    // A request that h2load has queued behind its answer to the PING of a graceful GOAWAY comes too late for the last one: the
    // frame says so, a client sends it again (RFC 9113, section 6.8; the careful client below does), h2load counts it as failed.
    const late = run.started < run.total ? 2 : 0;
    assert.deepEqual([run.done, run.timeout], [run.started, 0], run.out);
    assert.ok(run.started - run.succeeded <= late, run.out);
    assert.equal(run.failed, run.total - run.succeeded, run.out);
    assert.match(run.out, /^status codes: \d+ 2xx, 0 3xx, 0 4xx, 0 5xx$/m);
  }
  assert.ok(sum('succeeded') > 100, runs.at(-1).out);
  return cut;
}

/** Two seconds of h2load, or less; resolves with its counts. */
const loadOnce = port =>
  new Promise((resolve, reject) => {
    const args = ['-c', `${CLIENTS}`, '-m', '5', '-t', '1', '-n', '480', '--rps', '40', `http://127.0.0.1:${port}/pid`];
    execFile('h2load', args, { timeout: 30_000 }, (error, out) => {
      if (error) return reject(error);
      const numbers = [...(/^requests: .*$/m.exec(out)?.[0] ?? '').matchAll(/(\d+) (\w+)/g)];
      resolve({ ...Object.fromEntries(numbers.map(([, count, name]) => [name, Number(count)])), out });
    });
  });

/**
 * A client as browsers are: after GOAWAY it opens another connection and lets the old one finish; what the other side says it did not
 * do (REFUSED_STREAM, a stream beyond the last one of GOAWAY) it asks again. Everything else that is no 200 has failed.
 */
class Client {
  failed = [];
  done = 0;
  again = 0;
  #sessions = new Set();

  constructor(port) {
    this.port = port;
    this.#open();
  }

  #open() {
    const session = connect(this.port);
    this.#sessions.add(session);
    session.on('goaway', (code, last) => {
      session.last = last;
      if (code !== 0) this.failed.push(`GOAWAY ${code}`);
      if (this.session === session) this.#open();
    });
    session.on('close', () => {
      this.#sessions.delete(session);
      if (this.session === session && !this.over) this.#open();
    });
    this.session = session;
  }

  async lane(headers, more) {
    while (!this.over) {
      const { session } = this;
      const answer = await ask(session, headers, more).catch(error => ({ error: error.message }));
      const id = answer.stream?.id;
      const untouched = answer.code === 'REFUSED_STREAM' || !id || (session.last !== undefined && id > session.last);
      if (answer.status === 200 && answer.ended) this.done += 1;
      else if (untouched) this.again += 1;
      else this.failed.push(`${headers[':path']}, stream ${id} of ${session.last}: ${answer.status} ${answer.code} ${answer.error ?? ''}`);
      await sleep(5);
    }
  }

  async run(body) {
    const lanes = [
      ...range(4).map(() => this.lane({ ':path': '/pid' })),
      ...range(2).map(() => this.lane({ ':path': '/slow?ms=150' })),
      this.lane({ ':path': '/big?kib=600' }),
      this.lane({ ':path': '/upload', ':method': 'POST' }, { body: Buffer.alloc(100_000, 'x') }),
    ];
    try {
      return await body();
    } finally {
      this.over = true;
      await Promise.all(lanes);
      for (const session of this.#sessions) session.destroy();
    }
  }

  check(t) {
    t.diagnostic(`${this.done} requests of a careful client, ${this.again} asked again`);
    assert.deepEqual(this.failed, []);
    assert.ok(this.done > 100, `${this.done} requests`);
  }
}

async function upgrades(proxy) {
  for (const _ of range(ROUNDS)) {
    await sleep(700);
    await upgraded(proxy);
  }
}

async function reloads(proxy) {
  for (const n of range(ROUNDS)) {
    const before = pidsOf(await steady(proxy, 2));
    const changed = config()(proxy);
    changed.apps.web.env = { ROUND: String(n) };
    configure(proxy, changed);
    await succeed(proxy, ['reload']);
    await steady(proxy, 2, { fits: list => list.every(worker => !before.includes(worker.pid)) });
  }
}

for (const [name, body, needs] of [['upgrade', upgrades, needsUpgrade], ['reload', reloads, {}]]) {
  test(`${name} under h2load: no request fails`, { ...options, ...needs, ...(noH2load && { skip: noH2load }) }, t =>
    withProxy(config(), {}, async proxy => {
      const cut = await underLoad(t, proxy, () => body(proxy));
      if (name === 'upgrade') assert.ok(cut >= 1, 'a run met a GOAWAY');
    }));

  test(`${name} beside a careful client: no request fails`, { ...options, ...needs }, t =>
    withProxy(config(), {}, async proxy => {
      const client = new Client(proxy.port);
      await client.run(() => body(proxy));
      client.check(t);
    }));
}

test('upgrade: the old process says GOAWAY, ends its streams and goes', { ...options, ...needsUpgrade }, () =>
  withProxy(config(), {}, async proxy => {
    const session = connect(proxy.port);
    try {
      await ask(session);
      const late = ask(session, { ':path': '/slow?ms=1500' });
      const old = proxy.pid;
      await upgraded(proxy);
      const answer = await late;
      assert.deepEqual([answer.status, answer.text, answer.code], [200, 'slow', 'NO_ERROR']);
      await until(() => session.destroyed, { what: 'the end of the connection', timeout: 5000 });
      assert.equal(session.goawayCode, 0);
      await proxy.gone(old, { timeout: 5000 });
      await alone(proxy);
    } finally {
      session.destroy();
    }
  }));

test('SIGTERM: GOAWAY, and streams are finished', options, () =>
  withProxy(config(), {}, async proxy => {
    const session = connect(proxy.port);
    try {
      await ask(session);
      const late = [ask(session, { ':path': '/slow?ms=800' }), ask(session, { ':path': '/big?kib=2000' })];
      const goaway = within(10_000, 'GOAWAY', new Promise(resolve => session.once('goaway', resolve)));
      process.kill(proxy.pid, 'SIGTERM');
      assert.equal(await goaway, 0);
      for (const answer of await Promise.all(late)) assert.deepEqual([answer.status, answer.code, answer.ended], [200, 'NO_ERROR', true]);
      await until(() => session.destroyed, { what: 'the end of the connection' });
    } finally {
      session.destroy();
    }
  }));

test('keepalive_timeout: GOAWAY, then the end; not while a stream is open', options, () =>
  withProxy(config({ limits: { keepalive_timeout: '500ms' } }), {}, proxy =>
    withSession(proxy.port, async session => {
      const answer = await ask(session, { ':path': '/slow?ms=1500' });
      assert.deepEqual([answer.status, answer.text], [200, 'slow']);
      await until(() => session.destroyed, { what: 'the end of the connection', timeout: 8000 });
      assert.deepEqual([session.goawayCode, session.trouble], [0, []]);
    })));
