// The proxy is replaced while everybody is connected: nobody notices.

import assert from 'node:assert/strict';
import { copyFileSync, existsSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import test from 'node:test';
import { Lines, alone, byHand, ended, leaves, owned, ownsAll, refused, untouched, upgraded, waiting } from './lib/handoff.mjs';
import { socketsOf } from './lib/connections.mjs';
import { request } from './lib/http.mjs';
import { BIN, alive, configure, freePort, needsUpgrade, withProxy } from './lib/proxy.mjs';
import { besiege, siegeApp } from './lib/siege.mjs';
import { command, conf, describe, pidsOf, ready, refuse, status, steady, succeed, workers } from './lib/steer.mjs';
import { range, sleep, until } from './lib/wait.mjs';

const options = { timeout: 180_000, ...needsUpgrade };
const UPGRADES = 5;
/** From a process's last request to its end. */
const LINGER = 2000;

const one = (app, more = {}) => proxy => ({ apps: { web: siegeApp(proxy, app) }, ...more });
const small = { share: 0.15 };
/** Requests all the time while `body` runs; none may fail. The first lane takes new connections, the others keep theirs. */
async function asking(proxy, lanes, body) {
  const agent = new http.Agent({ keepAlive: true });
  const failed = [];
  let over = false;
  const going = range(lanes).map(async lane => {
    for (let n = 0; !over; n++) {
      const answer = await request(proxy.port, { path: `/ask?id=${lane}.${n}&ms=5`, agent: lane > 0 && agent }).catch(error => ({ status: error.message }));
      if (answer.status !== 200) failed.push(`${lane}.${n}: ${answer.status}`);
      await sleep(10);
    }
  });
  try {
    await body();
  } finally {
    over = true;
    await Promise.all(going);
    agent.destroy();
  }
  assert.deepEqual(failed, []);
}

/** The end of a worker in the log. How a process ended is told to its parent only, so it may just have "exited". */
const ends = pid => new RegExp(`pid ${pid}\\): (killed by|exited)`);

const of = (list, slot) => list.find(worker => worker.slot === slot);

test('five upgrades in a row under siege: nobody notices', options, t =>
  withProxy(one({ env: { LINES_MS: '50' } }), async proxy => {
    const lines = new Lines(proxy);
    const before = pidsOf(await steady(proxy, 2));
    await besiege(t, proxy, { share: Number(process.env.SIEGE_SHARE ?? 1) }, async siege => {
      const leaving = [];
      for (const n of range(UPGRADES)) {
        const step = await upgraded(proxy);
        leaving.push(leaves(siege, step));
        leaving.at(-1).catch(() => {});
        const moved = await owned(siege, step);
        t.diagnostic(`upgrade ${n + 1}: ${Math.round(step.ms)} ms, ${moved} WebSockets moved`);
        assert.deepEqual(pidsOf(await workers(proxy)), before, 'the same workers');
        await siege.more();
        assert.deepEqual(siege.lost, []);
      }
      const lingered = await Promise.all(leaving);
      t.diagnostic(`old processes gone ${lingered} ms after their last request`);
      assert.ok(Math.max(...lingered) < LINGER, `gone ${lingered} ms after the last request`);
      await siege.more();
      ownsAll(proxy, proxy.pid);
      assert.deepEqual(siege.pids, before);
    });
    assert.deepEqual(pidsOf(await steady(proxy, 2)), before);
    assert.deepEqual(proxy.ended, { code: 0, signal: null }, 'the first process ends well');
    await alone(proxy);
    t.diagnostic(`${lines.check()} lines of the workers`);
  }));

test('by hand: -u, then SIGQUIT to the old process, twice', options, t =>
  withProxy(one(), async proxy => {
    const before = pidsOf(await steady(proxy, 2));
    await besiege(t, proxy, small, async siege => {
      for (const _ of range(2)) {
        const step = await byHand(proxy);
        const leaving = leaves(siege, step);
        leaving.catch(() => {});
        await owned(siege, step);
        const lingered = await leaving;
        assert.ok(lingered < LINGER, `gone ${lingered} ms after its last request`);
        await siege.more();
      }
    });
    assert.deepEqual(pidsOf(await steady(proxy, 2)), before);
    assert.deepEqual(proxy.ended, { code: 0, signal: null });
  }));

test('SIGQUIT while nobody waits: a warning, and nothing changes', options, () =>
  withProxy(one(), async proxy => {
    const before = await status(proxy);
    for (const n of [1, 2]) {
      const from = performance.now();
      proxy.kill(proxy.pid, 'SIGQUIT');
      await proxy.line(/SIGQUIT|successor/, { from });
      await untouched(proxy, before);
      assert.equal((await request(proxy.port, { path: `/ask?id=${n}` })).status, 200);
    }
    // And the next one, with a successor, works.
    await byHand(proxy);
  }));

test('a successor that waits ends with its predecessor; a second one is refused', options, () =>
  withProxy(one(), async proxy => {
    const first = await waiting(proxy);
    const second = proxy.candidate();
    const { code } = await ended(second);
    assert.notEqual(code, 0);
    await proxy.line(new RegExp(`process ${first.pid} waits as successor already`));
    const { err } = await refuse(proxy, ['upgrade']);
    assert.match(err, new RegExp(`process ${first.pid} waits as successor already, .*SIGQUIT to ${proxy.pid}`));
    assert.equal((await status(proxy)).pid, proxy.pid);
    proxy.kill(proxy.pid, 'SIGTERM');
    assert.notEqual((await ended(first)).code, 0, 'there was nothing to take over');
  }));

test('-u without a proxy: an error that says what to do', options, () =>
  withProxy(one(), async proxy => {
    proxy.kill(proxy.pid, 'SIGTERM');
    await proxy.exit;
    const candidate = proxy.candidate();
    assert.deepEqual(await ended(candidate), { code: 1, signal: null });
    await proxy.line(/no proxy to take over from/);
  }));

test('a configuration that is bad, or a listener that is taken: the reason is told, nothing changes', options, () =>
  withProxy(one(), async proxy => {
    const good = readFileSync(conf(proxy), 'utf8');
    writeFileSync(conf(proxy), good.replace('instances', 'instanecs'));
    await refused(proxy, /unknown key "instanecs"/);
    writeFileSync(conf(proxy), good.replace('siege.js', 'missing.js'));
    await refused(proxy, /missing\.js/);
    const other = net.createServer();
    await new Promise(resolve => other.listen(0, '127.0.0.1', resolve));
    try {
      const { port } = other.address();
      configure(proxy, { ...one()(proxy), listeners: [{ address: `127.0.0.1:${proxy.port}` }, { address: `127.0.0.1:${port}` }] });
      await refused(proxy, new RegExp(`${port}`));
    } finally {
      other.close();
    }
    writeFileSync(conf(proxy), good);
    await upgraded(proxy);
  }));

test('a changed configuration: new environment, app, route and listener come with the upgrade', options, async () => {
  const second = await freePort();
  await withProxy(one({ env: { COLOUR: 'red' }, min_ready: '100ms' }), async proxy => {
    const before = pidsOf(await steady(proxy, 2));
    const colour = async (port = proxy.port) => JSON.parse((await request(port, { path: '/env' })).text).env.COLOUR;
    assert.equal(await colour(), 'red');
    const made = one({ env: { COLOUR: 'blue' }, min_ready: '100ms' })(proxy);
    configure(proxy, {
      apps: { ...made.apps, other: { script: './http.js' } },
      routes: [{ path: '/', app: 'web' }, { host: 'other.example', app: 'other' }],
      listeners: [{ address: `127.0.0.1:${proxy.port}` }, { address: `127.0.0.1:${second}` }],
    });
    let now;
    await asking(proxy, 2, async () => {
      await upgraded(proxy);
      now = await steady(proxy, 2, { app: 'web', timeout: 40_000, fits: list => list.every(worker => !before.includes(worker.pid)) });
    });
    assert.deepEqual([...new Set(now.map(worker => worker.generation))], [2]);
    assert.equal(await colour(), 'blue');
    assert.equal(await colour(second), 'blue', 'the new listener');
    await until(async () => (await request(proxy.port, { path: '/head', headers: { host: 'other.example' } })).status === 200, { what: 'the new app' });

    // A listener that goes.
    configure(proxy, { ...made, listeners: [{ address: `127.0.0.1:${second}` }] });
    await upgraded(proxy);
    await until(() => request(proxy.port, { path: '/env' }).then(() => false, error => error.code === 'ECONNREFUSED'), { what: 'the old listener gone' });
    assert.equal(await colour(second), 'blue');
    await until(async () => (await status(proxy)).apps.length === 1, { what: "the other app's end" });
    assert.deepEqual(pidsOf(await steady(proxy, 2, { app: 'web' })), pidsOf(now));
  });
});

test('the socket for commands moves: the old one goes, and --socket finds the proxy that still has it', options, () =>
  withProxy(one(), async proxy => {
    const [first, second] = [path.join(proxy.runtime, 'admin.sock'), path.join(proxy.dir, 'second.sock')];
    const made = one()(proxy);
    configure(proxy, { ...made, admin: { socket: second } });
    await refused(proxy, /no proxy runs at .*second\.sock; .*--socket PATH/);
    assert.equal((await proxy.upgrade({ args: ['--socket', first] })).code, 0);
    await until(() => !existsSync(first), { what: 'the old socket gone' });
    assert.match((await command(proxy, ['status'])).out, new RegExp(`pid ${proxy.pid},`));
    configure(proxy, made);
    await upgraded(proxy, { args: ['--socket', second] });
    await until(() => !existsSync(second), { what: 'the second socket gone' });
    await alone(proxy);
  }));

test('another binary: from a new path, and from one that was replaced', options, () =>
  withProxy(one(), async proxy => {
    const before = pidsOf(await steady(proxy, 2));
    const exe = () => proxy.processes().find(process => process.pid === proxy.pid).exe;
    const binary = proxy.file('bin/proxy');
    proxy.file('bin/.keep', '');
    copyFileSync(BIN, binary);
    await upgraded(proxy, { binary });
    assert.equal(exe(), binary);
    copyFileSync(BIN, `${binary}.new`);
    renameSync(`${binary}.new`, binary);
    await upgraded(proxy, { binary });
    assert.equal(exe(), binary);
    rmSync(binary);
    await upgraded(proxy);
    assert.equal(exe(), BIN);
    assert.deepEqual(pidsOf(await steady(proxy, 2)), before);
    await alone(proxy);
  }));

test('in the middle of a reload: it goes on, and no request fails', options, t =>
  withProxy(one({ instances: 3, min_ready: '700ms', drain_timeout: '5s' }), async proxy => {
    const before = await steady(proxy, 3);
    configure(proxy, one({ instances: 3, min_ready: '700ms', drain_timeout: '5s', env: { COLOUR: 'green' } })(proxy));
    await asking(proxy, 3, async () => {
      const reload = command(proxy, ['reload']);
      await until(async () => (await workers(proxy)).some(worker => worker.generation === 2), { what: 'the first new worker' });
      const outcome = await proxy.upgrade();
      const { code, out, err } = await reload;
      t.diagnostic(`upgrade: ${outcome.code} ${outcome.out}${outcome.err}; reload: ${code} ${out}${err}`);
      assert.equal(outcome.code, 0, outcome.err);
      const now = await steady(proxy, 3, { timeout: 40_000, fits: list => list.every(worker => worker.generation === 2) });
      for (const { pid } of before) assert.ok(!pidsOf(now).includes(pid), `${pid} was replaced`);
    });
    await alone(proxy);
  }));

test('a worker that is starting becomes ready in the new process', options, t =>
  withProxy(
    proxy => one({ min_uptime: '100ms', start_timeout: '30s', env: { SLOW_FLAG: proxy.file('slow') } })(proxy),
    async proxy => {
      const [victim, other] = pidsOf(await steady(proxy, 2));
      proxy.file('slow', '4000');
      const killed = proxy.kill(victim);
      const starting = await until(async () => (await workers(proxy)).find(worker => worker.state === 'starting' && worker.pid && worker.pid !== victim), { what: 'the next one' });
      await upgraded(proxy);
      const mid = of(await workers(proxy), starting.slot);
      assert.deepEqual([mid.pid, mid.state], [starting.pid, 'starting'], describe([mid]));
      const now = await steady(proxy, 2);
      t.diagnostic(`ready ${Math.round(performance.now() - killed)} ms after the kill`);
      assert.deepEqual(pidsOf(now), [other, starting.pid].sort((a, b) => a - b));
      assert.equal(of(now, starting.slot).restarts, 1);
      await alone(proxy);
    },
  ));

test('a worker that drains goes on draining: its last request ends first, then it goes', options, () =>
  withProxy(one({ drain_timeout: '20s', drain_window: '1s' }), async proxy => {
    const before = pidsOf(await steady(proxy, 2));
    const slow = range(6).map(n => request(proxy.port, { path: `/download?id=${n}&pieces=90&size=100&ms=100`, timeout: 30_000 }));
    await until(async () => (await workers(proxy)).reduce((sum, worker) => sum + worker.active, 0) >= 6, { what: 'six downloads' });
    // One after the other is replaced, and drains.
    const restarting = command(proxy, ['restart', 'web']);
    const draining = await until(async () => (await workers(proxy)).find(worker => worker.state === 'draining' && worker.active > 0), { what: 'a draining worker' });
    await upgraded(proxy);
    await restarting;
    assert.ok(alive(draining.pid), 'it still has a request');
    const answers = await Promise.all(slow);
    assert.deepEqual([...new Set(answers.map(answer => `${answer.status} ${answer.body.length}`))], ['200 9000']);
    await steady(proxy, 2, { timeout: 30_000, fits: list => list.every(worker => !before.includes(worker.pid)) });
    for (const pid of before) await proxy.gone(pid);
    await alone(proxy);
  }));

test('what is under way in the old process at max_drain is cut off, with a warning; a reload changes max_drain', options, () =>
  withProxy(proxy => ({ ...one()(proxy), upgrade: { max_drain: '1h' } }), async proxy => {
    await steady(proxy, 2);
    configure(proxy, { ...one()(proxy), upgrade: { max_drain: '1s' } });
    assert.equal((await command(proxy, ['reload'])).code, 0);
    const cut = request(proxy.port, { path: '/download?id=1&pieces=300&size=100&ms=100', timeout: 60_000 }).then(() => 'whole', () => 'cut');
    await until(async () => (await workers(proxy)).some(worker => worker.active > 0), { what: 'a request under way' });
    const { old } = await upgraded(proxy);
    await proxy.line(/1 connection is left after 1s \(max_drain\)/);
    assert.equal(await cut, 'cut');
    await proxy.gone(old);
    await alone(proxy);
  }));

test('back-off and crash loops are carried over with their counts', options, t =>
  withProxy(
    proxy => one({ min_uptime: '30s', backoff: { min: '6s', max: '6s' }, crash_loop: { max: 3, window: '60s', retry: '60s' }, env: { FLAG: proxy.file('down') } })(proxy),
    async proxy => {
      const [victim, other] = pidsOf(await steady(proxy, 2));
      // One crash: a pause.
      proxy.kill(victim);
      const paused = await until(async () => (await workers(proxy)).find(worker => worker.retry_seconds > 3), { what: 'a pause' });
      await upgraded(proxy);
      const still = of(await workers(proxy), paused.slot);
      t.diagnostic(`pause: ${JSON.stringify([paused.retry_seconds, still.retry_seconds, still.state, still.reason])}`);
      assert.deepEqual([still.state, still.restarts, still.failures, still.pid], [paused.state, paused.restarts, paused.failures, paused.pid]);
      assert.ok(still.retry_seconds !== null && still.retry_seconds < paused.retry_seconds, 'the pause goes on, it does not begin anew');
      const again = await steady(proxy, 2);
      assert.ok(pidsOf(again).includes(other));
      // A loop: failed, and it stays so.
      proxy.file('down', '');
      proxy.kill(of(again, paused.slot).pid);
      const failed = await until(async () => (await workers(proxy)).find(worker => worker.state === 'failed'), { timeout: 40_000, what: 'a failed slot' });
      await upgraded(proxy);
      const after = of(await workers(proxy), failed.slot);
      t.diagnostic(`loop: ${JSON.stringify([failed, after])}`);
      for (const what of ['state', 'restarts', 'failures', 'pid', 'last_exit', 'last_stderr']) assert.deepEqual(after[what], failed[what], what);
      assert.ok(after.retry_seconds > failed.retry_seconds - 20 && after.retry_seconds <= failed.retry_seconds);
      assert.deepEqual(pidsOf(await ready(proxy)), [other]);
    },
  ));

test('lines of the workers, over five upgrades: none lost, torn or doubled, on standard output and in files that rotate', options, t =>
  withProxy(
    proxy => ({
      ...one({ env: { LINES_MS: '30' } })(proxy),
      logs: { output: 'both', path: path.join(proxy.dir, 'own/{app}.{slot}.log'), rotate: { size: '20kb', keep: 200 } },
    }),
    async proxy => {
      const lines = new Lines(proxy);
      const printed = () => [...lines.workers.values()].reduce((sum, list) => sum + list.length, 0);
      for (const _ of range(UPGRADES)) {
        const from = printed();
        await upgraded(proxy);
        await until(() => printed() > from + 60, { what: 'more lines' });
      }
      await alone(proxy);
      const all = lines.check();
      const files = new Lines();
      const dir = path.join(proxy.dir, 'own');
      const age = name => Number(/\.log\.(\d+)$/.exec(name)?.[1] ?? 0);
      const names = readdirSync(dir).filter(name => name.startsWith('web.')).sort((a, b) => age(b) - age(a));
      for (const name of names) readFileSync(path.join(dir, name), 'utf8').split('\n').forEach(line => files.take(line));
      const filed = files.check('files');
      t.diagnostic(`${all} lines on standard output, ${filed} in ${names.length} files`);
      assert.equal(files.workers.size, 2);
      assert.ok(names.length > 4 && filed >= all, `${filed} lines in ${names.length} files`);
    },
  ));

test('a worker that is killed right after an upgrade is missed at once, and replaced', options, t =>
  withProxy(one({ min_uptime: '100ms' }), async proxy => {
    const [victim, other] = pidsOf(await steady(proxy, 2));
    await upgraded(proxy);
    const killed = proxy.kill(victim);
    const told = await proxy.line(ends(victim), { from: killed });
    t.diagnostic(`told after ${Math.round(told.at - killed)} ms`);
    assert.ok(told.at - killed < 2000);
    const now = await steady(proxy, 2);
    assert.ok(pidsOf(now).includes(other) && !pidsOf(now).includes(victim), describe(now));
    assert.equal(now.reduce((sum, worker) => sum + worker.restarts, 0), 1);
    // One of its own children and one it inherited, of the next process.
    await upgraded(proxy);
    for (const pid of pidsOf(now)) {
      const at = proxy.kill(pid);
      await proxy.line(ends(pid), { from: at });
    }
    await steady(proxy, 2, { fits: list => list.every(worker => !pidsOf(now).includes(worker.pid)) });
  }));

test('the commands steer the new process: scale, restart, reload', options, () =>
  withProxy(one({ min_ready: '100ms', drain_timeout: '2s', drain_window: '1s' }), async proxy => {
    const before = pidsOf(await steady(proxy, 2));
    await upgraded(proxy);
    await succeed(proxy, ['scale', 'web', '3']);
    assert.deepEqual(pidsOf(await steady(proxy, 3)).filter(pid => before.includes(pid)), before);
    await upgraded(proxy);
    await succeed(proxy, ['restart', 'web']);
    const now = await steady(proxy, 3, { timeout: 40_000, fits: list => list.every(worker => !before.includes(worker.pid)) });
    await upgraded(proxy);
    await succeed(proxy, ['scale', 'web', '2']);
    for (const { pid } of await steady(proxy, 2)) assert.ok(pidsOf(now).includes(pid));
    process.kill(proxy.pid, 'SIGHUP');
    await proxy.line(/SIGHUP/);
    await alone(proxy);
  }));

test('two upgrades at once: one is refused, the other is done', options, () =>
  withProxy(one(), async proxy => {
    const before = pidsOf(await steady(proxy, 2));
    const old = proxy.pid;
    const outcomes = await Promise.all([proxy.upgrade(), proxy.upgrade()]);
    const codes = outcomes.map(outcome => outcome.code).sort();
    assert.deepEqual(codes, [0, 1], JSON.stringify(outcomes));
    const loser = outcomes.find(outcome => outcome.code === 1);
    assert.match(loser.err, /upgrade|handoff|successor|hand over/i);
    await proxy.gone(old);
    assert.equal((await status(proxy)).pid, proxy.pid);
    assert.deepEqual(pidsOf(await steady(proxy, 2)), before);
    await alone(proxy);
  }));

test('a port that the system chose, IPv6, metrics and health stay', options, async t => {
  const metrics = await freePort();
  const six = await new Promise(resolve => {
    const server = net.createServer();
    server.once('error', () => resolve(false));
    server.listen(0, '::1', () => server.close(() => resolve(true)));
  });
  if (!six) t.diagnostic('no IPv6 here');
  const sixth = await freePort();
  await withProxy(
    proxy => ({
      ...one()(proxy),
      listeners: [{ address: `127.0.0.1:${proxy.port}` }, { address: '127.0.0.1:0' }, ...(six ? [{ address: `[::1]:${sixth}` }] : [])],
      metrics: { address: `127.0.0.1:${metrics}` },
    }),
    async proxy => {
      const listening = pid => listeners(pid).filter(port => ![proxy.port, metrics, sixth].includes(port));
      const [chosen, ...rest] = listening(proxy.pid);
      assert.ok(chosen && rest.length === 0, `one port that the system chose, of ${listeners(proxy.pid)}`);
      for (const _ of range(2)) {
        await upgraded(proxy);
        assert.deepEqual(listening(proxy.pid), [chosen]);
        for (const port of [proxy.port, chosen]) assert.equal((await request(port, { path: '/ask?id=1' })).status, 200, `${port}`);
        if (six) assert.equal(await new Promise((resolve, reject) => http.get({ host: '::1', port: sixth, path: '/ask?id=6', agent: false }, answer => resolve(answer.resume().statusCode)).on('error', reject)), 200);
        const page = await request(metrics, { path: '/metrics' });
        assert.equal(page.status, 200);
        assert.match(page.text, /^# TYPE/m);
      }
      await alone(proxy);
    },
  );
});

/** TCP ports that a process listens on. */
function listeners(pid) {
  const found = new Set();
  const sockets = socketsOf(pid);
  for (const table of ['tcp', 'tcp6']) {
    for (const line of readFileSync(`/proc/net/${table}`, 'latin1').split('\n').slice(1)) {
      const [, local, , state, , , , , , inode] = line.trim().split(/\s+/);
      if (state === '0A' && sockets.has(Number(inode))) found.add(parseInt(local.split(':')[1], 16));
    }
  }
  return [...found].sort((a, b) => a - b);
}

test('SIGTERM right after an upgrade, while the old process still has a request: both end well', options, () =>
  withProxy(one(), async proxy => {
    const slow = request(proxy.port, { path: '/download?id=1&pieces=20&size=100&ms=100', timeout: 30_000 });
    await until(async () => (await workers(proxy)).some(worker => worker.active > 0), { what: 'a request under way' });
    const { old } = await upgraded(proxy);
    assert.ok(alive(old), 'the old process has the request');
    proxy.kill(proxy.pid, 'SIGTERM');
    const answer = await slow;
    assert.deepEqual([answer.status, answer.body.length], [200, 2000]);
    await proxy.gone(proxy.pid);
    await proxy.gone(old);
  }));

for (const delay of [0, 30, 100, 200, 400, 800]) {
  test(`SIGTERM to the old process ${delay} ms after an upgrade was asked for: nothing is left in the end`, options, t =>
    withProxy(one(), async proxy => {
      const old = proxy.pid;
      const upgrading = proxy.upgrade();
      await sleep(delay);
      if (alive(old)) proxy.kill(old, 'SIGTERM');
      const outcome = await upgrading;
      t.diagnostic(`${outcome.code} ${outcome.out}${outcome.err}`);
      await proxy.gone(old);
      // A stop in the middle of it is meant for the proxy, whichever process that is in the end.
      const passedOn = proxy.lines.some(line => /is to stop, too/.test(line.text));
      if (outcome.code !== 0 || passedOn) {
        await until(() => proxy.processes().length === 0, { timeout: 20_000, what: () => `the end of ${JSON.stringify(proxy.processes())}` });
        return;
      }
      assert.equal((await request(proxy.port, { path: '/ask?id=1' })).status, 200);
      await steady(proxy, 2);
    }));
}

test('SIGTERM to the new process while it waits, and while it takes over: the old one serves', options, () =>
  withProxy(one(), async proxy => {
    const before = await status(proxy);
    const candidate = await waiting(proxy);
    candidate.kill('SIGTERM');
    await ended(candidate);
    await untouched(proxy, before);
    const stalling = await waiting(proxy, { env: { PINGORA_UNIX_PROXY_FAULT: 'ready:stall' } });
    proxy.kill(proxy.pid, 'SIGQUIT');
    await proxy.line(/stalls at ready/);
    stalling.kill('SIGTERM');
    await ended(stalling);
    await proxy.line(/failed, this one goes on/);
    await untouched(proxy, before);
    await byHand(proxy);
  }));
