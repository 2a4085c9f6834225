// surge: 0, for an app whose processes cannot run side by side: it holds a TCP port of its own.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import net from 'node:net';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { BIN, configure, freePort, needsProxy, withProxy } from './lib/proxy.mjs';
import { sleep } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };
const app = (port, more) => ({
  command: ['node', 'raw-port.js', '{socket}', String(port)],
  preload: false,
  stop_timeout: '2s',
  drain_timeout: '2s',
  ...more,
});
const command = (proxy, ...words) => new Promise(resolve => {
  const conf = path.join(proxy.dir, 'conf.yaml');
  execFile(BIN, [...words, '-c', conf], { env: proxy.environment(), timeout: 40_000 }, (error, out, err) => {
    resolve({ code: error ? error.code ?? error.signal : 0, out, err });
  });
});
/** What the raw port says. */
const raw = port => new Promise((resolve, reject) => {
  const socket = net.connect(port, '127.0.0.1');
  let text = '';
  socket.on('data', data => (text += data));
  socket.on('end', () => resolve(Number(text)));
  socket.on('error', reject);
});

test('a restart of an app with a TCP port of its own fails, says what to write, and the old worker serves on', options, async () => {
  const port = await freePort();
  await withProxy({ apps: { a: app(port, {}) } }, { ready: { path: '/' } }, async proxy => {
    const old = await raw(port);
    const { code, err } = await command(proxy, 'restart');
    assert.equal(code, 1);
    assert.match(err, /EADDRINUSE/);
    assert.match(err, /surge: 0 in the app stops that one first/);
    assert.equal(Number((await request(proxy.port, { path: '/' })).text), old);
  });
});

test('surge: 0: restart and reload replace the only worker, and requests wait for the next one', options, async t => {
  const port = await freePort();
  await withProxy({ apps: { a: app(port, { surge: 0 }) } }, { ready: { path: '/' } }, async proxy => {
    const seen = [await raw(port)];
    let stop = false;
    let asked = 0;
    const failed = [];
    const ask = async () => {
      const answer = await request(proxy.port, { path: '/', timeout: 20_000 }).catch(error => ({ status: error.message }));
      asked += 1;
      if (answer.status !== 200) failed.push(answer.status);
    };
    // Clients come whether or not those before them were answered.
    const clients = (async () => {
      const all = [];
      while (!stop && all.length < 1000) {
        all.push(ask());
        await sleep(20);
      }
      await Promise.all(all);
    })();
    const step = async words => {
      const { code, err } = await command(proxy, ...words);
      assert.equal(code, 0, err);
      const pid = await raw(port);
      assert.ok(!seen.includes(pid), `${words}: ${pid} is new`);
      assert.equal(Number((await request(proxy.port, { path: '/' })).text), pid);
      seen.push(pid);
    };
    try {
      await step(['restart']);
      configure(proxy, { apps: { a: app(port, { surge: 0, env: { NEW: '1' } }) } });
      await step(['reload']);
    } finally {
      stop = true;
      await clients;
    }
    t.diagnostic(`${asked} requests`);
    assert.deepEqual(failed, []);
    assert.ok(asked >= 20, `${asked} requests`);
  });
});
