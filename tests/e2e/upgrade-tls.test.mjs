// WebSockets over TLS at an upgrade of the proxy: those over TLS 1.3 go on in the new process, those over TLS 1.2 in the old one.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { connections, socketsOf } from './lib/connections.mjs';
import { alone, byHand, ended, leaves, owned, tookOver, untouched, upgraded, waiting } from './lib/handoff.mjs';
import { alive, needsUpgrade, withProxy } from './lib/proxy.mjs';
import { besiege, siegeApp } from './lib/siege.mjs';
import { pidsOf, status, steady } from './lib/steer.mjs';
import { open } from './lib/upgrade.mjs';
import { range } from './lib/wait.mjs';
import { SClient, account, openSecure, reservePort } from './lib/wss.mjs';

const options = { timeout: 240_000, ...needsUpgrade };
const LIMIT = { PINGORA_UNIX_PROXY_HANDOFF_LIMIT_MS: '5000' };
const UPGRADES = 5;
const COUNT = process.env.SLOW === '1' ? 500 : 50;
/** WebSockets over TLS alone. */
const only = count => ({ sizes: { rest: 0, wss: Math.ceil(count * 0.8), wssBig: Math.ceil(count * 0.08), wssSilent: Math.ceil(count * 0.12) } });

async function withTls(more, body) {
  const listeners = await reservePort();
  return withProxy(proxy => ({ listeners: listeners(proxy), apps: { web: siegeApp(proxy) } }), more, body);
}

/** The process that has a client's connection. */
const owner = (proxy, port, pids) => pids.find(pid => socketsOf(pid).has(connections(proxy.securePort).get(port)));

test(`${COUNT} WebSockets over TLS that number each message, five upgrades in a row: nothing lost, nobody reconnects`, options, t =>
  withTls({}, async proxy => {
    const before = pidsOf(await steady(proxy, 2));
    await besiege(t, proxy, only(COUNT), async siege => {
      const leaving = [];
      for (const n of range(UPGRADES)) {
        const step = await upgraded(proxy);
        leaving.push(leaves(siege, step));
        leaving.at(-1).catch(() => {});
        const moved = await owned(siege, step);
        assert.ok(moved >= COUNT, `${moved} WebSockets`);
        t.diagnostic(`upgrade ${n + 1}: ${Math.round(step.ms)} ms, ${moved} WebSockets moved`);
        await siege.more();
        assert.deepEqual(siege.lost, []);
      }
      t.diagnostic(`old processes gone ${await Promise.all(leaving)} ms after their last request`);
      assert.deepEqual(siege.pids, before);
    });
    await alone(proxy);
  }));

test('openssl s_client changes its keys before and after it is moved, twice', options, () =>
  withTls({}, async proxy => {
    for (const suite of ['TLS_AES_128_GCM_SHA256', 'TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256']) {
      const client = await SClient.open(proxy, `/ws?name=${suite}&every=0`, ['-tls1_3', '-ciphersuites', suite]);
      const talks = () => client.ask('account', /account \{"pid":\d+/);
      await talks();
      for (const _ of range(2)) {
        for (const command of ['K', 'k']) {
          await client.updateKey(command);
          await talks();
        }
        // One that is not answered yet.
        await client.updateKey('K');
        await upgraded(proxy);
        await talks();
      }
      for (const command of ['k', 'K']) {
        await client.updateKey(command);
        await talks();
      }
      client.close();
    }
    await alone(proxy);
  }));

test('a WebSocket over TLS 1.2 stays in the old process, one over TLS 1.3 beside it moves', options, () =>
  withTls({}, async proxy => {
    const [stays, moves] = await Promise.all([
      openSecure(proxy, '/ws?name=stays&every=0', { maxVersion: 'TLSv1.2' }),
      openSecure(proxy, '/ws?name=moves&every=0'),
    ]);
    assert.deepEqual([stays, moves].map(socket => socket._socket.getProtocol()), ['TLSv1.2', 'TLSv1.3']);
    const { old, pid } = await upgraded(proxy);
    const owners = [stays, moves].map(socket => owner(proxy, socket._socket.localPort, [old, pid]));
    assert.deepEqual(owners, [old, pid]);
    for (const socket of [stays, moves]) assert.ok((await account(socket)).pid > 0);
    for (const socket of [stays, moves]) socket.close(1000);
    await alone(proxy);
  }));

test('a successor that knows no TLS tunnels gets none: they go on in the old process', options, () =>
  withTls({}, async proxy => {
    const [secure, plain] = await Promise.all([openSecure(proxy, '/ws?name=secure&every=0'), open(proxy.port, '/ws?name=plain&every=0')]);
    const { old, pid } = await byHand(proxy, { env: { PINGORA_UNIX_PROXY_FAULT: 'plain' } });
    assert.equal(owner(proxy, secure._socket.localPort, [old, pid]), old);
    assert.ok(socketsOf(pid).has(connections(proxy.port).get(plain._socket.localPort)), 'the plain one has moved');
    for (const socket of [secure, plain]) assert.ok((await account(socket)).pid > 0);
    for (const socket of [secure, plain]) socket.close(1000);
    await proxy.gone(old);
  }));

test('upgrades that fail once the tunnels are paused or sent: they go on where they were', options, t =>
  withTls({ env: LIMIT }, async proxy => {
    const before = await status(proxy);
    await besiege(t, proxy, only(30), async siege => {
      for (const step of ['tunnels', 'commit']) {
        for (const action of ['die', 'refuse', 'stall']) {
          const candidate = await waiting(proxy, { env: { ...LIMIT, PINGORA_UNIX_PROXY_FAULT: `${step}:${action}` } });
          proxy.kill(proxy.pid, 'SIGQUIT');
          await ended(candidate, 30_000);
          await proxy.line(new RegExp(`handing over to process ${candidate.pid} failed`), { timeout: 20_000 });
          await untouched(proxy, before);
          await siege.more();
          assert.deepEqual(siege.lost, [], `${step}:${action}`);
        }
      }
      await owned(siege, await byHand(proxy, { env: LIMIT }));
      await siege.more();
    });
    await alone(proxy);
  }));

test('the old process is killed when it has given everything: all WebSockets live on in the new one', options, t =>
  withTls({ env: LIMIT, stop: { code: null, killed: 'SIGKILL' } }, async proxy => {
    await steady(proxy, 2);
    await besiege(t, proxy, only(30), async siege => {
      const old = proxy.pid;
      const candidate = await waiting(proxy, { env: { ...LIMIT, PINGORA_UNIX_PROXY_FAULT: 'commit:pause=500' } });
      proxy.kill(old, 'SIGQUIT');
      await proxy.line(/pauses at commit/);
      proxy.kill(old, 'SIGKILL');
      await tookOver(proxy, candidate);
      assert.ok(alive(candidate.pid));
      await owned(siege, { pid: candidate.pid, old });
      await siege.more();
    });
  }));

/** All files below, with what is in them. */
function* files(dir) {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const at = path.join(dir, entry.name);
    if (entry.isDirectory()) yield* files(at);
    else if (entry.isFile()) yield [at, readFileSync(at, 'latin1')];
  }
}

test('the secrets of a connection stand in no log and no file', options, () =>
  withTls({ env: { RUST_LOG: 'trace' } }, async proxy => {
    const secrets = [];
    const tls = await import('node:tls');
    const socket = await openSecure(proxy, '/ws?name=watched&every=0', {
      createConnection: options => {
        const made = tls.connect({ ...options, host: '127.0.0.1', port: proxy.securePort, rejectUnauthorized: false });
        made.on('keylog', line => {
          const [label, , secret] = line.toString().trim().split(' ');
          if (/TRAFFIC_SECRET_0/.test(label)) secrets.push(secret);
        });
        return made;
      },
    });
    for (const _ of range(2)) {
      await upgraded(proxy);
      assert.ok((await account(socket)).pid > 0);
    }
    assert.equal(secrets.length, 2, 'of both directions');
    const forms = secrets.flatMap(hex => {
      const bytes = Buffer.from(hex, 'hex');
      return [hex, bytes.toString('base64').slice(0, 40), bytes.toString('latin1'), JSON.stringify([...bytes]).slice(1, 40), [...bytes].join(', ').slice(0, 40)];
    });
    const places = [['the log', proxy.output], ...files(proxy.runtime), ...files(path.join(proxy.dir, 'own'))];
    assert.ok(places.length > 3, `${places.length} places`);
    for (const [place, text] of places) {
      assert.ok(!forms.some(form => text.toLowerCase().includes(form.toLowerCase())), `a secret stands in ${place}`);
    }
    socket.close(1000);
    await alone(proxy);
  }));
