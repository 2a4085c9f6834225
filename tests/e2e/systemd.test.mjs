// Under a real systemd: the unit of deploy/systemd with the built binary. Skips itself where that cannot be had.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { Machine } from './lib/machine.mjs';
import { BIN, freePort, needsProxy, suiteDir, yaml } from './lib/proxy.mjs';
import { until } from './lib/wait.mjs';

const UNIT = 'pingora-unix-proxy.service';
const SOCKET = 'pingora-unix-proxy.socket';
const CONF = '/etc/pingora-unix-proxy/conf.yaml';
const deploy = name => readFileSync(path.join(suiteDir, '../../deploy/systemd', name));

const SERVER = `
require('http').createServer((req, res) => {
  const url = new URL(req.url, 'http://x');
  setTimeout(() => res.end(String(process.pid)), Number(url.searchParams.get('ms')));
}).listen(3000);
`;

/** Runs `body` on a machine with the proxy installed as docs/deployment.md says. */
async function installed(t, body) {
  const machine = new Machine();
  const port = await freePort();
  try {
    machine.put('/usr/local/bin/pingora-unix-proxy', readFileSync(BIN), 0o755);
    for (const unit of [UNIT, SOCKET]) machine.put(`/etc/units/${unit}`, deploy(unit));
    machine.put('/etc/sysusers.d/pingora-unix-proxy.conf', deploy('pingora-unix-proxy.sysusers'));
    machine.put('/srv/chat/current/server.js', SERVER);
    machine.put(CONF, yaml({
      runtime_dir: '/run/pingora-unix-proxy',
      listeners: [{ address: `127.0.0.1:${port}` }],
      apps: { chat: { script: 'server.js', cwd: '/srv/chat/current', instances: 2 } },
      shutdown: { limit: '60s' },
    }));
    // There is no journal. A watchdog that a busy machine does not set off, and a test can wait for.
    machine.put(`/etc/units/${UNIT}.d/test.conf`, '[Service]\nStandardOutput=append:/run/log\nStandardError=append:/run/log\nWatchdogSec=8s\n');
    machine.put(`/etc/units/${SOCKET}.d/test.conf`, `[Socket]\nListenStream=\nListenStream=127.0.0.1:${port}\n`);
    const why = await machine.start();
    if (why) {
      console.log(`skipped: ${t.name}: ${why}`);
      return t.skip(why);
    }
    const ask = (url = '/', more) => request(port, { path: url, ...more }).then(answer => {
      assert.equal(answer.status, 200);
      return answer.text;
    });
    const systemctl = async (...words) => {
      const { code, err } = await machine.run('systemctl', ...words);
      assert.equal(code, 0, `systemctl ${words.join(' ')}: ${err}`);
    };
    const command = (...words) => machine.run('pingora-unix-proxy', ...words, '-c', CONF);
    const now = async () => {
      const { ActiveState, SubState, MainPID, NRestarts, InvocationID, StatusText, Result } = await machine.show(UNIT);
      return { state: `${ActiveState} (${SubState})`, pid: Number(MainPID), restarts: Number(NRestarts), invocation: InvocationID, status: StatusText, result: Result };
    };
    /** Process ids of both workers, once both have answered. */
    const workers = async () => {
      const seen = new Set();
      await until(async () => seen.add(await ask()).size === 2, { what: 'both workers to answer' });
      return [...seen].sort();
    };
    const { code, err } = await machine.run('systemd-sysusers', '/etc/sysusers.d/pingora-unix-proxy.conf');
    assert.equal(code, 0, err);
    await body({ machine, port, ask, systemctl, command, now, workers });
  } catch (error) {
    console.error((await machine.run('systemctl', 'status', UNIT)).out);
    console.error(`--- log\n${machine.read('/run/log').split('\n').slice(-80).join('\n')}\n---`);
    throw error;
  } finally {
    await machine.end();
  }
}

const options = { timeout: 120_000, ...needsProxy };
const empty = machine => until(() => machine.processes(UNIT).length === 0, { what: () => `processes ${machine.processes(UNIT)} to end` });
const back = (now, old) => until(async () => {
  const unit = await now();
  return unit.pid !== 0 && unit.pid !== old.pid && unit.state === 'active (running)' && unit;
}, { timeout: 30_000, what: 'the restart' });

test('systemd: start, reload, kill -9, a watchdog that is not fed, stop', options, t =>
  installed(t, async ({ machine, ask, systemctl, command, now, workers }) => {
    await systemctl('start', UNIT);
    const first = await now();
    assert.equal(first.state, 'active (running)');
    // One worker of each app is enough for systemd to go on; the rest is told as it comes.
    await until(async () => (await now()).status === 'ready: chat 2/2', { what: 'the status' });
    const own = await workers();

    await systemctl('reload', UNIT);
    assert.equal((await now()).pid, first.pid);
    const good = machine.read(CONF);
    await machine.run('sh', '-c', `printf '\\nnonsense: 1\\n' >>${CONF}`);
    assert.notEqual((await machine.run('systemctl', 'reload', UNIT)).code, 0, 'a reload that fails');
    assert.notEqual((await command('reload')).code, 0);
    await machine.run('sh', '-c', `printf %s "$1" >${CONF}`, 'sh', good);
    assert.equal((await now()).state, 'active (running)');

    // Killed, its workers live on and are adopted; so they are when the watchdog ends it.
    await machine.run('kill', '-9', String(first.pid));
    const second = await back(now, first);
    assert.deepEqual(await workers(), own);
    await machine.run('kill', '-STOP', String(second.pid));
    await back(now, second);
    assert.deepEqual(await workers(), own);

    await systemctl('stop', UNIT);
    const end = await now();
    assert.deepEqual([end.state, end.result], ['inactive (dead)', 'success']);
    await assert.rejects(ask(), { code: 'ECONNREFUSED' });
    // The guard of the one that was killed takes a moment to see that it is not needed.
    await empty(machine);
    assert.equal((await machine.run('test', '-e', '/run/pingora-unix-proxy')).code, 1, 'the runtime directory is gone');
  }));

test('systemd: a wrong configuration is not tried again and again', options, t =>
  installed(t, async ({ machine, systemctl, now }) => {
    const good = machine.read(CONF);
    await machine.run('sh', '-c', `printf '\\nnonsense: 1\\n' >>${CONF}`);
    assert.notEqual((await machine.run('systemctl', 'start', UNIT)).code, 0);
    const { ExecMainStatus } = await machine.show(UNIT);
    assert.equal(ExecMainStatus, '78');
    const wrong = await now();
    assert.deepEqual([wrong.state, wrong.restarts], ['failed (failed)', 0]);
    assert.match(machine.read('/run/log'), /conf\.yaml:\d+:1: .*nonsense/);
    await machine.run('sh', '-c', `printf %s "$1" >${CONF}`, 'sh', good);
    await systemctl('start', UNIT);
    assert.equal((await now()).state, 'active (running)');
    await systemctl('stop', UNIT);
    await empty(machine);
  }));

test('systemd: an upgrade under a request that lasts: MAINPID moves; a crash and a stop meanwhile', options, t =>
  installed(t, async ({ machine, ask, systemctl, command, now, workers }) => {
    await systemctl('start', UNIT);
    const first = await now();
    const own = await workers();
    const upgraded = async old => {
      const { code, err } = await command('upgrade');
      assert.equal(code, 0, err);
      const unit = await now();
      assert.deepEqual([unit.state, unit.invocation], ['active (running)', old.invocation]);
      assert.notEqual(unit.pid, old.pid);
      return unit;
    };
    const lasting = ask('/?ms=8000');
    const second = await upgraded(first);
    // The predecessor is still there: systemd must see the end of its successor all the same, and its ports be free.
    const began = performance.now();
    await machine.run('kill', '-9', String(second.pid));
    const third = await back(now, second);
    assert.ok(performance.now() - began < 7000, 'by its exit, not by the watchdog');
    assert.deepEqual(await workers(), own);
    assert.ok(own.includes(await lasting), 'the predecessor has finished');

    // A stop while a predecessor lingers waits for its requests, and leaves nobody.
    const last = ask('/?ms=3000');
    await upgraded(third);
    await systemctl('stop', UNIT);
    assert.ok(own.includes(await last));
    const end = await now();
    assert.deepEqual([end.state, end.result], ['inactive (dead)', 'success']);
    await empty(machine);
  }));

test('systemd: socket activation, across a restart and a crash', options, t =>
  installed(t, async ({ machine, ask, systemctl, now, workers }) => {
    await systemctl('start', SOCKET);
    assert.equal((await now()).pid, 0);
    // The first connection starts the service, and waits for it.
    await ask();
    const first = await now();
    const asked = async doing => {
      const end = doing();
      for (let n = 0; n < 10; n++) await ask();
      return end;
    };
    await asked(() => systemctl('restart', UNIT));
    const second = await until(async () => {
      const unit = await now();
      return unit.pid !== first.pid && unit.state === 'active (running)' && unit;
    }, { what: 'the restart' });
    const own = await workers();
    await machine.run('kill', '-9', String(second.pid));
    // Nobody is refused.
    for (let n = 0; n < 10; n++) await ask();
    await back(now, second);
    assert.deepEqual(await workers(), own);
    await systemctl('stop', SOCKET, UNIT);
    await assert.rejects(ask(), { code: 'ECONNREFUSED' });
    await empty(machine);
  }));
