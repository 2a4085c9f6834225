// Engine.IO on the wire, by hand: each request on a connection of its own, in shapes today's clients no longer send.

import assert from 'node:assert/strict';
import test from 'node:test';
import { Polling } from './lib/engineio.mjs';
import { request } from './lib/http.mjs';
import { PLAIN, needsProxy, withProxy } from './lib/proxy.mjs';
import { pooled, range } from './lib/wait.mjs';

const WORKERS = 4;
const SESSIONS = 32;

const shapes = [
  { generation: 1, name: 'binary payloads', options: { eio: 3 } },
  { generation: 1, name: 'b64=1', options: { eio: 3, query: { b64: 1 } } },
  { generation: 1, name: 'JSONP', options: { eio: 3, jsonp: true, query: { b64: 1 } } },
  { generation: 2, name: 'without b64', options: { eio: 3 } },
  { generation: 2, name: 'b64=1', options: { eio: 3, query: { b64: 1 } } },
  { generation: 2, name: 'JSONP', options: { eio: 3, jsonp: true, query: { b64: 1 } } },
  { generation: 3, name: 'EIO 3 JSONP', options: { eio: 3, jsonp: true, query: { b64: 1 } } },
  { generation: 3, name: 'EIO 4', options: { eio: 4 } },
  { generation: 4, name: 'EIO 3', options: { eio: 3 } },
  { generation: 4, name: 'EIO 4', options: { eio: 4 } },
  { generation: 4, name: 'EIO 4 JSONP', options: { eio: 4, jsonp: true } },
  { generation: 4, name: 'EIO 4 gzip', options: { eio: 4, headers: { 'accept-encoding': 'gzip, deflate, br' } } },
];

async function keepsWorker(port, options) {
  const session = new Polling(port, options);
  await session.handshake();
  const { pid } = await session.event('hello');
  for (const n of range(4)) {
    await session.emit('echo', n);
    assert.deepEqual(await session.event('echo'), { pid, data: n });
  }
  await session.close();
  assert.deepEqual([...session.pids], [pid], 'every request of the session reached the worker that began it');
  return pid;
}

for (const generation of [1, 2, 3, 4]) {
  for (const own of [false, true]) {
    const title = `socket.io ${generation}.x by hand${own ? ', session ids of its own' : ''}`;
    test(title, { timeout: 60_000 }, t =>
      withProxy({ apps: { chat: { script: './sio.js', instances: WORKERS, env: { SIO: String(generation), OWN_IDS: own ? '1' : '0' } } } }, async proxy => {
        for (const { name, options } of shapes.filter(shape => shape.generation === generation)) {
          await t.test(name, async () => {
            const pids = await pooled(range(SESSIONS), 16, () => keepsWorker(proxy.port, options));
            assert.ok(PLAIN || new Set(pids).size > 1, 'more than one worker has sessions');
          });
        }

        await t.test('a preflight with a sid goes to its worker', async () => {
          await pooled(range(16), 8, async () => {
            const session = new Polling(proxy.port, { eio: generation > 2 ? 4 : 3 });
            await session.handshake();
            const preflight = await session.send('OPTIONS', {
              headers: { origin: 'http://elsewhere.example', 'access-control-request-method': 'POST', 'access-control-request-headers': 'content-type' },
            });
            assert.ok(preflight.status === 200 || preflight.status === 204, `${preflight.status} ${preflight.text}`);
            assert.equal(session.pids.size, 1, 'one worker');
            await session.close();
          });
        });

        await t.test('a sid that nobody knows: always the same worker, which says so', needsProxy, async () => {
          const answeredBy = new Set();
          for (const n of range(12)) {
            const session = new Polling(proxy.port, { eio: generation > 2 ? 4 : 3 });
            session.sid = `nobody-knows-this-${n}`;
            for (let i = 0; i < 4; i++) {
              const answer = await session.send('GET');
              assert.equal(answer.status, 400);
              assert.equal(answer.json.message, 'Session ID unknown');
            }
            assert.equal(session.pids.size, 1, `sid ${n} went to ${[...session.pids]}`);
            answeredBy.add([...session.pids][0]);
          }
          assert.ok(answeredBy.size > 1, 'different sids are spread');
        });
      }));
  }
}

test('sids in odd places of the query', { timeout: 60_000, ...needsProxy }, t =>
  withProxy({ apps: { chat: { script: './sio.js', instances: WORKERS } } }, async proxy => {
    const session = new Polling(proxy.port);
    const sid = await session.handshake();
    const { pid } = await session.event('hello');
    const escaped = [...sid].map(c => `%${c.charCodeAt(0).toString(16)}`).join('');
    const queries = [
      `EIO=4&transport=polling&sid=${escaped}`,
      `sid=${sid}&EIO=4&transport=polling`,
      `EIO=4&transport=polling&sid=wrong&sid=${sid}`,
      `EIO=4&transport=polling&t=abc&sid=${sid}&x=1`,
      `EIO=4&tr%61nsport=polling&s%69d=${sid}`,
    ];
    for (const query of queries) {
      await t.test(query.replaceAll(sid, 'SID').replaceAll(escaped, '%53%49%44'), async () => {
        const answers = await pooled(range(8), 4, () =>
          request(proxy.port, { method: 'POST', path: `/socket.io/?${query}`, body: '42["nothing"]', headers: { 'content-type': 'text/plain' } }));
        assert.deepEqual([...new Set(answers.map(a => `${a.status} ${a.headers['x-pid']}`))], [`200 ${pid}`]);
      });
    }
  }));
