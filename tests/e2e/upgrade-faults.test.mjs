// An upgrade that fails at any of its steps: nothing changes, and nobody notices. Then one that succeeds.
//
// PINGORA_UNIX_PROXY_FAULT makes a successor of a debug build die, hang or refuse just before it takes a step.

import assert from 'node:assert/strict';
import net from 'node:net';
import path from 'node:path';
import test from 'node:test';
import { alone, byHand, ended, leaves, owned, refused, untouched, upgraded, waiting } from './lib/handoff.mjs';
import { alive, needsUpgrade, withProxy } from './lib/proxy.mjs';
import { besiege, siegeApp } from './lib/siege.mjs';
import { pidsOf, status, steady } from './lib/steer.mjs';
import { open } from './lib/upgrade.mjs';
import { until } from './lib/wait.mjs';

const options = { timeout: 240_000, ...needsUpgrade };
/** Of one step. It must be enough for a step without a fault on a busy machine. */
const LIMIT = { PINGORA_UNIX_PROXY_HANDOFF_LIMIT_MS: '5000' };
/** 60 polling sessions, 60 WebSockets, and the rest. */
const SIZE = { share: 0.3 };

/** In their order. At hello nobody is a candidate yet. */
const STEPS = ['snapshot', 'bound', 'ready', 'tunnels', 'commit'];
const one = proxy => ({ apps: { web: siegeApp(proxy) } });
const fault = (step, action) => ({ env: { ...LIMIT, PINGORA_UNIX_PROXY_FAULT: `${step}:${action}` } });

for (const action of ['die', 'refuse', 'stall']) {
  test(`a successor that is to ${action} at each step in turn, under siege: the old process serves`, options, t =>
    withProxy(one, { env: LIMIT }, async proxy => {
      const before = await status(proxy);
      await besiege(t, proxy, SIZE, async siege => {
        for (const step of STEPS) {
          const candidate = await waiting(proxy, fault(step, action));
          const asked = performance.now();
          proxy.kill(proxy.pid, 'SIGQUIT');
          const how = await ended(candidate, 30_000);
          await proxy.line(new RegExp(`handing over to process ${candidate.pid} failed`), { timeout: 20_000 });
          const settled = performance.now() - asked;
          if (action === 'refuse') assert.ok(how.code > 0, JSON.stringify(how));
          else assert.equal(how.signal, 'SIGKILL', `${step}: ${JSON.stringify(how)}`);
          await untouched(proxy, before);
          await siege.more();
          assert.deepEqual(siege.lost, [], step);
          t.diagnostic(`${step}:${action}: over after ${Math.round(settled)} ms`);
        }
        const done = await byHand(proxy, { env: LIMIT });
        const leaving = leaves(siege, done);
        leaving.catch(() => {});
        await owned(siege, done);
        await siege.more();
        const lingered = await leaving;
        assert.ok(lingered < 2000, `gone ${lingered} ms after its last request`);
      });
      assert.deepEqual(pidsOf(await steady(proxy, 2)), pidsOf(before.apps[0].workers));
      await alone(proxy);
    }));
}

for (const [step, action] of [['hello', 'die'], ['hello', 'stall'], ['ready', 'die'], ['tunnels', 'stall'], ['commit', 'die'], ['commit', 'stall']]) {
  test(`the command upgrade, its successor is to ${action} at ${step}: exit code 1, the reason, nothing left`, options, t =>
    withProxy(one, { env: fault(step, action).env }, async proxy => {
      // There is a tunnel to move.
      const tunnel = await open(proxy.port, '/ws?name=tunnel&every=0');
      const { err, ms } = await refused(proxy, /successor|process \d+/, { args: ['--timeout', '60s'] });
      t.diagnostic(`after ${Math.round(ms)} ms: ${err.trim()}`);
      assert.ok(err.trim().split('\n').length <= 12, err);
      await byHand(proxy, { env: { PINGORA_UNIX_PROXY_FAULT: '' } });
      const account = new Promise(resolve => tunnel.on('message', data => resolve(data.toString())));
      tunnel.send('account');
      assert.match(await account, /^account /, 'the tunnel lives');
      tunnel.close();
    }));
}

test('a worker that hangs while a handoff fails is found afterwards', options, () =>
  withProxy({ apps: { web: { script: './http.js', instances: 2, heartbeat_timeout: '2s', unhealthy_timeout: '500ms' } } }, { env: LIMIT }, async proxy => {
    const [hangs] = pidsOf(await steady(proxy, 2, { fits: list => list.every(worker => worker.elu !== null) }));
    const candidate = await waiting(proxy, fault('ready', 'refuse'));
    proxy.kill(hangs, 'SIGSTOP');
    proxy.kill(proxy.pid, 'SIGQUIT');
    await ended(candidate, 30_000);
    await proxy.line(/its event loop stands still/, { timeout: 30_000 });
    await steady(proxy, 2, { timeout: 20_000, fits: list => !pidsOf(list).includes(hangs) });
  }));

test('another protocol version is refused, both say which', options, () =>
  withProxy(one, async proxy => {
    const before = await status(proxy);
    const candidate = proxy.candidate({ env: { PINGORA_UNIX_PROXY_FAULT: 'version:99' } });
    const { code } = await ended(candidate);
    assert.equal(code, 1);
    const told = proxy.lines.filter(line => /protocol 99/.test(line.text));
    assert.deepEqual([...new Set(told.map(line => line.from))].sort(), [proxy.child.pid, candidate.pid].sort(), 'both say so');
    proxy.kill(proxy.pid, 'SIGQUIT');
    await proxy.line(/no successor/);
    await untouched(proxy, before);
  }));

test('a successor that stands still in the middle and wakes up too late has no part in it', options, t =>
  withProxy(one, { env: LIMIT }, async proxy => {
    const before = await status(proxy);
    await besiege(t, proxy, { share: 0.1 }, async siege => {
      // Stopped while it waits, so at whatever step: the limit ends it.
      const candidate = await waiting(proxy, { env: LIMIT });
      candidate.kill('SIGSTOP');
      proxy.kill(proxy.pid, 'SIGQUIT');
      await proxy.line(new RegExp(`handing over to process ${candidate.pid} failed`), { timeout: 30_000 });
      if (alive(candidate.pid)) candidate.kill('SIGCONT');
      await ended(candidate);
      await untouched(proxy, before);
      await siege.more();
      await byHand(proxy, { env: LIMIT });
      await siege.more();
    });
  }));

test('who knocks at handoff.sock and talks nonsense is sent away, and the next upgrade works', options, () =>
  withProxy(one, async proxy => {
    const knock = path.join(proxy.runtime, 'handoff.sock');
    const hello = JSON.stringify({ type: 'hello', protocol: 1, version: 'x', pid: 1 });
    for (const text of ['', '\n', 'GET / HTTP/1.1\r\n\r\n', '\xff'.repeat(100), `${hello}\n`.slice(0, 20), '\0'.repeat(70_000)]) {
      await new Promise(resolve => {
        const socket = net.connect(knock, () => socket.end(Buffer.from(text, 'latin1')));
        socket.on('error', resolve);
        socket.on('close', resolve);
        socket.resume();
      });
    }
    // More silent ones than it hears at once; they are let go after a while.
    const silent = Array.from({ length: 12 }, () => net.connect(knock).on('error', () => {}));
    await upgraded(proxy);
    for (const socket of silent) socket.destroy();
    await alone(proxy);
  }));

test('the old process is killed while it hands over: workers and their sessions live on in the new one', options, t =>
  withProxy(one, { env: LIMIT, stop: { code: null, killed: 'SIGKILL' } }, async proxy => {
    const before = pidsOf(await steady(proxy, 2));
    const candidate = await waiting(proxy, { env: LIMIT });
    proxy.kill(proxy.pid, 'SIGQUIT');
    await proxy.line(new RegExp(`handing over to process ${candidate.pid}`));
    proxy.kill(proxy.child.pid, 'SIGKILL');
    await until(async () => candidate.ended || (await status(proxy)).pid === candidate.pid, { timeout: 40_000, what: 'the new process to serve, or to end' });
    t.diagnostic(`the candidate: ${JSON.stringify(candidate.ended ?? 'serves')}`);
    proxy.promote(candidate);
    assert.equal(candidate.ended, undefined, 'the new one takes over');
    assert.deepEqual(pidsOf(await steady(proxy, 2, { timeout: 30_000 })), before);
    for (const pid of await proxy.pids(2)) assert.ok(before.includes(pid));
  }));
