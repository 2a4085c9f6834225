// The ends of HTTP/2 connections that are not the client's wish: GOAWAY first, and nothing that was asked is lost.

import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import test from 'node:test';
import { withFrameRelay } from './lib/frame-relay.mjs';
import { CODE, FLAG, Frames, TYPE, frame, get } from './lib/frames.mjs';
import { alone, upgraded } from './lib/handoff.mjs';
import { ask, connect, isUntouched, withSession } from './lib/http2.mjs';
import { configure, needsProxy, needsUpgrade, withProxy } from './lib/proxy.mjs';
import { pidsOf, steady, succeed } from './lib/steer.mjs';
import { range, sleep, until, within } from './lib/wait.mjs';

const ROUNDS = process.env.SLOW ? 6 : 2;
/** Of h2load. */
const CLIENTS = 6;
/** How long a frame is on its way, in ms: each client sends a request every 25 ms, so that some are under way when a GOAWAY is written. */
const DELAY = 25;
/** The last stream of a first, graceful GOAWAY (RFC 9113, section 6.8). */
const ANY_STREAM = 2 ** 31 - 1;
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
 * h2load while `body` runs, through a relay that notes every frame. It does not connect again after GOAWAY but counts all that is left as
 * failed: so it runs again and again. Returns how many requests crossed a GOAWAY on the way.
 */
async function underLoad(t, proxy, body) {
  const runs = await withFrameRelay(proxy.port, { delay: DELAY }, async relay => {
    let over = false;
    const runs = [];
    const loading = (async () => {
      while (!over) {
        const before = relay.connections.length;
        const run = await loadOnce(relay.port);
        await relay.quiet();
        runs.push({ ...run, connections: relay.connections.slice(before) });
      }
    })();
    try {
      await body();
      await sleep(500);
    } finally {
      over = true;
      await loading;
    }
    return runs;
  });
  const judged = runs.map(judge);
  const sum = (list, name) => list.reduce((all, one) => all + one[name], 0);
  const asked = sum(judged, 'asked');
  const told = judged.filter(run => run.goaways > 0).length;
  const crossed = sum(judged, 'crossed');
  t.diagnostic(`${runs.length} runs, ${asked} requests on the wire, ${sum(runs, 'succeeded')} succeeded; ${sum(runs, 'started') - asked} never sent`);
  t.diagnostic(`${told} runs met a GOAWAY, ${crossed} requests crossed one on the way`);
  assert.ok(asked > 100, runs.at(-1).out);
  return crossed;
}

/**
 * Asserts that every request which h2load sent in a run was answered, and that each connection was ended in order.
 *
 * Only frames can tell. h2load queues a request when its timer fires, counts it as started, and reads before it writes: a GOAWAY that it
 * reads in that turn, whichever stream that names, keeps nghttp2 from sending what is queued (session_predicate_request_headers_send), and
 * h2load counts it as failed. This also befalls it with a server that takes streams for ever after its first GOAWAY.
 */
function judge({ connections, out, ...run }) {
  const accounts = connections.map(account);
  const all = name => accounts.flatMap(one => one[name]);
  const asked = all('requests').length;
  const goaways = all('goaways').length;
  assert.deepEqual(all('lost'), [], out);
  assert.deepEqual(all('wrong'), [], out);
  assert.deepEqual([run.succeeded, run.timeout], [asked, 0], out);
  if (goaways === 0) assert.deepEqual([asked, run.started], [run.total, run.total], out);
  assert.deepEqual([run.done, run.failed], [run.started, run.total - asked], out);
  assert.match(out, /^status codes: \d+ 2xx, 0 3xx, 0 4xx, 0 5xx$/m);
  return { asked, goaways, crossed: all('crossed').length };
}

/** What a connection's frames say: the streams that were asked for, those without a whole answer, and what was wrong at its end. */
function account({ frames, error }) {
  const from = (side, ...types) => frames.filter(frame => frame.from === side && types.includes(frame.type));
  const requests = from('client', TYPE.headers).map(frame => frame.stream);
  const resets = from('server', TYPE.reset).map(frame => frame.stream);
  const ended = from('server', TYPE.headers, TYPE.data).filter(frame => frame.flags & FLAG.endStream).map(frame => frame.stream);
  // h2load says GOAWAY itself when it has all its answers, and gets one in return.
  const before = (one, other) => Boolean(one) && frames.indexOf(one) < frames.indexOf(other);
  const [leave] = from('client', TYPE.goaway);
  const pong = from('client', TYPE.ping).find(frame => frame.flags & FLAG.ack);
  const goaways = from('server', TYPE.goaway).filter(frame => !before(leave, frame));
  const wrong = goaways.filter((frame, n) => {
    const [last, code] = [frame.payload.readUInt32BE(0), frame.payload.readUInt32BE(4)];
    const fits = n === 0 ? last === ANY_STREAM : before(pong, frame) && last === Math.max(0, ...requests);
    return code !== CODE.noError || !fits;
  });
  return {
    requests,
    goaways,
    crossed: from('client', TYPE.headers).filter(frame => before(goaways[0], frame)),
    lost: requests.filter(stream => !ended.includes(stream) || resets.includes(stream)),
    wrong: [...wrong.map(frame => `GOAWAY ${frame.payload.toString('hex')}, requests ${requests}`), ...(error?.startsWith('server') ? [error] : [])],
  };
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
      if (answer.status === 200 && answer.ended) this.done += 1;
      else if (isUntouched(session, answer)) this.again += 1;
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
      const crossed = await underLoad(t, proxy, () => body(proxy));
      if (name === 'upgrade') assert.ok(crossed >= 1, 'no request was under way to a GOAWAY');
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

/** A client by hand, told to go by SIGTERM. `body` gets it; `goaways(n)`: waits for that many, returns their last streams; `answered(stream)`; `end()`. */
const toldToGo = body => withProxy(config(), {}, async proxy => {
  const client = await Frames.connect(proxy.port);
  const answered = async stream => (await client.frames()).some(frame => frame.stream === stream && frame.flags & FLAG.endStream);
  const goaways = count => until(async () => {
    const found = (await client.frames()).filter(({ type }) => type === TYPE.goaway).map(({ payload }) => payload.readUInt32BE(0));
    return found.length >= count && found;
  }, { what: `${count} GOAWAY` });
  try {
    client.write(get(1, '/pid'));
    await until(() => answered(1), { what: 'an answer' });
    process.kill(proxy.pid, 'SIGTERM');
    assert.equal((await goaways(1))[0], ANY_STREAM);
    await body({ client, goaways, answered, end: () => until(() => client.closed, { what: 'the end of the connection' }) });
  } finally {
    client.destroy();
  }
});

test('GOAWAY: requests sent before the answer to its PING are served, and the last GOAWAY names the last of them', options, () =>
  toldToGo(async ({ client, goaways, answered, end }) => {
    const ping = await until(async () => (await client.frames()).find(({ type }) => type === TYPE.ping), { what: 'a PING' });
    client.write(get(3, '/slow?ms=300'), get(5, '/pid'));
    await until(() => answered(5), { what: 'an answer after GOAWAY' });
    client.write(get(7, '/pid'), frame(TYPE.ping, FLAG.ack, 0, ping.payload), get(9, '/pid'));
    assert.deepEqual(await goaways(2), [ANY_STREAM, 7]);
    for (const stream of [3, 7]) await until(() => answered(stream), { what: `the answer of ${stream}` });
    await end();
    assert.equal(await answered(9), false);
  }));

test('GOAWAY: a client that does not answer its PING learns which requests were not carried out', options, () =>
  toldToGo(async ({ client, goaways, answered, end }) => {
    assert.deepEqual(await goaways(2), [ANY_STREAM, 1]);
    client.write(get(3, '/pid'));
    await end();
    assert.equal(await answered(3), false);
  }));

test('keepalive_timeout: GOAWAY, then the end; not while a stream is open', options, () =>
  withProxy(config({ limits: { keepalive_timeout: '500ms' } }), {}, proxy =>
    withSession(proxy.port, async session => {
      const answer = await ask(session, { ':path': '/slow?ms=1500' });
      assert.deepEqual([answer.status, answer.text], [200, 'slow']);
      await until(() => session.destroyed, { what: 'the end of the connection', timeout: 8000 });
      assert.deepEqual([session.goawayCode, session.trouble], [0, []]);
    })));
