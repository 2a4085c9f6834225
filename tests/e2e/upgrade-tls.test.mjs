// WebSockets over TLS at an upgrade of the proxy: those over TLS 1.3 go on in the new process, those over TLS 1.2 in the old one.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import test from 'node:test';
import tls from 'node:tls';
import { connections, socketsOf } from './lib/connections.mjs';
import { alone, byHand, ended, leaves, owned, tookOver, untouched, upgraded, waiting } from './lib/handoff.mjs';
import { alive, needsUpgrade, withProxy } from './lib/proxy.mjs';
import { besiege, siegeApp } from './lib/siege.mjs';
import { pidsOf, status, steady, workers } from './lib/steer.mjs';
import { open, upgradeHead } from './lib/upgrade.mjs';
import { range, until } from './lib/wait.mjs';
import { SClient, account, openSecure, reservePort } from './lib/wss.mjs';

const { numbered, Count } = createRequire(import.meta.url)('./apps/numbers.js');

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

test('a WebSocket whose 101 comes after the upgrade, and one over a resumed TLS session: both go on in the new process', options, () =>
  withTls({}, async proxy => {
    const first = await openSecure(proxy, '/ws?name=first&every=0');
    let session = first._socket.getSession();
    first._socket.on('session', ticket => (session = ticket));
    assert.ok((await account(first)).pid > 0);
    const resumed = await openSecure(proxy, '/ws?name=resumed&every=0', { session });
    assert.ok(resumed._socket.isSessionReused());
    const opening = openSecure(proxy, '/ws?name=late&every=0&late=4000');
    await until(async () => (await workers(proxy)).some(({ active }) => active > 0), { what: 'the upgrade at the worker' });
    const { old, pid } = await upgraded(proxy);
    const late = await opening;
    await until(() => owner(proxy, late._socket.localPort, [old, pid]) === pid, { what: 'the late one in the new process' });
    assert.equal(owner(proxy, resumed._socket.localPort, [old, pid]), pid);
    for (const socket of [first, resumed, late]) assert.ok((await account(socket)).pid > 0);
    for (const socket of [first, resumed, late]) socket.close(1000);
    await alone(proxy);
  }));

test('a frame in one record with the request for the upgrade arrives', options, () =>
  withTls({}, async proxy => {
    const socket = tls.connect({ host: '127.0.0.1', port: proxy.securePort, rejectUnauthorized: false });
    let heard = '';
    socket.on('data', data => (heard += data.toString('latin1')));
    socket.on('error', () => {});
    const frame = Buffer.concat([Buffer.from([0x81, 0x87, 0, 0, 0, 0]), Buffer.from('account')]);
    socket.write(Buffer.concat([Buffer.from(upgradeHead('/ws?name=early&every=0')), frame]));
    await until(() => /101 Switching[^]*account \{"pid"/.test(heard), { what: () => `an account: ${heard}` });
    await upgraded(proxy);
    heard = '';
    socket.write(frame);
    await until(() => /account \{"pid"/.test(heard), { what: () => `an account after the upgrade: ${heard}` });
    socket.destroy();
  }));

/** Bytes that the server's end of a connection has sent and the client has not taken. */
function queued(proxy, port) {
  const hex = number => number.toString(16).toUpperCase().padStart(4, '0');
  const fits = new RegExp(`:${hex(proxy.securePort)} [0-9A-F]+:${hex(port)} 01 ([0-9A-F]+):`);
  return parseInt(fits.exec(readFileSync('/proc/net/tcp', 'latin1'))?.[1] ?? '0', 16);
}

test('a client that does not read is moved with what was sealed for it: nothing is lost', options, () =>
  withTls({}, async proxy => {
    const socket = await openSecure(proxy, '/ws?name=slow&every=20&size=200000');
    const count = new Count(why => assert.fail(why));
    socket.on('message', data => {
      if (data[0] > 0x60) return;
      const { n, whole } = numbered.read(data);
      count.take(n, whole);
    });
    await until(() => count.last > 2, { what: 'messages' });
    for (const _ of range(2)) {
      const port = socket._socket.localPort;
      socket._socket.pause();
      let before = -1;
      await until(() => {
        const now = queued(proxy, port);
        const stuck = now > 0 && now === before;
        before = now;
        return stuck;
      }, { every: 500, timeout: 30_000, what: 'a full socket' });
      const { old, pid } = await upgraded(proxy);
      assert.equal(owner(proxy, port, [old, pid]), pid);
      const last = count.last;
      socket._socket.resume();
      await until(() => count.last > last + 20, { timeout: 30_000, what: () => `messages after ${last}: ${count.last}` });
    }
    const app = await account(socket);
    await until(() => count.last === app.sent, { what: () => `${app.sent} messages: ${count.last}` });
    assert.equal(count.wrong, 0);
    socket.close(1000);
    await alone(proxy);
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
