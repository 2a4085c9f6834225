// The runtime directory is taken away while the proxy serves, by aging or by rm -rf: no request fails, and all goes on.

import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { Load } from './lib/load.mjs';
import { BIN, freePort, needsProxy, withProxy } from './lib/proxy.mjs';
import { command, pidsOf, statusByCommand, steady, succeed } from './lib/steer.mjs';
import { until, within } from './lib/wait.mjs';

const options = { timeout: 120_000, ...needsProxy };
const asRoot = process.getuid() === 0 ? options : { skip: 'skipped: only root starts processes of other users' };
const withTmpfiles = spawnSync('systemd-tmpfiles', ['--version']).status === 0 ? options : { skip: 'skipped: no systemd-tmpfiles here' };
/** What a proxy keeps in there, beside what its workers need. */
const PARTS = ['admin.sock', 'control.sock', 'handoff.sock', 'lock', 'logs', 'preload.cjs', 'state.json', 'workers'];
const UID = 4_000_000_002;

const apps = (more = {}) => ({ web: { script: './roll.js', instances: 3, ...more } });
const whole = proxy =>
  until(() => PARTS.every(part => existsSync(path.join(proxy.runtime, part))), {
    what: () => `all of ${PARTS} in the runtime directory; there are ${existsSync(proxy.runtime) ? readdirSync(proxy.runtime) : 'none'}`,
  });

function assertUnharmed(load) {
  assert.deepEqual(load.failed, []);
  assert.deepEqual(load.ends, []);
}

/** More than its pipe holds: unread, it would block the worker. */
async function assertOutputIsRead(proxy) {
  const from = performance.now();
  const pid = (await request(proxy.port, { path: '/hog?mb=5&ms=400' })).text;
  await proxy.line(new RegExp(`\\b${pid}\\b.*x{99}`), { from });
  await until(async () => (await request(proxy.port, { path: '/pid', timeout: 5000 })).status === 200, { what: 'an answer' });
}

test('rm -rf of the runtime directory under load: nothing fails, and workers and the proxy can be replaced', options, async t => {
  const [metrics, health] = [await freePort(), await freePort()];
  await withProxy(
    { apps: apps(), metrics: { address: `127.0.0.1:${metrics}` }, health: { address: `127.0.0.1:${health}` } },
    async proxy => {
      const load = await new Load(proxy).start();
      const before = pidsOf(await steady(proxy, 3));
      rmSync(proxy.runtime, { recursive: true });
      const asked = await command(proxy, ['status']);
      assert.equal(asked.code, 0, `at once, before the socket is there again: ${asked.err}`);
      await proxy.line(/ALARM runtime-directory: .*the directory itself, lock, .*made again/);
      await whole(proxy);
      await load.more();
      assertUnharmed(load);
      assert.deepEqual(pidsOf(await steady(proxy, 3)), before);
      assert.equal((await statusByCommand(proxy)).apps.length, 1);
      const scraped = (await request(metrics, { path: '/metrics' })).text;
      assert.match(scraped, /alarm.*runtime-directory.* 1\n/);
      assert.equal((await request(health, { path: '/readyz' })).status, 200);

      t.diagnostic(`before the upgrade: ${load.summary()}`);
      const upgraded = await proxy.upgrade();
      assert.equal(upgraded.code, 0, upgraded.err);
      assert.deepEqual(pidsOf(await steady(proxy, 3)), before, 'the same workers, though their sockets have no paths');
      await load.more();
      assertUnharmed(load);
      await assertOutputIsRead(proxy);

      proxy.kill(before[0]);
      const after = pidsOf(await steady(proxy, 3, { fits: list => !pidsOf(list).includes(before[0]) }));
      assert.equal(after.filter(pid => before.includes(pid)).length, 2);
      await succeed(proxy, ['restart', 'web']);
      await steady(proxy, 3, { fits: list => !pidsOf(list).some(pid => after.includes(pid)) });
      await load.more();
      await load.stop();
      t.diagnostic(load.summary());
      assert.deepEqual(load.failed.filter(text => !text.includes('polling') && !text.includes('websocket')), []);
      assert.deepEqual(load.endsNotOf([...before, ...after]), []);
    },
  );
});

test('a worker that crashes just after rm -rf is replaced, and so is one whose app runs as another user', asRoot, () =>
  withProxy(proxy => (chmodSync(proxy.dir, 0o755), { apps: apps({ user: 'nobody' }) }), async proxy => {
    const before = pidsOf(await steady(proxy, 3));
    rmSync(proxy.runtime, { recursive: true });
    proxy.kill(before[1]);
    await whole(proxy);
    await steady(proxy, 3, { fits: list => !pidsOf(list).includes(before[1]) });
    assert.equal(statSync(path.join(proxy.runtime, 'workers', 'web')).mode & 0o7777, 0o700);
    await succeed(proxy, ['restart', 'web']);
    await steady(proxy, 3);
  }),
);

test('where the directory cannot be made again, readiness and an alarm say so, and requests are served on', options, async () => {
  const health = await freePort();
  await withProxy(
    { apps: apps(), health: { address: `127.0.0.1:${health}` } },
    async proxy => {
      await steady(proxy, 3);
      rmSync(proxy.runtime, { recursive: true });
      writeFileSync(proxy.runtime, 'in the way');
      await proxy.line(/ALARM runtime-directory: .*cannot be made so.*is not a directory/);
      const asked = await until(async () => {
        const answer = await request(health, { path: '/readyz' });
        return answer.status === 503 && answer;
      });
      assert.match(asked.text, /is not a directory/);
      assert.equal((await request(health, { path: '/livez' })).status, 200);
      assert.equal((await request(proxy.port, { path: '/pid' })).status, 200);
      rmSync(proxy.runtime);
      await until(async () => (await request(health, { path: '/readyz' })).status === 200);
      await whole(proxy);
    },
  );
});

test('systemd-tmpfiles with an age of one second, under load: nothing is taken', withTmpfiles, t =>
  withProxy(
    proxy => {
      proxy.runtime = path.join(path.dirname(proxy.file('aged/witness', '')), 'run');
      return { apps: apps() };
    },
    async proxy => {
      const load = await new Load(proxy).start();
      const before = pidsOf(await steady(proxy, 3));
      const aged = path.dirname(proxy.runtime);
      const list = () => readdirSync(proxy.runtime, { recursive: true }).sort();
      const files = list();
      // Once the directory lies in one that is aged, as in /tmp; once a line names it itself.
      for (const [what, line] of [['within', `d ${aged} 0755 - - 1s`], ['itself', `d ${aged} 0755 - - 1s\nd ${proxy.runtime} - - - 1s`]]) {
        const witness = path.join(aged, `witness-${what}`);
        const inside = path.join(proxy.runtime, `witness-${what}`);
        writeFileSync(witness, '');
        if (what === 'itself') writeFileSync(inside, '');
        const conf = proxy.file('tmpfiles.conf', `${line}\n`);
        // Until it has taken what was made last: all else is older.
        await until(
          async () => {
            execFileSync('systemd-tmpfiles', ['--clean', conf], { stdio: 'pipe', timeout: 10_000 });
            return !existsSync(witness) && !existsSync(inside);
          },
          { every: 200, what: 'aging' },
        );
        assert.deepEqual(list(), files, what);
      }
      await load.more();
      assertUnharmed(load);
      assert.doesNotMatch(proxy.output, /ALARM runtime-directory/);
      await succeed(proxy, ['restart', 'web']);
      const after = pidsOf(await steady(proxy, 3, { fits: found => !pidsOf(found).some(pid => before.includes(pid)) }));
      const upgraded = await proxy.upgrade();
      assert.equal(upgraded.code, 0, upgraded.err);
      assert.deepEqual(pidsOf(await steady(proxy, 3)), after);
      await load.more();
      await load.stop();
      t.diagnostic(load.summary());
      assert.deepEqual(load.endsNotOf(before), []);
      
    },
  ),
);

test('a user whose session may end gets a directory at home; one that runs at the older place is found', asRoot, async () => {
  const session = `/run/user/${UID}`;
  const home = mkdtempSync('/tmp/pup-');
  const port = await freePort();
  const conf = path.join(home, 'conf.yaml');
  const text = dir => `${dir}listeners: [{address: "127.0.0.1:${port}"}]\napps: {web: {command: [${process.execPath}, -e, "require('http').createServer((q, r) => r.end('yes')).listen()"]}}\n`;
  mkdirSync(session, { mode: 0o700, recursive: true });
  for (const dir of [home, session]) chownSync(dir, UID, UID);
  const as = ['setpriv', `--reuid=${UID}`, `--regid=${UID}`, '--clear-groups'];
  const env = { PATH: process.env.PATH, HOME: home, XDG_RUNTIME_DIR: session };
  const run = async expected => {
    const child = spawn(as[0], [...as.slice(1), BIN, '-c', conf], { env, cwd: '/', stdio: 'ignore' });
    const ended = new Promise(resolve => child.once('exit', resolve));
    try {
      await until(async () => (await request(port)).status === 200, { timeout: 20_000, what: 'an answer' });
      assert.ok(existsSync(path.join(expected, 'admin.sock')), expected);
      // Without a file: by the default alone.
      const out = execFileSync(as[0], [...as.slice(1), BIN, 'status'], { env, cwd: '/', encoding: 'utf8', timeout: 10_000 });
      assert.match(out, /web/);
    } finally {
      child.kill('SIGTERM');
      await within(20_000, 'its end', ended);
    }
  };
  try {
    writeFileSync(conf, text(''));
    await run(path.join(home, '.local/state/pingora-unix-proxy'));
    writeFileSync(conf, text(`runtime_dir: ${session}/pingora-unix-proxy\n`));
    await run(path.join(session, 'pingora-unix-proxy'));
  } finally {
    rmSync(home, { recursive: true, force: true });
    rmSync(session, { recursive: true, force: true });
  }
});

test('an app that gives up root by itself is told of it, and outlives an upgrade', asRoot, t =>
  withProxy(
    proxy => ({
      orphan_timeout: '10s',
      apps: {
        web: {
          script: proxy.file(
            'renounce.js',
            `require('http').createServer((req, res) => setTimeout(() => res.end(String(process.pid)), req.url === '/slow?ms=400' ? 400 : 0))
              .listen(process.env.PORT, () => { process.setgid('nogroup'); process.setuid('nobody'); });`,
          ),
          instances: 3,
          user: undefined,
        },
      },
    }),
    async proxy => {
      const before = pidsOf(await steady(proxy, 3));
      await proxy.line(/given up root for nobody.*write `user: nobody`/);
      const load = await Load.only(proxy, { keepAlive: 3, fresh: 2, slow: 3 }).start();
      const upgraded = await proxy.upgrade();
      assert.equal(upgraded.code, 0, upgraded.err);
      const started = performance.now();
      assert.ok(upgraded.ms < 5000, `nobody is waited for: ${Math.round(upgraded.ms)} ms`);
      // They serve on, and are replaced in good order: they could never dial in again, and would end by themselves.
      await steady(proxy, 3, { timeout: 60_000, fits: list => !pidsOf(list).some(pid => before.includes(pid)) });
      t.diagnostic(`replaced within ${Math.round(performance.now() - started)} ms`);
      await load.more();
      await load.stop();
      t.diagnostic(load.summary());
      assert.deepEqual(load.failed, []);
      assert.doesNotMatch(proxy.output, /event loop stands still|ALARM hung/);
    },
  ),
);
