// One HTTP/2 client connection, workers of both kinds behind it: each stream goes by the rules of the connection, whoever carries it to its
// worker.

import assert from 'node:assert/strict';
import path from 'node:path';
import test from 'node:test';
import { alone, upgraded } from './lib/handoff.mjs';
import { ask, connect, isUntouched, withSession } from './lib/http2.mjs';
import { apps, needsProxy, needsUpgrade, withProxy } from './lib/proxy.mjs';
import { sharing } from './lib/shared.mjs';
import { steady } from './lib/steer.mjs';
import { pooled, range, sleep, until, within } from './lib/wait.mjs';

const speaks = (file, more) => ({ command: [process.execPath, path.join(apps, file), '{socket}'], protocol: 'http2', preload: false, instances: 2, ...more });
const mixed = (more = {}) => proxy => ({
  listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
  limits: { body_timeout: '1500ms' },
  apps: { one: { script: './frames.js', instances: 2 }, two: speaks('http2-worker.js', { response_timeout: '1200ms' }), echo: speaks('grpc-worker.js'), ...more },
  routes: [{ path: '/', app: 'one' }, { host: 'two.example', app: 'two' }, { host: 'echo.example', app: 'echo' }],
});
const to = host => (headers, more) => [{ ':authority': host, ...headers }, more];
const [toOne, toTwo, toEcho] = ['one.example', 'two.example', 'echo.example'].map(to);

/** A unary call of gRPC as it is on the wire. */
const message = data => Buffer.concat([Buffer.from([0, 0, 0, 0, data.length]), data]);
async function unary(session, text, fields = {}) {
  const head = { ':path': '/echo.Echo/Unary', ':method': 'POST', 'content-type': 'application/grpc', te: 'trailers', ...fields };
  const answer = await ask(session, ...toEcho(head, { body: message(Buffer.from(text)) }));
  return { ...answer, said: answer.body.subarray(5).toString(), grpc: answer.trailers?.['grpc-status'] };
}

/** The head of a stream that sends its body by hand. */
const upload = (where, length, send) => where({ ':path': '/upload', ':method': 'POST', ...(length === undefined ? {} : { 'content-length': String(length) }) }, { send });

async function ready(proxy) {
  for (const app of ['one', 'two', 'echo']) await steady(proxy, 2, { app });
}

sharing('one connection, workers of both kinds', mixed(), check => {
  check('streams to all of them at the same time: bodies, 103, trailers, gRPC', needsProxy, async proxy => {
    await ready(proxy);
    await withSession(proxy.port, async session => {
      await pooled(range(120), 24, async n => {
        const where = n % 2 ? toOne : toTwo;
        switch (n % 6) {
          case 0:
          case 1: {
            const answer = await ask(session, ...upload(where, undefined, stream => stream.end(Buffer.alloc(50_000 + n))));
            return assert.equal(JSON.parse(answer.text).bytes, 50_000 + n);
          }
          case 2: {
            const answer = await unary(session, `call ${n}`);
            return assert.deepEqual([answer.status, answer.said, answer.grpc, answer.trailers['x-sum']], [200, `call ${n}`, '0', '42']);
          }
          case 3: {
            const answer = await ask(session, ...toOne({ ':path': '/early' }));
            return assert.deepEqual([answer.text, answer.informational.map(head => [head[':status'], head.link])], ['late', [[103, '</style.css>; rel=preload']]]);
          }
          default: {
            const answer = await ask(session, ...where({ ':path': '/trailers', te: 'trailers' }));
            return assert.deepEqual([answer.text, answer.trailers?.['x-sum'], answer.code], ['body', '42', 'NO_ERROR']);
          }
        }
      });
      assert.deepEqual([session.trouble, session.closed], [[], false]);
    });
  });

  check('a worker with HTTP/2 is told that trailers are taken, and who asks', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const seen = JSON.parse((await ask(session, ...toTwo({ ':path': '/head?a=b', te: 'trailers', 'x-forwarded-for': '9.9.9.9', cookie: ['a=1', 'b=2'] }))).text);
      const { te, cookie, 'x-forwarded-for': from, 'x-forwarded-host': host } = seen.headers;
      assert.deepEqual([seen.version, seen.url, seen.authority, te, cookie, from, host], ['2.0', '/head?a=b', 'two.example', 'trailers', 'a=1; b=2', '127.0.0.1', 'two.example']);
      const other = JSON.parse((await ask(session, ...toTwo({ ':path': '/head' }))).text);
      assert.equal(other.headers.te, undefined);
    }));

  check('Expect: 100-continue is answered before the body', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const [headers, more] = upload(toTwo, 4, stream => stream.once('continue', () => stream.end('body')));
      assert.equal(JSON.parse((await ask(session, { ...headers, expect: '100-continue' }, more)).text).bytes, 4);
    }));

  check('response_timeout: a worker that is silent is a 504, one that pauses within its answer is not', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const from = performance.now();
      const [silent, paused] = await Promise.all([ask(session, ...toTwo({ ':path': '/slow?ms=20000' })), ask(session, ...toTwo({ ':path': '/pause?ms=2000' }))]);
      assert.equal(silent.status, 504);
      assert.deepEqual([paused.status, paused.text, paused.code], [200, 'first, then the rest', 'NO_ERROR']);
      assert.ok(performance.now() - from < 10_000);
    }));

  check('body_timeout: a long body that stops coming is a 408, and the worker is released', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const from = performance.now();
      const answer = await ask(session, ...upload(toTwo, 100_000, stream => stream.write(Buffer.alloc(50_000))));
      assert.equal(answer.status, 408);
      const ms = performance.now() - from;
      assert.ok(ms > 1200 && ms < 5000, `after ${ms} ms`);
      assert.equal((await ask(session, ...toTwo({ ':path': '/pid' }))).status, 200, 'the connection goes on');
    }));

  check('an answer before the end of its request ends the stream', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const answer = await ask(session, ...toTwo({ ':path': '/status?code=403', ':method': 'POST' }, { send: stream => stream.write('some') }));
      assert.equal(answer.status, 403);
      assert.ok(['NO_ERROR', 'CANCEL'].includes(answer.code), answer.code);
    }));

  check('a client that takes nothing of one stream: the others go on, and it is cut', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const stuck = ask(session, ...toTwo({ ':path': '/big?kib=20000' }, { read: false }));
      await pooled(range(20), 5, async n => assert.equal((await ask(session, ...(n % 2 ? toOne : toTwo)({ ':path': '/big?kib=300' }))).body.length, 300 * 1024));
      const cut = await stuck;
      assert.deepEqual([cut.status, cut.code], [200, 'INTERNAL_ERROR']);
    }));

  check('a client that resets too many of its requests is told to calm down', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const gone = new Promise(resolve => session.once('close', resolve));
      for (const _ of range(20)) {
        if (session.closed || session.destroyed) break;
        const streams = range(20).map(() => session.request({ ':authority': 'two.example', ':path': '/slow?ms=1000' }));
        for (const stream of streams) stream.on('error', () => {});
        await sleep(20);
        for (const stream of streams) stream.close(8);
        await sleep(10);
      }
      await within(5000, 'the end of the connection', gone);
      assert.equal(session.goawayCode, 11, 'ENHANCE_YOUR_CALM');
      await withSession(proxy.port, async other => assert.equal((await ask(other, ...toTwo({ ':path': '/pid' }))).status, 200));
    }));
});

test('an upgrade of the proxy: GOAWAY, and nothing that was asked of either kind is lost', { timeout: 90_000, ...needsProxy, ...needsUpgrade }, () =>
  withProxy(mixed(), async proxy => {
    await ready(proxy);
    let over = false;
    const counts = { asked: 0, again: 0, goaways: 0, bad: [] };
    const client = async () => {
      while (!over) {
        const session = connect(proxy.port);
        let told = false;
        session.on('goaway', (_, last) => {
          told = true;
          session.last = last;
        });
        while (!over && !told && !session.closed && !session.destroyed) {
          const slow = answer => answer.status === 200 && answer.text === 'slow';
          const round = [
            [ask(session, ...toOne({ ':path': '/slow?ms=30' })), slow],
            [ask(session, ...toTwo({ ':path': '/slow?ms=30' })), slow],
            [unary(session, 'call', { 'x-wait': '30' }), answer => answer.said === 'call' && answer.grpc === '0'],
          ];
          counts.asked += round.length;
          for (const [asked, isFine] of round) {
            const answer = await asked;
            if (isFine(answer)) continue;
            // One that crossed the last GOAWAY can be asked again without harm.
            if (told && isUntouched(session, answer)) counts.again += 1;
            else counts.bad.push(`stream ${answer.stream?.id} of ${session.last}: ${answer.status} ${answer.code}, ${session.trouble}`);
          }
        }
        counts.goaways += Number(told);
        session.destroy();
      }
    };
    const clients = range(4).map(client);
    await until(() => counts.asked > 60, { what: 'some load' });
    for (const _ of range(2)) {
      await upgraded(proxy);
      await alone(proxy);
    }
    await sleep(300);
    over = true;
    await Promise.all(clients);
    assert.deepEqual(counts.bad, []);
    assert.ok(counts.goaways >= 4, JSON.stringify(counts));
  }));
