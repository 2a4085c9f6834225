// kill -9 of one worker of three under load.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { needsProxy, withProxy } from './lib/proxy.mjs';
import { connect } from './lib/sockets.mjs';
import { pooled, range, sleep, until, within } from './lib/wait.mjs';

const KILLS = 3;

test('kill -9 of one worker of three under load, three times', { timeout: 120_000, ...needsProxy }, t =>
  withProxy(
    proxy => ({ apps: { web: { script: './http.js', instances: 3, min_uptime: '100ms', env: { NOTES: proxy.file('notes', '') } } } }),
    async proxy => {
      const agent = new http.Agent({ keepAlive: true });
      const kills = [];
      const gets = { done: 0, failed: [] };
      const posts = { done: 0, failed: [], ok: new Set() };
      let stop = false;

      const getting = async () => {
        for (let n = 0; !stop; n++) {
          const started = performance.now();
          try {
            const answer = await request(proxy.port, { path: `/slow?ms=${n % 4}`, agent });
            if (answer.status !== 200) throw new Error(`status ${answer.status}`);
            gets.done++;
          } catch (error) {
            gets.failed.push({ started, ended: performance.now(), why: error.message });
          }
        }
      };
      let next = 0;
      const posting = async () => {
        while (!stop) {
          const id = `post-${next++}`;
          const started = performance.now();
          try {
            const answer = await request(proxy.port, { method: 'POST', path: `/note?id=${id}&ms=${next % 4}`, body: 'x'.repeat(200), agent });
            if (answer.status !== 200) throw new Error(`status ${answer.status}`);
            posts.done++;
            posts.ok.add(id);
          } catch (error) {
            posts.failed.push({ id, started, ended: performance.now(), why: error.message });
          }
        }
      };
      const load = [...range(16).map(getting), ...range(8).map(posting)];

      for (const _ of range(KILLS)) {
        const done = gets.done;
        await until(() => gets.done > done + 300, { what: 'load' });
        const before = await proxy.pids(3);
        const victim = before[0];
        const at = proxy.kill(victim);
        const kill = { victim, at };
        kills.push(kill);
        // Until the proxy is told of its exit, the kernel may still take bytes for it.
        kill.gone = (await proxy.line(new RegExp(`pid ${victim}\\b.*SIGKILL`))).at;
        const [successor] = await until(async () => {
          const found = await proxy.pids(1, { not: before, timeout: 10_000 });
          return found.length > 0 && found;
        }, { timeout: 20_000, what: 'the successor' });
        kill.back = performance.now() - at;
        kill.successor = successor;
        // What the app itself needed from its process's start to listening, by its own clock.
        kill.own = Number(/listening after (\d+) ms/.exec((await proxy.line(new RegExp(`\\b${successor}\\b.*listening after`))).text)[1]);
      }
      stop = true;
      await Promise.all(load);
      agent.destroy();

      const notes = readFileSync(proxy.file('notes'), 'utf8').trim().split('\n').map(line => line.split(' '));
      const times = new Map();
      for (const [, id] of notes) times.set(id, (times.get(id) ?? 0) + 1);
      const byWhom = new Map(notes.map(([pid, id]) => [id, Number(pid)]));
      const victims = kills.map(kill => kill.victim);

      t.diagnostic(`${gets.done} GETs, ${gets.failed.length} failed; ${posts.done} POSTs, ${posts.failed.length} failed`);
      for (const kill of kills) t.diagnostic(`back after ${Math.round(kill.back)} ms, ${kill.own} of which are the app's own start`);
      for (const failed of posts.failed) t.diagnostic(`failed POST ${failed.id}: ${failed.why}, noted by ${byWhom.get(failed.id) ?? 'no worker'}`);

      assert.deepEqual(gets.failed, [], 'no GET fails');
      const repeated = [...times].filter(([, n]) => n > 1);
      assert.deepEqual(repeated, [], 'no POST is carried out twice');
      for (const id of posts.ok) assert.equal(times.get(id), 1, `${id} was answered, so it was carried out`);
      for (const failed of posts.failed) {
        assert.match(failed.why, /status 502/, 'a failed POST is answered with 502, not with a cut connection');
        const noted = byWhom.get(failed.id);
        // Noted by the dead worker; or its bytes lay in the dead worker's socket, unread: then it was under way at that time.
        const underWay = kills.some(kill => failed.started <= kill.gone && failed.ended >= kill.at);
        assert.ok(noted === undefined ? underWay : victims.includes(noted), `${failed.id} failed although ${noted ?? 'no worker'} had it`);
      }
      // What the proxy adds to the app's own start. On a busy machine one of them may be late.
      const added = kills.map(kill => Math.round(kill.back - kill.own));
      assert.ok(Math.min(...added) < 1000 && Math.max(...added) < 5000, `back ${added} ms after the app's own start`);
    },
  ));

test('a hung worker of three: the others serve, and its requests end by the time-out', { timeout: 60_000, ...needsProxy }, () =>
  withProxy({ apps: { web: { script: './http.js', instances: 3, response_timeout: '2s' } } }, async proxy => {
    const pids = await proxy.pids(3);
    proxy.kill(pids[0], 'SIGSTOP');
    const answers = await Promise.all(range(30).map(async i => {
      await sleep(i * 10);
      return request(proxy.port, { path: '/slow?ms=20', timeout: 10_000 });
    }));
    proxy.kill(pids[0], 'SIGCONT');
    assert.deepEqual([...new Set(answers.map(answer => answer.status))].filter(status => status !== 200 && status !== 504), []);
    assert.ok(answers.filter(answer => answer.status === 200).length >= 20, 'most are served');
  }));

test('a worker dies: its sessions begin anew elsewhere, the others notice nothing', { timeout: 60_000, ...needsProxy }, () =>
  withProxy({ apps: { chat: { script: './sio.js', instances: 3, min_uptime: '100ms' } } }, async proxy => {
    const clients = await pooled(range(45), 15, i =>
      connect(4, proxy.url, { transports: i % 2 ? ['polling'] : ['websocket'], reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200 }));
    try {
      const victim = clients[0].hello.pid;
      const moved = clients.filter(client => client.hello.pid === victim);
      const others = clients.filter(client => client.hello.pid !== victim);
      for (const client of moved) client.again = new Promise(resolve => client.socket.once('hello', resolve));
      // The first hello has been taken: the next one is of a new session.
      proxy.kill(victim);
      const hellos = await within(20_000, 'new sessions', Promise.all(moved.map(client => client.again)));
      for (const hello of hellos) assert.notEqual(hello.pid, victim);
      for (const client of others) await client.echo('still here');
      assert.deepEqual(others.flatMap(client => client.trouble), []);
    } finally {
      for (const client of clients) client.close();
    }
  }));
