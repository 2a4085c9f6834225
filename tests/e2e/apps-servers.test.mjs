// Apps with more than one server, process or thread: the world gets the one that it is meant to get, and the app the others.

import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { alive, freePort, needsProxy, withProxy } from './lib/proxy.mjs';
import { succeed, workers } from './lib/steer.mjs';
import { range, until } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };
const app = (name, more = {}) => ({ apps: { app: { script: './servers.js', args: [name], ...more } } });
const names = async (port, count, path = '/') => {
  const answers = await Promise.all(range(count).map(() => request(port, { path })));
  assert.deepEqual([...new Set(answers.map(answer => answer.status))], [200]);
  return [...new Set(answers.map(answer => answer.text.replace(/ of \d+/g, '')))];
};

test('a helper on any port answers the app, and no request goes round in circles', options, () =>
  withProxy(app('helper', { instances: 2 }), async proxy => {
    await proxy.pids(2);
    assert.deepEqual(await names(proxy.port, 20), ['app, helper']);
  }));

test('all workers show the same of two servers, and the other one stays on its port', options, async () => {
  const ports = { api: await freePort(), metrics: await freePort() };
  const env = { API: String(ports.api), METRICS: String(ports.metrics) };
  await withProxy(app('two', { instances: 4, env }), async proxy => {
    const pids = await proxy.pids(4);
    const shown = await names(proxy.port, 40);
    assert.equal(shown.length, 1, 'one server for everybody');
    const [other] = Object.keys(ports).filter(name => name !== shown[0]);
    await proxy.line(new RegExp(`port ${ports[other]} is not the app's public one \\(key port\\): this worker listens on it`));
    assert.deepEqual(await names(ports[other], 4), [other]);
    // A new generation keeps to that, and has the port when the old one is gone.
    await succeed(proxy, ['restart']);
    await proxy.pids(4, { not: pids });
    assert.deepEqual(await names(proxy.port, 40), shown);
    const answer = () => request(ports[other], { path: '/pid' }).then(({ text }) => Number(text), () => pids[0]);
    await until(async () => !pids.includes(await answer()), { timeout: 20_000, what: 'a new worker to have the port' });
    assert.deepEqual(await names(ports[other], 4), [other]);
  });
});

test('the key port says which one, and ports gives each worker one', options, async () => {
  const metrics = await freePort();
  const more = { instances: 2, port: 3000, ports: { [metrics]: 'each' }, env: { METRICS: String(metrics) } };
  await withProxy(app('two', more), async proxy => {
    await proxy.pids(2);
    assert.deepEqual(await names(proxy.port, 20), ['api']);
    for (const slot of [0, 1]) {
      await proxy.line(slot === 0 ? new RegExp(`port ${metrics} .*: this worker listens on it`) : /listens on \d+ instead/);
      assert.match((await request(metrics + slot)).text, /^metrics of \d+$/);
    }
  });
});

test('a launcher that speaks before there is an app does not keep it from being ready', options, () =>
  withProxy(app('launcher'), async proxy => {
    assert.deepEqual(await names(proxy.port, 4), ['api']);
  }));

test('a worker thread that listens keeps its connection, and the main thread its own', options, () =>
  withProxy(app('threads'), async proxy => {
    const before = proxy.lines.length;
    assert.deepEqual(await names(proxy.port, 4), ['api']);
    await proxy.line(/port 4000 is not the app's public one/);
    const hung = proxy.lines.slice(before).filter(line => /hung|hangs|superseded/.test(line.text));
    assert.deepEqual(hung, []);
  }));

test('an app that the preload script does not reach is found, and told what to write', options, async () => {
  const port = await freePort();
  const more = { start_timeout: '6s', env: { METRICS: String(port) } };
  await withProxy(
    app('unreached', more),
    { ready: false },
    async proxy => {
      const line = await proxy.line(new RegExp(`its process \\d+ \\(.*servers\\.js alone\\) listens on TCP port ${port}: `), { timeout: 20_000 });
      assert.match(line.text, /its NODE_OPTIONS lacks what the proxy wrote there/);
    },
  );
});

/** With the preload script the new app says that it listens; without, nobody does. */
const watched = {
  'node --watch': [[], {}, 'server.listen(3000)', [200]],
  'node --watch without the preload script': [
    ['{socket}'],
    { preload: false },
    "require('node:fs').rmSync(process.argv[2], { force: true }), server.listen(process.argv[2])",
    // A request that both had when they ended may have been acted on twice.
    [200, 502],
  ],
};

for (const [name, [args, more, listen, expected]] of Object.entries(watched)) {
  test(`${name} starts the app anew: requests wait for the new one, and none waits in vain`, options, async () => {
    // The new one is slow enough for requests to come while no worker has a server.
    const source = (version, delay) => `
      const server = require('node:http').createServer((req, res) => res.end(req.url === '/' ? '${version}' : String(process.pid)));
      setTimeout(() => { ${listen} }, ${delay});
    `;
    const dir = proxy => path.join(proxy.dir, 'own');
    const write = (proxy, version, delay) => writeFileSync(path.join(dir(proxy), 'app.js'), source(version, delay));
    const config = proxy => {
      mkdirSync(dir(proxy));
      write(proxy, 'old', 0);
      return { apps: { app: { command: [process.execPath, '--watch', 'app.js', ...args], cwd: dir(proxy), instances: 2, affinity: 'none', ...more } } };
    };
    await withProxy(config, async proxy => {
      let isNew = false;
      const ask = async () => {
        const began = performance.now();
        const { status, text } = await request(proxy.port);
        isNew ||= text === 'new';
        return { status, seconds: (performance.now() - began) / 1000 };
      };
      const asked = [];
      write(proxy, 'new', 700);
      await until(() => asked.push(ask()) && isNew, { timeout: 20_000, what: 'an answer of the new app' });
      const answers = await Promise.all(asked);
      assert.deepEqual(answers.map(answer => answer.status).filter(status => !expected.includes(status)), []);
      const longest = Math.max(...answers.map(answer => answer.seconds));
      assert.ok(longest < 8, `one waited for ${longest} s, and the app was there again`);
      await until(async () => (await workers(proxy)).every(({ pid, state }) => state !== 'ready' || alive(pid)), { what: 'the ids of processes that live' });
    });
  });
}
