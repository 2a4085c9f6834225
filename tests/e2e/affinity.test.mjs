// Affinity other than Socket.IO's, and balance.

import assert from 'node:assert/strict';
import http from 'node:http';
import { chmodSync, copyFileSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { apps, needsProxy, withProxy } from './lib/proxy.mjs';
import { pooled, range, until } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };
const web = more => ({ apps: { web: { script: './http.js', instances: 3, ...more } } });

const keys = {
  cookie: [{ cookie: 'user' }, key => ({ headers: { cookie: `a=1; user=${key}; b=2` } })],
  header: [{ header: 'X-User' }, key => ({ headers: { 'x-user': key } })],
  query: [{ query: 'user' }, key => ({ path: `/pid?ms=5&user=${key}` })],
  'client-address': ['client-address', (key, i) => ({ localAddress: `127.0.0.${10 + i}` })],
};

for (const [name, [affinity, spell]] of Object.entries(keys)) {
  test(`affinity by ${name}: one key, one worker; many keys, all workers; a death moves only its own keys`, options, () =>
    withProxy(web({ affinity }), { ready: { workers: undefined } }, async proxy => {
      const ask = (key, i) => new Promise((resolve, reject) => {
        http.get({ host: '127.0.0.1', port: proxy.port, path: '/pid?ms=5', agent: false, ...spell(key, i) }, res => {
          let text = '';
          res.on('data', chunk => (text += chunk)).on('end', () => resolve(Number(text)));
        }).on('error', reject);
      });
      await until(async () => new Set(await pooled(range(40), 10, i => ask(`probe${i}`, i))).size === 3, { what: 'three workers' });
      const owners = await pooled(range(40), 10, i => ask(`key${i}`, i));
      for (const _ of range(3)) assert.deepEqual(await pooled(range(40), 10, i => ask(`key${i}`, i)), owners);
      assert.equal(new Set(owners).size, 3);
      proxy.kill(owners[0]);
      const others = range(40).filter(i => owners[i] !== owners[0]);
      for (const _ of range(3)) assert.deepEqual(await pooled(others, 10, i => ask(`key${i}`, i)), others.map(i => owners[i]));
    }));
}

test('round-robin goes around', options, () =>
  withProxy(web({ affinity: 'none', balance: 'round-robin' }), async proxy => {
    const pids = [];
    for (const _ of range(12)) pids.push((await request(proxy.port, { path: '/pid' })).text);
    assert.equal(new Set(pids.slice(0, 3)).size, 3);
    for (const i of range(9)) assert.equal(pids[i + 3], pids[i]);
  }));

test('least-loaded avoids the busy worker', options, () =>
  withProxy(web({ instances: 2 }), async proxy => {
    // One worker gets all of these to do ...
    const busy = request(proxy.port, { path: '/slow?ms=3000' });
    const other = await until(async () => (await request(proxy.port, { path: '/pid' })).text, { what: 'an answer' });
    // ... so the other one answers.
    for (const _ of range(20)) assert.equal((await request(proxy.port, { path: '/pid' })).text, other);
    assert.notEqual((await busy).text, `slow ${other}`);
  }));

test('an https app is served plain behind the proxy', options, () =>
  withProxy({ apps: { web: { script: './https.js' } } }, async proxy => {
    const answer = await request(proxy.port, { path: '/x' });
    assert.deepEqual(answer.json, { url: '/x', address: '127.0.0.1' });
  }));

test('workers of another user', { ...options, skip: options.skip ?? (process.getuid() !== 0 && 'needs root') }, () =>
  withProxy(
    proxy => {
      chmodSync(proxy.dir, 0o755);
      const dir = path.join(proxy.dir, 'own');
      mkdirSync(dir);
      for (const file of ['http.js', 'pid.js', 'package.json']) copyFileSync(path.join(apps, file), path.join(dir, file));
      return { apps: { web: { script: './http.js', cwd: dir, user: 'nobody', instances: 2 } } };
    },
    async proxy => {
      const { json } = await request(proxy.port, { path: '/env' });
      assert.equal(json.env.USER, 'nobody');
      assert.equal(json.uid, 65_534);
    },
  ));
