// What systemd hears and gives: sd_notify, the watchdog, socket activation.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { BIN, Proxy, configure, freePort, needsProxy, suiteDir } from './lib/proxy.mjs';
import { sleep, until, within } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };
const helper = path.join(suiteDir, 'lib/notify.py');
const life = (habits, more = {}) => ({ script: './life.js', ...more, env: { HABITS: habits, ...more.env } });

/** A socket that notes what it is told. */
class Systemd {
  constructor(address) {
    this.messages = [];
    this.child = spawn('python3', [helper, 'listen', address], { stdio: ['pipe', 'pipe', 'inherit'] });
    let rest = '';
    this.child.stdout.on('data', data => {
      const lines = (rest + data).split('\n');
      rest = lines.pop();
      this.messages.push(...lines.map(line => JSON.parse(line)));
    });
  }

  has(pattern) {
    return this.messages.some(message => pattern.test(message));
  }

  heard(pattern, timeout = 15_000) {
    return until(() => this.messages.find(message => pattern.test(message)), { timeout, what: () => `${pattern} in ${JSON.stringify(this.messages)}` });
  }

  close() {
    return new Promise(resolve => {
      this.child.once('exit', resolve);
      this.child.stdin.end();
    });
  }
}

/** Runs `body` with a proxy that tells a systemd; `made` may be a function of the proxy. */
async function watched(made, { env = {}, stop = {} } = {}, body) {
  const proxy = new Proxy();
  proxy.port = await freePort();
  proxy.file('x', '');
  const systemd = new Systemd(path.join(proxy.dir, 'own', 'notify.sock'));
  let failed = true;
  try {
    await systemd.heard(/^listening$/);
    const file = configure(proxy, typeof made === 'function' ? made(proxy) : made);
    proxy.run(BIN, ['-c', file], { env: { NOTIFY_SOCKET: path.join(proxy.dir, 'own', 'notify.sock'), ...env } });
    await body(proxy, systemd);
    failed = false;
  } catch (error) {
    proxy.show();
    throw error;
  } finally {
    await systemd.close();
    await proxy.stop(stop).catch(error => {
      if (!failed) throw error;
    });
  }
}

test('READY when each app has a ready worker, STATUS, RELOADING around a reload, STOPPING', options, () =>
  watched(proxy => ({ apps: { a: life('ready-by-flag', { wait_ready: true, instances: 2, env: { FLAG: proxy.file('flag') } }) } }), {}, async (proxy, systemd) => {
    await systemd.heard(/^STATUS=not ready: a: 0 of 2 workers ready/);
    await systemd.heard(/^EXTEND_TIMEOUT_USEC=/);
    assert.ok(!systemd.has(/READY=1/));
    proxy.file('flag', '');
    await systemd.heard(/^READY=1\nSTATUS=/);
    await systemd.heard(/STATUS=ready: a 2\/2/);
    systemd.messages.length = 0;
    process.kill(proxy.child.pid, 'SIGHUP');
    await systemd.heard(/^READY=1\nSTATUS=reloaded: /);
    const [reloading] = systemd.messages.filter(message => /RELOADING/.test(message));
    const [, micros] = /^RELOADING=1\nMONOTONIC_USEC=(\d+)\n/.exec(reloading);
    assert.ok(Math.abs(Number(micros) / 1e6 - Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0])) < 30, micros);
    process.kill(proxy.child.pid, 'SIGTERM');
    await systemd.heard(/^STOPPING=1/);
    assert.deepEqual(await within(10_000, 'its end', proxy.exit), { code: 0, signal: null });
  }));

test('an app that fails does not keep the others from being READY', options, () =>
  watched(proxy => ({
    apps: { good: life(''), bad: life('fails', { crash_loop: { max: 2, retry: '60s' }, backoff: { min: '50ms', max: '50ms' }, env: { FLAG: proxy.file('none') } }) },
    routes: [{ app: 'good' }, { path: '/bad', app: 'bad' }],
  }), {}, async (proxy, systemd) => {
    const ready = await systemd.heard(/^READY=1/);
    assert.match(ready, /STATUS=not ready: bad: 0 of 1 worker ready \(exited with code 7/);
    assert.equal((await request(proxy.port)).status, 200);
  }));

test('the watchdog is fed, and not while the proxy stands still', options, () =>
  watched({ apps: { a: life('') } }, { env: { WATCHDOG_USEC: '600000' } }, async (proxy, systemd) => {
    const fed = () => systemd.messages.filter(message => message === 'WATCHDOG=1').length;
    await until(() => fed() >= 4, { what: 'the watchdog to be fed' });
    process.kill(proxy.child.pid, 'SIGSTOP');
    await sleep(100);
    const before = fed();
    await sleep(1500);
    assert.equal(fed(), before);
    process.kill(proxy.child.pid, 'SIGCONT');
    await until(() => fed() > before + 1, { what: 'the watchdog to be fed again' });
  }));

test('a watchdog meant for another process is not fed', options, () =>
  watched({ apps: { a: life('') } }, { env: { WATCHDOG_USEC: '200000', WATCHDOG_PID: '1' } }, async (proxy, systemd) => {
    await systemd.heard(/READY=1/);
    await sleep(500);
    assert.ok(!systemd.has(/WATCHDOG/));
  }));

test('sockets that systemd passes are used where a key names them; workers get none of them', options, async () => {
  const proxy = new Proxy();
  const [health, stray] = [await freePort(), await freePort()];
  proxy.port = await freePort();
  const address = port => `127.0.0.1:${port}`;
  try {
    const file = configure(proxy, { apps: { a: life('') }, health: { address: address(health) } });
    const given = [stray, proxy.port, health].map(address).join(',');
    proxy.run('python3', [helper, 'activate', given, '--names', 'stray:web:health', '--', BIN, '-c', file]);
    await proxy.ready({ path: '/pid' });
    assert.equal((await request(health, { path: '/readyz' })).status, 200);
    await proxy.line(new RegExp(`"stray" on ${address(stray)} was passed, but no key names that address`));
    await assert.rejects(request(stray), { code: 'ECONNREFUSED' });
    const seen = JSON.parse((await request(proxy.port, { path: '/x' })).text).env;
    for (const name of Object.keys(seen)) assert.doesNotMatch(name, /^(LISTEN_|NOTIFY|WATCHDOG)/);
    // Inodes of the proxy's listening sockets are not among the worker's files.
    const listening = readFileSync('/proc/net/tcp', 'utf8').split('\n').map(line => line.trim().split(/\s+/)).filter(f => f[3] === '0A');
    const hex = port => port.toString(16).toUpperCase().padStart(4, '0');
    const inodes = listening.filter(f => [proxy.port, health].some(port => f[1].endsWith(`:${hex(port)}`))).map(f => `socket:[${f[9]}]`);
    assert.equal(inodes.length, 2);
    const files = pid => readdirSync(`/proc/${pid}/fd`).map(fd => { try { return readlinkSync(`/proc/${pid}/fd/${fd}`); } catch { return ''; } });
    assert.ok(inodes.every(inode => files(proxy.child.pid).includes(inode)));
    const workers = proxy.workerProcesses();
    assert.equal(workers.length, 1);
    for (const { pid } of workers) assert.ok(!files(pid).some(file => inodes.includes(file)));
  } catch (error) {
    proxy.show();
    throw error;
  } finally {
    await proxy.stop();
  }
});
