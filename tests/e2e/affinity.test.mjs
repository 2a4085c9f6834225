// Affinity other than Socket.IO's, and balance.

import assert from 'node:assert/strict';
import http from 'node:http';
import { chmodSync, copyFileSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import SockJS from 'sockjs-client';
import WebSocket from 'ws';
import { WebsocketProvider } from 'y-websocket';
import * as Y from 'yjs';
import { request } from './lib/http.mjs';
import { ask as ask2, withSession } from './lib/http2.mjs';
import { apps, needsProxy, withProxy } from './lib/proxy.mjs';
import { appStatus, succeed } from './lib/steer.mjs';
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

/** The clients of rooms, each a document of its own. */
function joinRooms(proxy, rooms, clients) {
  const joined = rooms.flatMap(room => range(clients).map(() => {
    const doc = new Y.Doc();
    const provider = new WebsocketProvider(proxy.url.replace('http', 'ws'), room, doc, { WebSocketPolyfill: WebSocket, disableBc: true });
    const client = { room, doc, provider, lost: 0 };
    provider.on('connection-close', () => (client.lost += 1));
    return client;
  }));
  const leave = () => joined.forEach(({ provider, doc }) => {
    provider.destroy();
    // Its check of who is there would keep this process alive.
    provider.awareness.destroy();
    doc.destroy();
  });
  return { joined, of: room => joined.filter(client => client.room === room), leave };
}

/** Room by room: who has it, once all its clients are there. */
async function hosts(proxy, rooms, clients) {
  const whole = async room => {
    const { json } = await request(proxy.port, { path: `/${room}/who` });
    return json?.clients === clients && json.pid;
  };
  return pooled(rooms, 10, room => until(() => whole(room), { timeout: 30_000, what: `all ${clients} clients of ${room} on one worker` }));
}

/** What one writes, all others of its room read. */
async function assertTogether(members, text) {
  members[0].doc.getMap('said').set('text', text);
  const heard = member => member.doc.getMap('said').get('text') === text;
  const seen = () => members.map(member => [heard(member), member.provider.wsconnected, member.provider.synced, member.lost]);
  await until(() => members.every(heard), { what: () => `"${text}" at everybody in ${members[0].room}: ${JSON.stringify(seen())}` });
}

const room20 = range(20).map(i => `room-${i}`);
const rooms = more => ({ apps: { rooms: { script: './rooms.js', affinity: { path: 1 }, instances: 2, ...more } } });
/** By its name the path of a request that looks is a room, too. */
const withRooms = (config, body) =>
  withProxy(config, { ready: { path: '/who', workers: undefined } }, async proxy => {
    await appStatus(proxy, 'rooms', app => app.ready === app.workers.length, 'all workers ready');
    await body(proxy);
  });

test('affinity by path: the clients of a room of y-websocket meet on one worker, also when a worker comes', { ...options, timeout: 120_000 }, () =>
  withRooms(rooms(), async proxy => {
    const { joined, of, leave } = joinRooms(proxy, room20, 3);
    try {
      const before = await hosts(proxy, room20, 3);
      assert.equal(new Set(before).size, 2);
      for (const room of room20) await assertTogether(of(room), 'two workers');
      const lost = joined.map(client => client.lost);

      await succeed(proxy, ['scale', 'rooms', '3']);
      const after = await until(async () => {
        const now = await hosts(proxy, room20, 3);
        return new Set(now).size === 3 && now;
      }, { timeout: 30_000, what: 'rooms on the third worker' });
      const moved = room20.filter((_, i) => before[i] !== after[i]);
      assert.ok(moved.length > 0 && moved.length < 16, `${moved.length} of 20 rooms moved`);
      const come = after.find(pid => !before.includes(pid));
      for (const room of moved) assert.equal(after[room20.indexOf(room)], come, 'only to the new worker');
      joined.forEach((client, i) => {
        if (!moved.includes(client.room)) assert.equal(client.lost, lost[i], `a client of ${client.room}, which stays, was cut`);
      });
      for (const room of room20) await assertTogether(of(room), 'three workers');
    } finally {
      leave();
    }
  }));

test('affinity by path: a room is whole again after its worker has died and is back', { ...options, timeout: 120_000 }, () =>
  withRooms(rooms(), async proxy => {
    const { of, leave } = joinRooms(proxy, room20, 3);
    try {
      const before = await hosts(proxy, room20, 3);
      proxy.kill(before[0]);
      const after = await until(async () => {
        const now = await hosts(proxy, room20, 3);
        return new Set(now).size === 2 && !now.includes(before[0]) && now;
      }, { timeout: 40_000, what: 'rooms on the worker that has come for the dead one' });
      room20.forEach((room, i) => {
        if (before[i] !== before[0]) assert.equal(after[i], before[i], `${room} stays where it was`);
      });
      for (const room of room20) await assertTogether(of(room), 'again');
    } finally {
      leave();
    }
  }));

for (const transport of ['xhr-polling', 'xhr-streaming', 'websocket']) {
  test(`affinity by path: a session of SockJS over ${transport} stays on its worker`, { ...options, timeout: 120_000 }, () =>
    withProxy({ apps: { web: { script: './sockjs.js', affinity: { path: 3 }, instances: 2 } } }, { ready: { workers: 2 } }, async proxy => {
      const talk = async () => {
        const client = new SockJS(`${proxy.url}/sockjs`, null, { transports: [transport] });
        const heard = [];
        let closed;
        client.onmessage = event => heard.push(event.data);
        client.onclose = event => (closed = `${event.code} ${event.reason}`);
        try {
          for (const i of range(5)) {
            await until(() => client.readyState === SockJS.OPEN, { what: () => `an open session (${closed})` });
            client.send(String(i));
            await until(() => heard.length === i + 1, { what: () => `answer ${i} (${closed})` });
          }
        } finally {
          client.close();
        }
        assert.deepEqual(heard.map(text => text.split(' ')[1]), ['0', '1', '2', '3', '4']);
        const pids = new Set(heard.map(text => text.split(' ')[0]));
        assert.equal(pids.size, 1);
        return [...pids][0];
      };
      const pids = await pooled(range(20), 5, talk);
      assert.equal(new Set(pids).size, 2);
    }));
}

test('affinity by path: one room however it is spelt, on every carrier', options, () =>
  withRooms(proxy => ({ ...rooms({ instances: 3 }), listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }] }), async proxy => {
    const pid = async target => (await request(proxy.port, { path: target })).json.pid;
    await withSession(proxy.port, async session => {
      const seen = new Set();
      for (const i of range(30)) {
        const one = await pid(`/room-${i}/who`);
        seen.add(one);
        for (const same of [`/room-${i}`, `/room-${i}?a=/b`, `/%72oom%2d${i}/who`, `//room-${i}//who`, `http://127.0.0.1:${proxy.port}/room-${i}/who`]) assert.equal(await pid(same), one, same);
        assert.equal(JSON.parse((await ask2(session, { ':path': `/room-${i}/x` })).text).pid, one);
      }
      assert.equal(seen.size, 3);
    });
    // Without a segment there is no room, and any worker will do.
    assert.equal(new Set(await pooled(range(30), 1, () => pid('/?'))).size, 3);
  }));

test('affinity by path: a target with a host names the same room, also for workers with HTTP/2', options, () =>
  withProxy({ apps: { web: { command: [process.execPath, 'http2-worker.js', '{socket}'], protocol: 'http2', preload: false, affinity: { path: 2 }, instances: 3 } } }, async proxy => {
    await proxy.pids(3);
    const pid = async target => (await request(proxy.port, { path: target })).text;
    const hosts = await pooled(range(30), 1, i => pid(`/room/${i}`));
    assert.equal(new Set(hosts).size, 3);
    assert.deepEqual(await pooled(range(30), 1, i => pid(`http://127.0.0.1:${proxy.port}/room/${i}`)), hosts);
  }));
