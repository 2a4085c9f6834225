// Deploys in every form that people use: what runs is found, pinned and compared, and the command says what it found.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import test from 'node:test';
import { upgraded } from './lib/handoff.mjs';
import { request } from './lib/http.mjs';
import { Load } from './lib/load.mjs';
import { BIN, configure, freePort, needsProxy, needsUpgrade, withProxy } from './lib/proxy.mjs';
import { conf, pidsOf, refuse, status, statusByCommand, steady, succeed } from './lib/steer.mjs';
import { until } from './lib/wait.mjs';

const options = { timeout: 180_000, ...needsProxy };
const upgrades = { timeout: 180_000, ...needsUpgrade };
const QUICK = { instances: 2, min_ready: '100ms', drain_window: '200ms', drain_timeout: '1s', min_uptime: '100ms' };

const SERVER = `
const http = require('node:http');
const { release } = require('./lib/release.js');
const env = () => Object.fromEntries(['FROM_FILE', 'SENT', 'WRITTEN'].map(name => [name, process.env[name]]));
http.createServer((req, res) => {
  if (req.url.startsWith('/pid')) return res.end(String(process.pid));
  if (req.url.startsWith('/slow')) return setTimeout(() => res.end(String(process.pid)), 200);
  res.end(JSON.stringify({ pid: process.pid, release, env: env(), slot: process.env.NODE_APP_INSTANCE }));
}).listen(3000);
`;
const commit = n => `${String(n).repeat(40)}\n`;

/** A directory with an app of two source files, packages and a commit. */
function site(proxy, name, release = 'r1') {
  const write = (file, text) => proxy.file(`${name}/${file}`, text);
  write('server.js', SERVER);
  write('lib/release.js', `exports.release = '${release}';`);
  write('package.json', '{"name": "site"}');
  write('package-lock.json', '{}');
  write('.git/HEAD', commit(1));
  return { write, dir: path.dirname(proxy.file(`${name}/server.js`)) };
}

/** Leads a link there, in one step, as deploy tools do. */
function point(link, to) {
  rmSync(`${link}.next`, { force: true });
  symlinkSync(to, `${link}.next`);
  renameSync(`${link}.next`, link);
}

const app = (proxy, more = {}) => ({ script: 'server.js', ...QUICK, ...more });
const light = proxy => Load.only(proxy, { keepAlive: 2, fresh: 1, slow: 1 }).start();
const reload = async (proxy, ...args) => (await succeed(proxy, ['reload', ...args])).out;

/** What the workers of all slots answer, by slot. */
async function answers(proxy, count = 2, at = '/') {
  const seen = new Map();
  await until(
    async () => {
      const { json } = await request(proxy.port, { path: at });
      seen.set(json.slot, json);
      return seen.size === count;
    },
    { what: `answers of ${count} workers` },
  );
  return [...seen.values()];
}

const releases = async (proxy, ...more) => [...new Set((await answers(proxy, ...more)).map(answer => answer.release))];
const alone = (proxy, old, of) => steady(proxy, 2, { app: of, fits: list => list.every(worker => !old.includes(worker.pid)) });

/** The log of the proxy itself, as far as it is about this. */
const logged = (proxy, words) => proxy.lines.filter(line => words.test(line.text)).map(line => line.text);

async function unharmed(t, load) {
  await load.stop();
  t.diagnostic(load.summary());
  assert.deepEqual(load.failed, [], 'no request fails');
}

/** A worker that ends and is started again. */
async function crash(proxy) {
  const before = pidsOf(await steady(proxy, 2));
  proxy.kill(before[0]);
  return steady(proxy, 2, { fits: list => !pidsOf(list).includes(before[0]) });
}

/** A proxy with one app, `web`, in a directory of its own. */
const withSite = body =>
  withProxy(proxy => {
    proxy.site = site(proxy, 'site');
    return { apps: { web: app(proxy, { cwd: proxy.site.dir }) } };
  }, body);

test('whatever is changed in place is found and told, and nothing else is touched', options, t =>
  withProxy(
    proxy => {
      proxy.site = site(proxy, 'site');
      proxy.site.write('shared/.env', 'FROM_FILE=1\n');
      return { apps: { web: app(proxy, { cwd: proxy.site.dir, env_file: path.join(proxy.site.dir, 'shared/.env') }) } };
    },
    async proxy => {
      const { write } = proxy.site;
      const load = await light(proxy);
      const forms = [
        ['git pull of a file that is not the script', () => write('lib/release.js', "exports.release = 'r2';"), /lib\/release\.js changed/, { release: 'r2' }],
        ['a new script', () => write('server.js', `${SERVER}// new\n`), /server\.js changed/, { release: 'r2' }],
        ['a new source file', () => write('lib/more.mjs', '0'), /lib\/more\.mjs changed/, { release: 'r2' }],
        [
          'npm ci',
          () => {
            write('package-lock.json', '{"lockfileVersion": 3}');
            write('node_modules/dep/index.js', '0');
            write('node_modules/.package-lock.json', '{}');
          },
          /node_modules\/\.package-lock\.json is new, package-lock\.json changed/,
          { release: 'r2' },
        ],
        ['npm ci with the same lock file', () => write('node_modules/.package-lock.json', '{ }'), /node_modules\/\.package-lock\.json changed/, { release: 'r2' }],
        ['a new env_file', () => write('shared/.env', 'FROM_FILE="2" # second\n'), /shared\/\.env changed/, { file: '2' }],
        ['a commit that touches no code', () => write('.git/HEAD', commit(2)), /commit 2222222222 instead of 1111111111/, { file: '2' }],
      ];
      for (const [name, change, words, { release, file }] of forms) {
        const old = pidsOf(await steady(proxy, 2));
        change();
        const out = await reload(proxy);
        t.diagnostic(`${name}: ${out.trim()}`);
        assert.match(out, /web: generation \d+ runs/, name);
        assert.match(out, words, name);
        await alone(proxy, old);
        if (release) assert.deepEqual(await releases(proxy), [release], name);
        if (file) for (const { env } of await answers(proxy)) assert.equal(env.FROM_FILE, file, name);
      }
      const old = pidsOf(await steady(proxy, 2));
      for (const file of ['README.md', 'app.log', 'logs/access.json', 'node_modules/dep/index.js', 'upload.png']) write(file, 'written while it runs');
      const out = await reload(proxy);
      assert.match(out, /^web: unchanged since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ; `reload web` rolls it\n$/);
      assert.deepEqual(pidsOf(await steady(proxy, 2)), old);
      await unharmed(t, load);
    },
  ));

for (const form of ['cwd', 'script']) {
  test(`a link in ${form} leads elsewhere: all workers move at a reload, and none before, whatever ends meanwhile`, upgrades, t =>
    withProxy(
      proxy => {
        for (const release of ['r1', 'r2', 'r3']) site(proxy, `releases/${release}`, release);
        proxy.current = proxy.file('current');
        point(proxy.current, 'releases/r1');
        const web = form === 'cwd' ? { cwd: proxy.current } : { cwd: path.dirname(proxy.current), script: 'current/server.js' };
        return { apps: { web: app(proxy, web) } };
      },
      async proxy => {
        const load = await light(proxy);
        point(proxy.current, 'releases/r2');
        await crash(proxy);
        assert.deepEqual(await releases(proxy), ['r1'], 'a worker that is started again runs what its generation runs');
        const old = pidsOf(await steady(proxy, 2));
        const out = await reload(proxy);
        t.diagnostic(out.trim());
        assert.match(out, form === 'cwd' ? /cwd now leads to .*releases\/r2/ : /current\/server\.js now leads to .*releases\/r2\/server\.js/);
        await alone(proxy, old);
        assert.deepEqual(await releases(proxy), ['r2']);

        // A proxy that follows another takes the workers as they are: nobody has asked for new code.
        point(proxy.current, 'releases/r3');
        const kept = pidsOf(await steady(proxy, 2));
        await upgraded(proxy);
        assert.deepEqual(pidsOf(await steady(proxy, 2)), kept);
        await crash(proxy);
        assert.deepEqual(await releases(proxy), ['r2'], 'the same after an upgrade');
        assert.match(await reload(proxy), /now leads to .*releases\/r3/);
        assert.deepEqual(await releases(proxy), ['r3']);
        assert.deepEqual(logged(proxy, /files were changed where they are/), []);
        await unharmed(t, load);
      },
    ));
}

test('files changed in place cannot be pinned: a worker that starts again runs the new ones, and the log says so once', options, t =>
  withSite(
    async proxy => {
      const load = await light(proxy);
      const { apps } = await status(proxy);
      // What starts in a generation that has just begun is not looked at.
      await until(async () => (await status(proxy)).uptime_seconds > 6, { timeout: 20_000, what: 'a generation that is some seconds old' });
      proxy.site.write('lib/release.js', "exports.release = 'r2';");
      await crash(proxy);
      await proxy.line(/web: files were changed where they are .*lib\/release\.js changed.*`reload web` makes all run the same/);
      assert.deepEqual((await releases(proxy)).sort(), ['r1', 'r2'].slice(-(await releases(proxy)).length));
      await crash(proxy);
      assert.equal(logged(proxy, /files were changed where they are/).length, 1);
      assert.match(await reload(proxy), /lib\/release\.js changed/);
      assert.deepEqual(await releases(proxy), ['r2']);
      assert.equal(apps.length, 1);
      await unharmed(t, load);
    },
  ));

const two = proxy => {
  for (const name of ['web', 'api']) proxy[name] = site(proxy, name);
  return {
    apps: { web: app(proxy, { cwd: proxy.web.dir }), api: app(proxy, { cwd: proxy.api.dir }) },
    routes: [{ path: '/api', app: 'api' }, { path: '/', app: 'web' }],
  };
};

test('reload APP rolls that app in any case, and others only if they are configured otherwise', options, t =>
  withProxy(two, async proxy => {
    const load = await light(proxy);
    let web = pidsOf(await steady(proxy, 2, { app: 'web' }));
    const api = pidsOf(await steady(proxy, 2, { app: 'api' }));
    proxy.api.write('lib/release.js', "exports.release = 'r2';");
    const out = await reload(proxy, 'web');
    assert.match(out, /web: generation 2 runs: .*\(as was asked\)/);
    assert.match(out, /api: unchanged/);
    web = pidsOf(await alone(proxy, web, 'web'));
    assert.deepEqual(pidsOf(await steady(proxy, 2, { app: 'api' })), api);
    assert.deepEqual(await releases(proxy, 2, '/api'), ['r1']);

    // Of both, each is told what happened to it.
    const both = await reload(proxy);
    assert.match(both, /api: generation 2 runs: .*\(lib\/release\.js changed\)/);
    assert.match(both, /web: unchanged since .*; `reload web` rolls it/);
    await alone(proxy, api, 'api');
    assert.deepEqual(await releases(proxy, 2, '/api'), ['r2']);
    assert.deepEqual(pidsOf(await steady(proxy, 2, { app: 'web' })), web);

    // A restart takes what is there, too.
    proxy.web.write('lib/release.js', "exports.release = 'r3';");
    await succeed(proxy, ['restart', 'web']);
    await alone(proxy, web, 'web');
    assert.deepEqual(await releases(proxy), ['r3']);
    assert.match(await reload(proxy), /web: unchanged since/);

    assert.match((await refuse(proxy, ['reload', 'wep'])).err, /no app "wep".*did you mean "web"/);
    await unharmed(t, load);
  }));

test('a change of the configuration alone rolls the app that it is about', options, t =>
  withProxy(two, async proxy => {
    const load = await light(proxy);
    const web = pidsOf(await steady(proxy, 2, { app: 'web' }));
    const api = pidsOf(await steady(proxy, 2, { app: 'api' }));
    const made = two(proxy);
    configure(proxy, { ...made, apps: { ...made.apps, api: { ...made.apps.api, env: { WRITTEN: 'yes' } } } });
    // The files of both were written anew: only the one that is named counts here.
    const out = await reload(proxy, 'web');
    assert.match(out, /api: generation 2 runs: .*\(env is configured otherwise\)/);
    await alone(proxy, web, 'web');
    await alone(proxy, api, 'api');
    for (const { env } of await answers(proxy, 2, '/api')) assert.equal(env.WRITTEN, 'yes');
    await unharmed(t, load);
  }));

test('SIGHUP finds the same as the command', options, t =>
  withSite(
    async proxy => {
      const load = await light(proxy);
      const old = pidsOf(await steady(proxy, 2));
      process.kill(proxy.pid, 'SIGHUP');
      await proxy.line(/reloaded: web: unchanged since/);
      proxy.site.write('lib/release.js', "exports.release = 'r2';");
      process.kill(proxy.pid, 'SIGHUP');
      await proxy.line(/reloaded: web: generation 2 runs.*lib\/release\.js changed/);
      await alone(proxy, old);
      assert.deepEqual(await releases(proxy), ['r2']);
      await unharmed(t, load);
    },
  ));

test('another file takes the place of the one in force, or is refused', upgrades, t =>
  withSite(
    async proxy => {
      const load = await light(proxy);
      const text = readFileSync(conf(proxy), 'utf8');
      const other = proxy.file('other.yaml');
      const withFile = (file, ...args) =>
        new Promise(resolve => {
          execFile(BIN, [...args, '-c', file], { timeout: 60_000 }, (error, out, err) => resolve({ code: error ? error.code : 0, out, err }));
        });
      assert.equal((await statusByCommand(proxy)).file, conf(proxy));
      assert.match((await succeed(proxy, ['status'])).out, new RegExp(`configuration: ${conf(proxy)}`));

      // What is refused changes nothing.
      const old = pidsOf(await steady(proxy, 2));
      writeFileSync(other, text.replace('"server.js"', '"missing.js"'));
      const refused = await withFile(other, 'reload');
      assert.equal(refused.code, 1);
      assert.match(refused.err, /other\.yaml:\d+:\d+: .*missing\.js/);
      assert.match(refused.err, new RegExp(`${conf(proxy)} stays the configuration`));
      assert.equal((await status(proxy)).file, conf(proxy));
      assert.deepEqual(pidsOf(await steady(proxy, 2)), old);

      writeFileSync(other, text.replace(/( +)script: "server.js"/, '$1script: "server.js"\n$1env: {WRITTEN: "other"}'));
      const taken = await withFile(other, 'reload');
      assert.equal(taken.code, 0, taken.err);
      assert.match(taken.out, new RegExp(`${other} is the configuration from now on, instead of ${conf(proxy)}`));
      assert.match(taken.out, /web: generation 2 runs: .*env is configured otherwise/);
      await alone(proxy, old);
      assert.equal((await status(proxy)).file, other);
      for (const { env } of await answers(proxy)) assert.equal(env.WRITTEN, 'other');

      // It is what SIGHUP reads, and what a successor runs with.
      writeFileSync(other, readFileSync(other, 'utf8').replace('"other"', '"again"'));
      process.kill(proxy.pid, 'SIGHUP');
      await proxy.line(/reloaded: web: generation 3 runs/);
      assert.equal(await api(proxy, '/v1/upgrade'), 200);
      const successor = await until(async () => ((await status(proxy)).pid !== proxy.child.pid ? status(proxy) : undefined), { what: 'the successor' });
      proxy.promote(successor);
      assert.equal((await status(proxy)).file, other);
      for (const { env } of await answers(proxy)) assert.equal(env.WRITTEN, 'again');
      await unharmed(t, load);
    },
  ));

/** Asks for something without naming a file. */
const api = (proxy, route) =>
  new Promise((resolve, reject) => {
    const asking = http.request({ socketPath: path.join(proxy.runtime, 'admin.sock'), path: route, method: 'POST', agent: false }, answer => {
      answer.resume().on('end', () => resolve(answer.statusCode));
    });
    asking.on('error', reject).end();
  });

test('a refused reload names every key that it cannot change, and the upgrade that can', upgrades, t =>
  withSite(
    async proxy => {
      const load = await light(proxy);
      const old = pidsOf(await steady(proxy, 2));
      const [second, metrics] = [await freePort(), await freePort()];
      const made = { apps: { web: app(proxy, { cwd: proxy.site.dir }) } };
      configure(proxy, {
        ...made,
        listeners: [{ address: `127.0.0.1:${proxy.port}` }, { address: `127.0.0.1:${second}` }],
        metrics: { address: `127.0.0.1:${metrics}` },
        logs: { format: 'json' },
        alarms: { repeat: '2h' },
        server: { threads: 3 },
      });
      const { err } = await refuse(proxy, ['reload']);
      t.diagnostic(err.trim());
      assert.match(err, /a reload does not change listeners, metrics, logs, alarms and server/);
      assert.match(err, new RegExp(`upgrade -c ${conf(proxy)}\` changes listeners, metrics, logs, alarms and server without a loss`));
      assert.deepEqual(pidsOf(await steady(proxy, 2)), old);
      await upgraded(proxy);
      assert.equal((await request(second, { path: '/' })).status, 200);
      assert.equal((await request(metrics, { path: '/metrics' })).status, 200);
      assert.deepEqual(pidsOf(await steady(proxy, 2)), old);
      await unharmed(t, load);
    },
  ));

test('--update-env gives the workers the environment of who asks, for good', upgrades, t =>
  withProxy(
    proxy => {
      proxy.site = site(proxy, 'site');
      proxy.site.write('shared/.env', 'FROM_FILE=file\n');
      const env_file = [path.join(proxy.site.dir, 'shared/.env')];
      return { apps: { web: app(proxy, { cwd: proxy.site.dir, env: { WRITTEN: 'written' }, env_file }) } };
    },
    async proxy => {
      const load = await light(proxy);
      const asked = (env, ...args) =>
        new Promise(resolve => {
          execFile(BIN, [...args, '-c', conf(proxy)], { timeout: 60_000, env: { ...process.env, ...env } }, (error, out, err) =>
            resolve({ code: error ? error.code : 0, out, err }));
        });
      const holds = async (sent, what) => {
        for (const { env } of await answers(proxy)) assert.deepEqual(env, { FROM_FILE: 'file', ...(sent ? { SENT: sent } : {}), WRITTEN: 'written' }, what);
      };
      await holds(undefined, 'at first');
      const all = { SENT: 'one', WRITTEN: 'not so', FROM_FILE: 'not so', NODE_OPTIONS: '--no-warnings' };
      let old = pidsOf(await steady(proxy, 2));
      const first = await asked(all, 'reload', 'web', '--update-env');
      assert.equal(first.code, 0, first.err);
      await alone(proxy, old);
      await holds('one', 'sent with a reload');
      await crash(proxy);
      await holds('one', 'a worker that is started again');
      old = pidsOf(await steady(proxy, 2));
      await upgraded(proxy);
      await crash(proxy);
      await holds('one', 'after an upgrade');
      proxy.site.write('lib/release.js', "exports.release = 'r2';");
      assert.match(await reload(proxy), /\(lib\/release\.js changed\)/);
      await holds('one', 'new code');
      assert.match(await reload(proxy), /unchanged/);

      const second = await asked({ SENT: 'two' }, 'restart', 'web', '--update-env');
      assert.equal(second.code, 0, second.err);
      await until(async () => (await answers(proxy)).every(({ env }) => env.SENT === 'two'), { what: 'what was sent with a restart' });
      await succeed(proxy, ['restart']);
      await until(async () => (await answers(proxy)).every(({ env }) => env.SENT === 'two'), { what: 'the same after a restart without' });
      assert.equal(statSync(path.join(proxy.runtime, 'state.json')).mode & 0o777, 0o600);
      await unharmed(t, load);
    },
  ));

test('a file of variables with a mistake is refused with its line, and the old workers serve on', options, () =>
  withProxy(
    proxy => {
      proxy.site = site(proxy, 'site');
      proxy.site.write('shared/.env', 'FROM_FILE=1\n');
      return { apps: { web: app(proxy, { cwd: proxy.site.dir, env_file: path.join(proxy.site.dir, 'shared/.env') }) } };
    },
    async proxy => {
      const old = pidsOf(await steady(proxy, 2));
      proxy.site.write('shared/.env', 'FROM_FILE=2\nnonsense\n');
      const { err } = await refuse(proxy, ['reload']);
      assert.match(err, /conf\.yaml:\d+:\d+: apps\.web\.env_file: .*shared\/\.env:2: "nonsense" is not NAME=value/);
      assert.match((await refuse(proxy, ['restart', 'web'])).err, /nothing was changed: web: .*shared\/\.env:2: "nonsense" is not NAME=value/);
      assert.deepEqual(pidsOf(await steady(proxy, 2)), old);
      for (const { env } of await answers(proxy)) assert.equal(env.FROM_FILE, '1');
    },
  ));

test('a rollout that another takes the place of says what goes on', options, () =>
  withProxy(
    proxy => {
      proxy.site = site(proxy, 'site');
      mkdirSync(path.join(proxy.site.dir, 'lib'), { recursive: true });
      return { apps: { web: app(proxy, { cwd: proxy.site.dir }) } };
    },
    async proxy => {
      // Slow to start, so that the second command comes in between.
      proxy.site.write('server.js', `setTimeout(() => { ${SERVER} }, 3000);`);
      const first = refuse(proxy, ['restart', 'web']);
      await until(async () => (await status(proxy)).apps[0].workers.some(worker => worker.generation === 2), { what: 'the restart' });
      proxy.site.write('server.js', `${SERVER}// quick again\n`);
      const out = await reload(proxy);
      assert.match(out, /web: generation 3 runs: .*\(server\.js changed\)/);
      const { err } = await first;
      assert.match(err, /web: generation 2 was given up for generation 3: a newer rollout took its place/);
      assert.doesNotMatch(err, /generation 1 goes on/);
    },
  ));
