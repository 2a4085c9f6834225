// A reload of several apps: the file comes into force for all of them or for none.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { configure, needsProxy, withProxy } from './lib/proxy.mjs';
import { pidsOf, refuse, status, steady, succeed } from './lib/steer.mjs';
import { until } from './lib/wait.mjs';

const options = { timeout: 120_000, ...needsProxy };
const QUICK = { instances: 2, min_ready: '100ms', drain_window: '200ms', drain_timeout: '2s', min_uptime: '100ms' };

const SERVER = `
if (process.env.FAILS) { console.error('cannot start: ' + process.env.FAILS); process.exit(9); }
setTimeout(() => {
  const version = () => require('node:fs').readFileSync(__dirname + '/version.txt', 'utf8');
  const started = version();
  require('node:http').createServer((q, s) => {
    const told = q.url.startsWith('/pid') ? String(process.pid) : [process.env.APP, process.env.MODE, started].join(' ');
    setTimeout(() => s.end(told), 5);
  }).listen(3000);
}, Number(process.env.LATE ?? 0));
`;

/** Apps by their names and environments; each has a path of its own. */
const config = proxy => (apps, limits = {}) => ({
  apps: Object.fromEntries(
    Object.entries(apps).map(([name, { rules, ...env }]) => [
      name,
      { script: './server.js', cwd: proxy.app, ...QUICK, ...rules, env: { APP: name, MODE: 'one', ...env } },
    ]),
  ),
  routes: Object.keys(apps).map((name, n) => ({ path: n === 0 ? '/' : `/${name}`, app: name })),
  limits,
});

const prepare = proxy => {
  proxy.app = proxy.file('app/server.js', SERVER).replace(/\/server\.js$/, '');
  proxy.file('app/version.txt', 'v1');
  return config(proxy)({ web: {}, api: {}, old: {} });
};

const answer = async (proxy, name) => (await request(proxy.port, { path: `/${name}/` })).body.toString();

/** Requests to these apps, one after the other, until `end`, which tells those that failed. */
function asking(proxy, names) {
  let over = false;
  const failed = [];
  let count = 0;
  const loops = names.map(async name => {
    while (!over) {
      const told = await request(proxy.port, { path: `/${name}/` }).catch(error => ({ status: error.message, body: '' }));
      count += 1;
      if (told.status !== 200 || !String(told.body).startsWith(name)) failed.push(`${name}: ${told.status} ${told.body}`);
    }
  });
  return async () => {
    over = true;
    await Promise.all(loops);
    return { failed, count };
  };
}

test('one app fails: no other is changed, removed or added, and no route or limit', options, t =>
  withProxy(prepare, async proxy => {
    for (const app of ['web', 'api', 'old']) await steady(proxy, 2, { app });
    const before = await status(proxy);
    const end = asking(proxy, ['web', 'api', 'old']);
    // `web` has rolled when `api` fails; `old` is left out; `new` comes, and a limit.
    configure(proxy, config(proxy)({ web: { MODE: 'two' }, api: { FAILS: 'no schema', rules: { surge: 1 } }, new: {} }, { body_size: '1kib' }));
    const { err } = await refuse(proxy, ['reload']);
    t.diagnostic(err.trim().replaceAll('\n', ' / '));
    assert.match(err, /^.*api: generation 2 was given up, generation 1 goes on: slot \d: exited with code 9/);
    for (const line of [/^web: generation \d .*an app that was to change with it has failed/m, /^new: is stopped again/m, /^old: stays$/m, /routes, limits and all else of the file stay as they were/])
      assert.match(err, line);
    assert.deepEqual(await end().then(({ failed, count }) => [failed, count > 50]), [[], true]);
    const now = async () => (await status(proxy)).apps.map(app => app.name);
    await until(async () => (await now()).join() === 'web,api,old', { what: 'the apps of before' });
    for (const app of ['web', 'api', 'old']) await steady(proxy, 2, { app });
    for (const app of ['web', 'api', 'old']) assert.equal(await answer(proxy, app), `${app} one v1`);
    for (const n of [1, 2]) assert.deepEqual(pidsOf((await status(proxy)).apps[n].workers), pidsOf(before.apps[n].workers));
    const big = await request(proxy.port, { method: 'POST', path: '/', body: 'x'.repeat(5000) });
    assert.equal(big.status, 200, 'the limit is not in force');

    // Mended: all at once, and no request to the app that goes is lost while its route is in force.
    const load = asking(proxy, ['web', 'api']);
    configure(proxy, config(proxy)({ web: { MODE: 'two' }, api: { MODE: 'two' }, new: {} }, { body_size: '1kib' }));
    const { out } = await succeed(proxy, ['reload']);
    assert.match(out, /^old: stops, it is not configured any more/m);
    assert.deepEqual((await load()).failed, []);
    assert.equal(await answer(proxy, 'new'), 'new one v1');
    assert.equal(await answer(proxy, 'old'), 'web two v1', 'its route is gone');
    await until(async () => (await now()).join() === 'web,api,new', { what: 'the apps of now' });
  }));

test('an app that had rolled is rolled back; one with nothing but new code keeps it', options, () =>
  withProxy(prepare, async proxy => {
    for (const app of ['web', 'api', 'old']) await steady(proxy, 2, { app });
    proxy.file('app/version.txt', 'v2');
    writeFileSync(`${proxy.app}/server.js`, `${SERVER}// newer\n`);
    // `api` fails a while after the others have rolled; of `old` nothing but the code is another.
    configure(proxy, config(proxy)({ web: { MODE: 'two' }, api: { LATE: 60_000, rules: { start_timeout: '8s' } }, old: {} }));
    const { err } = await refuse(proxy, ['reload']);
    assert.match(err, /^.*api: generation 2 was given up/);
    assert.match(err, /^web: generation 2 runs/m);
    assert.match(err, /^web: generation 3 runs: 2 workers replaced .*as it was configured before/m);
    assert.match(err, /^old: generation 2 runs: .*server\.js changed/m);
    assert.equal(await answer(proxy, 'web'), 'web one v2', 'what was changed in place cannot come back');
    assert.equal(await answer(proxy, 'old'), 'old one v2');
    assert.equal(await answer(proxy, 'api'), 'api one v1');
  }));
