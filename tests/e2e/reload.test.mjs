// New code, new numbers and new rules for a proxy under load: what it costs its clients is nothing.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { Load } from './lib/load.mjs';
import { configure, needsProxy, withProxy } from './lib/proxy.mjs';
import { Releases, Watch, command, conf, describe, pidsOf, ready, refuse, statusByCommand, steady, succeed, workers } from './lib/steer.mjs';
import { range, until } from './lib/wait.mjs';

/** As Map.groupBy of Node.js 21. */
const groupBy = (items, key) => {
  const groups = new Map();
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item]);
  return groups;
};

const options = { timeout: 120_000, ...needsProxy };
const WINDOW = 1200;

/** An app in `releases/current`, whose first release is r1. */
const config = (app = {}, more = {}) => proxy => {
  // What is written anew is new code.
  proxy.releases ??= new Releases(proxy).deploy('r1');
  return {
    ...more,
    apps: { web: { script: 'app.js', cwd: proxy.releases.current, instances: 3, min_ready: '200ms', drain_window: `${WINDOW}ms`, drain_timeout: '2s', ...app } },
  };
};

const releaseNow = async proxy => (await request(proxy.port, { path: '/release' })).json;
const generations = list => [...new Set(list.map(worker => worker.generation))];

/** Every worker is another, of one newer generation, and runs this release. */
async function replaced(proxy, { old, oldGeneration, release, count = 3 }) {
  const now = await steady(proxy, count, { fits: list => generations(list).length === 1 && generations(list)[0] > oldGeneration });
  for (const pid of pidsOf(now)) assert.ok(!old.includes(pid), `${pid} is an old worker`);
  for (const _ of range(6)) assert.equal((await releaseNow(proxy)).release, release);
  return now;
}

/** What a rollout costs the load: nothing but sessions of workers that went. */
function unharmed(t, load, gone) {
  t.diagnostic(load.summary());
  assert.deepEqual(load.failed, [], 'no request or connection fails');
  assert.deepEqual(load.endsNotOf(gone), [], 'only sessions of workers that went have ended');
  const raw = load.ends.filter(end => end.kind === 'raw');
  assert.deepEqual([...new Set(raw.map(end => end.code))].filter(code => code !== 1012), [], 'WebSockets are closed with 1012');
  return raw;
}

/** The WebSockets of each worker that went were closed over the window, not all at once. */
function paced(t, raw) {
  const byWorker = groupBy(raw, end => end.pid);
  for (const [pid, ends] of byWorker) {
    const at = ends.map(end => end.at).sort((a, b) => a - b);
    const span = at.at(-1) - at[0];
    t.diagnostic(`${ends.length} WebSockets of ${pid} closed over ${Math.round(span)} ms: ${at.map(time => Math.round(time - at[0]))}`);
    if (ends.length < 5) continue;
    assert.ok(span >= WINDOW * 0.3, `${ends.length} closed within ${Math.round(span)} ms`);
    assert.ok(span <= WINDOW * 2, `${ends.length} closed over ${Math.round(span)} ms`);
  }
}

test('new code: by SIGHUP, then by the command, under every kind of load', options, t =>
  withProxy(config(), async proxy => {
    const load = await new Load(proxy, { raw: 24 }).start();
    const gone = [];
    let before = await steady(proxy, 3);
    for (const [how, release] of [['SIGHUP', 'r2'], ['the command', 'r3']]) {
      const from = load.ends.length;
      const watch = new Watch(proxy);
      const [oldGeneration] = generations(before);
      const old = pidsOf(before);
      proxy.releases.deploy(release);
      const started = performance.now();
      if (how === 'SIGHUP') {
        process.kill(proxy.child.pid, 'SIGHUP');
      } else {
        const { out, ms } = await succeed(proxy, ['reload']);
        t.diagnostic(`reload: ${out.trim()} (${Math.round(ms)} ms)`);
        // It is answered when the new workers serve; the old ones may still be leaving.
        for (const worker of await ready(proxy)) assert.ok(worker.generation > oldGeneration, describe([worker]));
      }
      before = await replaced(proxy, { old, oldGeneration, release });
      t.diagnostic(`${how}: old workers gone after ${Math.round(performance.now() - started)} ms`);
      gone.push(...old);
      await load.settled(pidsOf(before));
      await load.more();
      await watch.end();
      assert.ok(watch.fewestReady >= 3, `at least 3 workers ready at any time, not ${watch.fewestReady}`);
      assert.ok(watch.mostProcesses <= 4, `one worker more at a time, not ${watch.mostProcesses - 3}`);
      const raw = unharmed(t, load, gone).slice();
      const ends = load.ends.slice(from);
      const again = ends.length - new Set(load.visitors.filter(visitor => visitor.ends.some(end => ends.includes(end)))).size;
      t.diagnostic(`${how}: ${ends.length} sessions ended, ${again} of them not for the first time in this reload`);
      paced(t, raw.filter(end => ends.includes(end)));
    }
    const told = await statusByCommand(proxy);
    assert.deepEqual(generations(told.apps[0].workers), [3], 'generations count up');
    unharmed(t, await load.stop(), gone);
  }));

const EXITS = "console.log('about to start'); console.error('cannot start: the schema is older than this release'); process.exit(9);";
const NEVER = "console.error('waiting for a lock that nobody gives back'); setInterval(() => {}, 60_000);";
const THIRD = `if (process.env.NODE_APP_INSTANCE === '2') { ${EXITS} }`;
const LATER = "process.on('uncaughtException', error => { console.error('boom:', error.message); process.exit(4); }); setTimeout(() => { throw new Error('config is missing'); }, 100);";

test('bad code: the old generation serves on, the reason is told', options, t =>
  withProxy(config({ start_timeout: '3s', stop_timeout: '2s' }), async proxy => {
    const load = await new Load(proxy, { raw: 6 }).start();
    const before = await steady(proxy, 3);
    const old = pidsOf(before);
    const gone = [];
    const [generation] = generations(before);

    const bad = [
      ['exits at boot', EXITS, false, /exited with code 9/, /cannot start: the schema is older/],
      ['throws a little later', LATER, false, /exited with code 4/, /boom: config is missing/],
      ['never listens', NEVER, false, /not ready within 3s/, /a lock that nobody gives back/],
    ];
    for (const [name, code, runs, reason, words] of bad) {
      proxy.releases.deploy(name.replaceAll(' ', '-'), code, runs);
      const { err, ms } = await refuse(proxy, ['reload']);
      t.diagnostic(`${name}, after ${Math.round(ms)} ms: ${err.trim().replaceAll('\n', ' / ')}`);
      assert.match(err, reason, name);
      assert.match(err, words, `${name}: its stderr is shown`);
      const now = await steady(proxy, 3);
      assert.deepEqual([pidsOf(now), generations(now)], [old, [generation]], `${name}: not one worker changed`);
      assert.equal((await releaseNow(proxy)).release, 'r1');
    }
    await load.more();
    assert.deepEqual(unharmed(t, load, []).length, 0, 'no session noticed anything');

    // `current` still leads to the bad code: who starts again starts the old one.
    gone.push(old[0]);
    proxy.kill(old[0]);
    const again = await steady(proxy, 3, { fits: list => !pidsOf(list).includes(old[0]) });
    assert.deepEqual(generations(again), [generation]);
    const seen = new Map();
    await until(async () => {
      const told = await releaseNow(proxy);
      seen.set(told.pid, told.release);
      return seen.size === 3;
    }, { what: 'answers of all three' });
    assert.deepEqual([...new Set(seen.values())], ['r1'], 'a worker that is started again runs the old code');
    assert.deepEqual(load.endsNotOf(gone), []);

    // Two are replaced already when the third fails: they go back.
    const watch = new Watch(proxy);
    proxy.releases.deploy('third-fails', THIRD);
    const { err } = await refuse(proxy, ['reload']);
    t.diagnostic(`third fails: ${err.trim().replaceAll('\n', ' / ')}`);
    assert.match(err, /exited with code 9/);
    assert.match(err, /cannot start: the schema is older/);
    await steady(proxy, 3, { fits: list => generations(list).length === 1 && generations(list)[0] === generation });
    await load.settled(pidsOf(await ready(proxy)));
    await load.more();
    await watch.end();
    assert.ok(watch.fewestReady >= 3, `at least 3 workers ready at any time, not ${watch.fewestReady}`);
    for (const _ of range(6)) assert.equal((await releaseNow(proxy)).release, 'r1');
    const living = pidsOf(await ready(proxy));
    await load.stop();
    t.diagnostic(load.summary());
    // A SIGKILL may break what was on its way in sockets of that worker; all else must be whole.
    assert.deepEqual(load.failed, []);
    assert.deepEqual(load.ends.filter(end => living.includes(end.pid)), [], 'no session of a worker that lives has ended');

    // Good code rolls out after all that.
    proxy.releases.deploy('r2');
    await succeed(proxy, ['reload']);
    assert.equal((await releaseNow(proxy)).release, 'r2');
  }));

test(`code that takes ${process.env.SLOW ? 6 : 3} s to start: nobody is refused`, options, t =>
  withProxy(config({ instances: 2 }), async proxy => {
    const load = await new Load(proxy, { raw: 6, polling: 3, websocket: 3 }).start();
    const before = await steady(proxy, 2);
    const watch = new Watch(proxy);
    const seconds = process.env.SLOW ? 6 : 3;
    proxy.releases.make('slow', `setTimeout(() => require(${JSON.stringify(proxy.releases.app)}), ${seconds * 1000});`, false);
    proxy.releases.point('slow');
    await succeed(proxy, ['reload']);
    const after = await replaced(proxy, { old: pidsOf(before), oldGeneration: 1, release: 'slow', count: 2 });
    await load.settled(pidsOf(after));
    await load.more();
    await watch.end();
    assert.ok(watch.fewestReady >= 2, `${watch.fewestReady} ready`);
    unharmed(t, await load.stop(), pidsOf(before));
  }));

test('a reload during a reload: the newer one wins', options, t =>
  withProxy(config({ instances: 2 }), async proxy => {
    const load = await new Load(proxy, { raw: 6, polling: 3, websocket: 3 }).start();
    const before = await steady(proxy, 2);
    // The first one can never come to its end.
    proxy.releases.deploy('r2', NEVER, false);
    const first = command(proxy, ['reload']);
    await until(async () => (await workers(proxy)).some(worker => worker.generation === 2 && worker.pid), { what: 'a worker of the first reload' });
    proxy.releases.deploy('r3');
    const second = await succeed(proxy, ['reload']);
    const { code, err } = await first;
    t.diagnostic(`first: exit code ${code}, ${err.trim()}; second: ${second.out.trim()}`);
    assert.equal(code, 1);
    assert.match(err, /newer/);
    const after = await replaced(proxy, { old: pidsOf(before), oldGeneration: 2, release: 'r3', count: 2 });
    await load.settled(pidsOf(after));
    unharmed(t, await load.stop(), pidsOf(before));
  }));

test('a configuration with mistakes: all of it is refused, everything goes on', options, t =>
  withProxy(
    proxy => {
      const made = config({ instances: 2 })(proxy);
      return { ...made, apps: { ...made.apps, other: { script: './http.js' } }, routes: [{ path: '/', app: 'web' }, { path: '/other', app: 'other' }] };
    },
    async proxy => {
      const load = await new Load(proxy, { raw: 4, polling: 2, websocket: 2 }).start();
      const before = [...(await steady(proxy, 2)), ...(await steady(proxy, 1, { app: 'other' }))];
      const good = readFileSync(conf(proxy), 'utf8');
      // The other app would change, the first one would roll out, were it not for the mistake.
      proxy.releases.deploy('r2');
      const mistakes = [
        [good.replace('instances: 2', 'instances: many').replace('http.js', 'express.js'), /conf\.yaml:\d+:\d+: .*instances/],
        [good.replace('http.js', 'not-there.js'), /not-there\.js/],
        ['apps: [', /conf\.yaml/],
        [`${good}\nunknown_key: 1\n`, /unknown_key/],
      ];
      for (const [text, words] of mistakes) {
        assert.notEqual(text, good);
        writeFileSync(conf(proxy), text);
        const { err } = await refuse(proxy, ['reload']);
        assert.match(err, words);
        process.kill(proxy.child.pid, 'SIGHUP');
      }
      // The log of a SIGHUP names the mistakes too.
      await proxy.line(/unknown_key/);
      const now = [...(await workers(proxy)), ...(await workers(proxy, 'other'))];
      assert.deepEqual(pidsOf(now), pidsOf(before));
      assert.equal((await releaseNow(proxy)).release, 'r1');
      await load.more();
      assert.deepEqual(load.ends, []);

      // Repaired: what waited is done; the other app is not touched.
      writeFileSync(conf(proxy), good);
      await succeed(proxy, ['reload']);
      assert.equal((await releaseNow(proxy)).release, 'r2');
      assert.deepEqual(pidsOf(await workers(proxy, 'other')), pidsOf(before.slice(2)));
      await steady(proxy, 2);
      unharmed(t, await load.stop(), pidsOf(before));
    },
  ));

test('nothing new: a reload changes no worker, and says so', options, () =>
  withProxy(config({ instances: 2 }), async proxy => {
    const before = await steady(proxy, 2);
    const { out } = await succeed(proxy, ['reload']);
    assert.match(out, /unchanged|nothing/i);
    assert.deepEqual(pidsOf(await steady(proxy, 2)), pidsOf(before));
  }));

test('routes, limits and numbers change without touching a connection', options, t =>
  withProxy(config({ instances: 2 }), async proxy => {
    const load = await new Load(proxy, { raw: 6, polling: 3, websocket: 3, keepAlive: 2 }).start();
    const before = await steady(proxy, 2);
    const own = path => request(proxy.port, { path, headers: { host: 'other.example' } });
    assert.equal((await own('/env')).status, 404, 'the first app has no such page');
    assert.equal((await request(proxy.port, { method: 'POST', path: '/pid', body: 'x'.repeat(5000) })).status, 200);
    const made = config({ instances: 3 })(proxy);
    configure(proxy, {
      ...made,
      apps: { ...made.apps, other: { script: './http.js' } },
      routes: [{ path: '/', app: 'web' }, { host: 'other.example', app: 'other' }],
      limits: { body_size: '1kib' },
    });
    await succeed(proxy, ['reload']);
    const now = await steady(proxy, 3);
    for (const pid of pidsOf(before)) assert.ok(pidsOf(now).includes(pid), 'the old workers are there');
    assert.equal((await own('/env')).status, 200, 'a new app behind a new route');
    assert.equal((await request(proxy.port, { method: 'POST', path: '/pid', body: 'x'.repeat(5000) })).status, 413);

    // And back: the app goes, and its process with it.
    configure(proxy, config({ instances: 2 })(proxy));
    await succeed(proxy, ['reload']);
    await until(() => proxy.workerProcesses().every(({ command: line }) => !line.startsWith('other')), { what: "the other app's end" });
    assert.equal((await own('/env')).status, 404);
    await load.more();
    assert.deepEqual(unharmed(t, await load.stop(), []).length, 0);
  }));

test('restart: all workers are replaced by the same code', options, t =>
  withProxy(config({ instances: 2 }), async proxy => {
    const load = await new Load(proxy, { raw: 6, polling: 3, websocket: 3 }).start();
    const before = await steady(proxy, 2);
    const { out } = await succeed(proxy, ['restart', 'web']);
    t.diagnostic(out.trim());
    const after = await replaced(proxy, { old: pidsOf(before), oldGeneration: 1, release: 'r1', count: 2 });
    await load.settled(pidsOf(after));
    await load.more();
    unharmed(t, await load.stop(), pidsOf(before));
  }));

test('scale APP N, +1, -1, auto', options, t =>
  withProxy(config({ instances: 2 }), async proxy => {
    const load = await new Load(proxy, { polling: 4, websocket: 4, raw: 4 }).start();
    const first = pidsOf(await steady(proxy, 2));
    const steps = [['4', 4], ['+1', 5], ['-1', 4], ['2', 2], ['auto', 2]];
    for (const [to, count] of steps) {
      const { out, ms } = await succeed(proxy, ['scale', 'web', to]);
      t.diagnostic(`scale web ${to}: ${out.trim()} (${Math.round(ms)} ms)`);
      assert.equal((await ready(proxy)).length, count, `${to}: ${count} workers take sessions when the command returns`);
      await steady(proxy, count);
    }
    // Those with sessions stayed.
    assert.deepEqual(pidsOf(await steady(proxy, 2)), first);
    await load.more();
    assert.deepEqual(unharmed(t, await load.stop(), []).length, 0);
    for (const to of ['0', '2000']) assert.notEqual((await command(proxy, ['scale', 'web', to])).code, 0, to);
    await refuse(proxy, ['scale', 'web', '-5']);
    assert.deepEqual(pidsOf(await steady(proxy, 2)), first);
  }));
