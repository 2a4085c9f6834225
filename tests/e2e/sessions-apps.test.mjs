// Apps in the forms in which people have them. Each keeps its sessions; none was changed for the proxy.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { PLAIN, apps, suiteDir, withProxy } from './lib/proxy.mjs';
import { keepsSessions } from './lib/sessions.mjs';
import { pooled, range } from './lib/wait.mjs';

const WORKERS = 3;

const app = (script, more = {}) => ({ apps: { app: { script, instances: WORKERS, ...more } } });

test('an ES module', { timeout: 60_000 }, () => withProxy(app('./sio-esm.mjs'), proxy => keepsSessions(proxy)));

test('an app bundled by esbuild, engine included', { timeout: 60_000 }, () =>
  withProxy(
    proxy => {
      const out = proxy.file('bundle.js', '');
      const esbuild = path.join(suiteDir, 'node_modules/.bin/esbuild');
      execFileSync(esbuild, [path.join(apps, 'sio-bundle.js'), '--bundle', '--platform=node', '--minify', '--log-level=error',
        '--external:bufferutil', '--external:utf-8-validate', `--outfile=${out}`]);
      return app(out, { cwd: path.dirname(out) });
    },
    proxy => keepsSessions(proxy),
  ));

test("an app with session ids of its own", { timeout: 60_000 }, () =>
  withProxy(app('./sio.js', { env: { OWN_IDS: '1' } }), async proxy => {
    const hellos = await keepsSessions(proxy);
    assert.equal(hellos.length, 60);
  }));

test('a path of its own', { timeout: 60_000 }, () =>
  withProxy(app('./sio.js', { env: { SIO_PATH: '/my.own/path-1/rt' } }), proxy =>
    keepsSessions(proxy, { options: { path: '/my.own/path-1/rt' } })));

for (const framework of ['express', 'koa', 'fastify']) {
  test(`${framework}: sessions, req.ip, a posted body`, { timeout: 60_000 }, () =>
    withProxy(app(`./${framework}.js`), async proxy => {
      const hellos = await keepsSessions(proxy);
      if (!PLAIN) assert.deepEqual([...new Set(hellos.map(hello => hello.address))], ['127.0.0.1'], 'handshake.address');

      const here = PLAIN && framework !== 'fastify' ? '::ffff:127.0.0.1' : '127.0.0.1';
      const plain = await request(proxy.port, { path: '/ip', headers: { host: 'app.example:81' } });
      assert.deepEqual(plain.json, { ip: here, remote: here, protocol: 'http', host: 'app.example:81' });
      const forged = { 'x-forwarded-for': '9.9.9.9', 'x-real-ip': '9.9.9.9', forwarded: 'for=9.9.9.9', 'x-forwarded-proto': 'https' };
      assert.equal((await request(proxy.port, { path: '/ip', headers: forged })).json.ip, here);

      const body = 'grüße '.repeat(200_000);
      const echoed = await request(proxy.port, { method: 'POST', path: '/echo', body, headers: { 'content-type': 'text/plain' } });
      assert.equal(echoed.status, 200);
      assert.ok(echoed.text === body, 'the body came back');
    }));
}

test('the address a client really has reaches the app', { timeout: 60_000, skip: PLAIN || os.platform() !== 'linux' }, () =>
  withProxy(app('./http.js'), async proxy => {
    // All of 127/8 is the loopback on Linux: another address without another machine.
    const from = (localAddress, headers) => new Promise((resolve, reject) => {
      http.get({ host: '127.0.0.1', port: proxy.port, path: '/head', localAddress, headers, agent: false }, res => {
        let text = '';
        res.on('data', chunk => (text += chunk)).on('end', () => resolve(JSON.parse(text)));
      }).on('error', reject);
    });
    for (const address of ['127.0.0.1', '127.0.0.77', '127.1.2.3']) {
      const seen = await from(address);
      assert.equal(seen.remoteAddress, address);
      assert.equal(seen.headers['x-forwarded-for'], address);
    }
    // The same kept-alive connection to a worker serves many clients: each request has its own address.
    const seen = await pooled(range(60), 6, i => from(`127.0.0.${10 + (i % 20)}`));
    assert.deepEqual(seen.map(s => s.remoteAddress), range(60).map(i => `127.0.0.${10 + (i % 20)}`));
  }));
