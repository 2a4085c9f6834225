// More than two processes of the proxy: upgrades that follow one another faster than requests end, and processes that are
// held up or die at the very moment at which the other takes over.

import assert from 'node:assert/strict';
import test from 'node:test';
import { alone, ended, upgraded, waiting } from './lib/handoff.mjs';
import { Raw, request } from './lib/http.mjs';
import { alive, configure, needsUpgrade, withProxy } from './lib/proxy.mjs';
import { siegeApp } from './lib/siege.mjs';
import { command, pidsOf, status, steady, workers } from './lib/steer.mjs';
import { open } from './lib/upgrade.mjs';
import { range, sleep, until } from './lib/wait.mjs';

const options = { timeout: 120_000, ...needsUpgrade };
const LIMIT = { PINGORA_UNIX_PROXY_HANDOFF_LIMIT_MS: '2000' };
const one = (more = {}, top = {}) => proxy => ({ ...top, apps: { web: siegeApp(proxy, more) } });

/** What becomes of a download of so many tenths of a second. */
const download = (proxy, tenths) =>
  request(proxy.port, { path: `/download?id=${tenths}&pieces=${tenths}&size=100&ms=100`, timeout: 60_000 }).then(
    answer => `${answer.status}, ${answer.body.length} bytes`,
    error => error.message,
  );
const whole = tenths => `200, ${tenths * 100} bytes`;
const busy = (proxy, count) =>
  until(async () => (await workers(proxy)).reduce((sum, { active }) => sum + active, 0) >= count, { what: `${count} requests under way` });

test('upgraded twice during requests: they end well, their connections live on, their workers are not stopped', options, t =>
  withProxy(one({ drain_timeout: '30s', min_ready: '100ms' }), async proxy => {
    const before = pidsOf(await steady(proxy, 2));
    const raw = await Raw.connect(proxy.port);
    raw.write('GET /ask?id=slow&ms=4000 HTTP/1.1\r\nHost: x\r\n\r\n');
    const [short, long] = [download(proxy, 30), download(proxy, 80)];
    await busy(proxy, 3);
    const { old: first } = await upgraded(proxy);
    const { old: second } = await upgraded(proxy);
    const gone = proxy.gone(second, { timeout: 3000 });
    // They are counted by a process that never had them.
    const counted = async () => (await workers(proxy)).map(worker => worker.active).reduce((a, b) => a + b);
    await until(async () => (await counted()) === 3, { what: 'the requests of the first process in the status' });
    await gone;
    assert.ok(alive(first));
    const restart = command(proxy, ['restart']);
    assert.equal((await raw.response({ timeout: 20_000 })).body.toString().split(' ')[0], 'slow');
    raw.write('GET /ask?id=next HTTP/1.1\r\nHost: x\r\n\r\n');
    assert.equal((await raw.response()).body.toString().split(' ')[0], 'next');
    assert.deepEqual(await Promise.all([short, long]), [whole(30), whole(80)]);
    const last = performance.now();
    const lingered = Math.round((await proxy.gone(first)) - last);
    t.diagnostic(`the first process is gone ${lingered} ms after its last request`);
    assert.ok(lingered < 2000);
    assert.equal((await restart).code, 0);
    await steady(proxy, 2, { timeout: 30_000, fits: list => list.every(({ pid }) => !before.includes(pid)) });
    raw.destroy();
    await alone(proxy);
  }));

test('the new process is killed right after it took over: the old one ends its requests all the same', options, () =>
  withProxy(one({}, { orphan_timeout: '6s' }), async proxy => {
    await steady(proxy, 2);
    const [short, long] = [download(proxy, 15), download(proxy, 40)];
    await busy(proxy, 2);
    const { old, pid } = await upgraded(proxy);
    proxy.kill(pid);
    assert.deepEqual(await Promise.all([short, long]), [whole(15), whole(40)]);
    await proxy.gone(old);
    await until(() => proxy.processes().length === 0, { timeout: 30_000, what: 'the end of the workers, and of the guard that cleans up' });
  }));

test('the old process is held up while the new one takes over: it learns of it late, and nobody is ended', options, t =>
  withProxy(one({}), { env: LIMIT }, async proxy => {
    const before = pidsOf(await steady(proxy, 2));
    const tunnel = await open(proxy.port, '/ws?name=tunnel&every=0');
    const candidate = await waiting(proxy, { env: { ...LIMIT, PINGORA_UNIX_PROXY_FAULT: 'commit:pause=500' } });
    const old = proxy.pid;
    proxy.kill(old, 'SIGQUIT');
    await proxy.line(/pauses at commit/);
    proxy.kill(old, 'SIGSTOP');
    await proxy.line(/took over; listening/);
    // Longer than the old one waits.
    await sleep(3000);
    proxy.kill(old, 'SIGCONT');
    await proxy.gone(old);
    assert.ok(alive(candidate.pid));
    proxy.promote(candidate);
    assert.equal((await status(proxy)).pid, candidate.pid);
    assert.deepEqual(pidsOf(await steady(proxy, 2)), before);
    const account = new Promise(resolve => tunnel.on('message', data => resolve(data.toString())));
    tunnel.send('account');
    assert.match(await account, /^account /, 'the tunnel lives');
    tunnel.close();
    await alone(proxy);
    t.diagnostic(`process ${old} was held up`);
  }));

test('the new process is held up until the old one has gone on: it touches nothing', options, () =>
  withProxy(one({}), { env: LIMIT }, async proxy => {
    const before = await status(proxy);
    const candidate = await waiting(proxy, { env: { PINGORA_UNIX_PROXY_FAULT: 'commit:pause=4000' } });
    proxy.kill(proxy.pid, 'SIGQUIT');
    const how = await ended(candidate, 30_000);
    assert.equal(how.signal, 'SIGKILL');
    await proxy.line(/this one goes on: the successor did not say committed/);
    assert.equal((await status(proxy)).pid, before.pid);
    assert.deepEqual(pidsOf(await steady(proxy, 2)), pidsOf(before.apps[0].workers));
    assert.ok(!proxy.lines.some(line => /took over; listening/.test(line.text)));
    await upgraded(proxy);
  }));

test('the old process is killed when it has given everything: the new one has everything', options, () =>
  withProxy(one({}), { env: LIMIT, stop: { code: null, killed: 'SIGKILL' } }, async proxy => {
    const before = pidsOf(await steady(proxy, 2));
    const tunnels = await Promise.all(range(10).map(n => open(proxy.port, `/ws?name=t${n}&every=0`)));
    const candidate = await waiting(proxy, { env: { ...LIMIT, PINGORA_UNIX_PROXY_FAULT: 'commit:pause=500' } });
    proxy.kill(proxy.pid, 'SIGQUIT');
    await proxy.line(/pauses at commit/);
    proxy.kill(proxy.child.pid, 'SIGKILL');
    await proxy.line(/took over; listening/);
    proxy.promote(candidate);
    for (const tunnel of tunnels) {
      const account = new Promise((resolve, reject) => tunnel.on('message', data => resolve(data.toString())).on('close', reject));
      tunnel.send('account');
      assert.match(await account, /^account /);
      tunnel.close();
    }
    assert.deepEqual(pidsOf(await steady(proxy, 2, { timeout: 30_000 })), before);
  }));

test('an app that is not configured any more: its WebSockets are closed in order', options, () =>
  withProxy(one({ drain_window: '500ms' }), async proxy => {
    const sockets = await Promise.all(range(10).map(n => open(proxy.port, `/ws?name=${n}&every=0`)));
    const closed = Promise.all(sockets.map(socket => new Promise(resolve => socket.on('close', resolve))));
    configure(proxy, { apps: { other: { script: './http.js' } } });
    await upgraded(proxy);
    assert.deepEqual([...new Set(await closed)], [1001]);
    await until(async () => (await status(proxy)).apps.length === 1, { what: "the old app's end" });
  }));
