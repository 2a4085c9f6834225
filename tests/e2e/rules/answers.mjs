// What a worker says, and what of it the client gets.

import assert from 'node:assert/strict';
import { LIMITS } from './config.mjs';
import { noted } from './asking.mjs';
import { json, shown, text } from './outcome.mjs';
import { range, sleep, until } from '../lib/wait.mjs';

const IS_GET = 'an upgrade is a GET';
const NO_BODY = 'an upgrade request has no body';
const RAW = 'no answer of HTTP/2 can be written like that';
const ONE_ONLY = 'an upgrade takes its connection';
const status = code => result => assert.equal(result.status, code, shown(result));

/**
 * Asks for an answer with bytes behind it, then by others: everybody gets an answer of their own. Bytes that come only after the next
 * request has gone out are its answer, whoever looks at them, so those of the worker are out first.
 */
async function afterSurplus(at, method) {
  const client = await at.open();
  const name = `surplus.${method}.${at.name}`;
  const first = await client.ask({ method, path: `/surplus?name=${name}` });
  await until(() => noted(at, name).length > 0, { what: 'the bytes behind the answer to be out', every: 5 });
  const others = [];
  for (const n of range(6)) others.push(await at.direct(`/head?n=${n}`).then(answer => answer.json.url, error => error.code));
  return { first, others };
}

function untrailed(result) {
  assert.equal(json(result).bytes, 5, shown(result));
  assert.deepEqual(json(result).trailers, {});
}

function untouched({ others }) {
  assert.deepEqual(others, range(6).map(n => `/head?n=${n}`));
}

export const answers = [
  {
    name: 'HEAD: the length of the body, no body, and the connection goes on',
    app: 'web',
    not: { upgrade: IS_GET },
    act: async at => {
      const client = await at.open();
      return [await client.ask({ method: 'HEAD', path: '/big?bytes=2048' }), await client.ask({ path: '/big?bytes=10' })];
    },
    expect: ([head, next]) => {
      assert.equal(head.status, 200, shown(head));
      assert.equal(head.headers['content-length'], '2048');
      assert.equal(head.body.length, 0);
      assert.equal(head.cut, false);
      assert.equal(text(next), 'b'.repeat(10));
    },
  },
  ...[204, 304].flatMap(code => [['a length', ''], ['chunked', '&chunked=1']].map(([how, more]) => ({
    name: `${code} with ${how}: no body is waited for, and the field does not pass`,
    app: 'web',
    not: { 'http2-workers': RAW },
    act: at => at.ask({ path: `/framed?code=${code}${more}` }),
    expect: result => {
      assert.equal(result.status, code, shown(result));
      assert.equal(result.headers['transfer-encoding'], undefined);
      // A 304 may tell the length of what it stands for.
      if (code === 204) assert.equal(result.headers['content-length'], undefined);
      assert.equal(result.body.length, 0);
    },
  }))),
  {
    name: 'an answer that breaks off is seen to be cut',
    app: 'web',
    connections: 2,
    act: async at => [await at.ask({ path: '/cut' }), await at.ask({ path: '/cut-chunked' })],
    expect: results => {
      for (const result of results) {
        assert.ok(result.status < 500, shown(result));
        assert.equal(result.cut, true, shown(result));
      }
    },
  },
  {
    name: 'an answer that is no HTTP is a 502',
    app: 'web',
    not: { 'http2-workers': RAW },
    act: at => at.ask({ path: '/garbage' }),
    expect: status(502),
  },
  {
    name: 'a body that is broken in the packet of its head is a 502',
    app: 'web',
    not: { 'http2-workers': RAW },
    act: at => at.ask({ path: '/broken-chunk' }),
    expect: status(502),
    instead: {
      pingora: {
        says: 'Pingora passes the head on before it looks at the body: the answer is cut',
        expect: result => assert.ok(result.cut, shown(result)),
      },
    },
  },
  {
    name: 'a 101 to something else than was asked for is a 502',
    app: 'web',
    not: { 'http2-workers': RAW },
    act: at => at.ask({ path: '/switch' }),
    expect: status(502),
  },
  {
    name: 'a 103 passes, and the answer behind it',
    app: 'web',
    act: at => at.ask({ path: '/hint' }),
    expect: result => {
      assert.equal(result.status, 200, shown(result));
      assert.equal(text(result), 'late');
      assert.deepEqual(result.hints.map(hint => [hint.status, hint.headers.link]), [[103, '</style.css>; rel=preload']]);
    },
    instead: {
      'pingora-http2': {
        says: 'Pingora drops informational answers of HTTP/2',
        expect: result => {
          assert.equal(text(result), 'late', shown(result));
          assert.deepEqual(result.hints, []);
        },
      },
      'http2-workers': {
        says: 'Pingora drops informational answers of workers with HTTP/2',
        expect: result => {
          assert.equal(text(result), 'late', shown(result));
          assert.deepEqual(result.hints, []);
        },
      },
    },
  },
  {
    name: 'an answer that has begun may be silent for longer than any limit of a request',
    app: 'strict',
    act: at => at.ask({ path: `/pause?ms=${1.5 * Math.max(LIMITS.ms, LIMITS.response)}` }),
    expect: result => {
      assert.equal(result.status, 200, shown(result));
      assert.equal(text(result), 'the rest');
      assert.equal(result.cut, false);
    },
    instead: {
      pingora: {
        says: 'Pingora has one time-out for all that it reads of an answer: response_timeout cuts one that pauses for longer',
        expect: result => {
          assert.equal(result.status, 200, shown(result));
          assert.equal(result.cut, true, shown(result));
          assert.ok(result.ms >= LIMITS.response * 0.8, `after ${result.ms} ms`);
        },
      },
    },
  },
  {
    name: 'what a worker says of its own connection stays there',
    app: 'web',
    not: { 'http2-workers': RAW },
    act: at => at.ask({ path: '/hop' }),
    expect: result => {
      assert.equal(text(result), 'fine', shown(result));
      for (const name of ['x-secret', 'proxy-connection']) assert.equal(result.headers[name], undefined, name);
      // The proxy may say how long it keeps the client's.
      assert.notEqual(result.headers['keep-alive'], 'timeout=77');
    },
  },
  {
    name: 'trailers of an answer pass',
    app: 'web',
    not: { upgrade: 'a tunnel has none' },
    act: at => at.ask({ path: '/trailers', fields: [['TE', 'trailers']] }),
    expect: result => {
      assert.equal(text(result), 'body', shown(result));
      assert.deepEqual(result.trailers, { 'x-sum': '4' });
    },
    instead: {
      pingora: {
        says: 'Pingora does not read the trailers of a worker that speaks HTTP/1',
        expect: result => {
          assert.equal(text(result), 'body', shown(result));
          assert.equal(result.cut, false, shown(result));
          assert.deepEqual(result.trailers, {});
        },
      },
    },
  },
  {
    name: 'ten requests at once: to each its own answer',
    app: 'web',
    connections: 10,
    act: async at => {
      const client = at.two && await at.open();
      return Promise.all(range(10).map(async n => json(await (client || await at.open()).ask({ path: `/head?n=${n}` })).url));
    },
    expect: urls => assert.deepEqual(urls, range(10).map(n => `/head?n=${n}`)),
  },
  {
    name: 'requests that are sent at once are all answered',
    app: 'web',
    not: { upgrade: ONE_ONLY },
    act: async at => (await at.open()).together([{ path: '/head?n=1' }, { path: '/head?n=2' }, { path: '/head?n=3' }]),
    expect: results => assert.deepEqual(results.map(result => json(result).url), range(3).map(n => `/head?n=${n + 1}`)),
    instead: {
      'pingora-http1': {
        says: 'Pingora answers the first and ends the connection: a client sends the others again (RFC 9112, section 9.3.2)',
        expect: ([first, ...others]) => {
          assert.equal(json(first).url, '/head?n=1', shown(first));
          for (const other of others) assert.deepEqual([other.status, other.ended], [null, true], shown(other));
        },
      },
    },
  },
  {
    name: 'a request that comes before the last one is answered does not disturb it',
    app: 'web',
    not: { upgrade: ONE_ONLY },
    act: async at => (await at.open()).together([{ path: '/held?ms=500' }, { path: '/head?n=2' }], 150),
    expect: ([first, next]) => {
      assert.equal(text(first), 'held', shown(first));
      assert.equal(json(next).url, '/head?n=2');
    },
    instead: {
      'pingora-http1': {
        says: 'Pingora takes it for a fault of the first one, which is a 400, and ends the connection',
        expect: ([first, next]) => assert.deepEqual([first.status, next.status, next.ended], [400, null, true]),
      },
    },
  },
  {
    name: 'an HTTP/1.0 client gets its answer without chunks',
    app: 'web',
    not: { upgrade: 'HTTP/1.0 has no upgrades', http2: 'is not HTTP/1.0' },
    act: at => at.ask({ version: '1.0', path: '/pause?ms=10' }),
    expect: result => {
      assert.equal(text(result), 'the rest', shown(result));
      assert.equal(result.headers['transfer-encoding'], undefined);
    },
  },
  {
    name: 'several Set-Cookie stay several',
    app: 'web',
    act: at => at.ask({ path: '/cookies' }),
    expect: result => assert.equal(result.headers['set-cookie'], 'a=1\nb=2', shown(result)),
  },
  {
    name: 'what a worker says after its answer reaches nobody',
    app: 'one',
    alone: true,
    not: { 'http2-workers': RAW },
    act: at => afterSurplus(at, 'GET'),
    expect: result => {
      assert.equal(text(result.first), 'own', shown(result.first));
      untouched(result);
    },
  },
  {
    name: 'what a worker says after its answer to HEAD reaches nobody',
    app: 'one',
    alone: true,
    not: { upgrade: IS_GET, 'http2-workers': RAW },
    act: at => afterSurplus(at, 'HEAD'),
    expect: result => {
      assert.equal(result.first.status, 200, shown(result.first));
      untouched(result);
    },
  },
  {
    name: 'an answer before the end of the body arrives whole',
    app: 'web',
    not: { upgrade: NO_BODY },
    act: async at => {
      const asking = (await at.open()).start({ method: 'POST', path: '/refuse', announce: 200_000, open: true });
      return asking.write(Buffer.alloc(50_000)).answer;
    },
    expect: result => {
      assert.equal(result.status, 403, shown(result));
      assert.equal(text(result), 'refused');
    },
  },
  {
    name: 'after such an answer the connection goes on, or the answer has said that it does not',
    app: 'web',
    not: { upgrade: NO_BODY },
    act: async at => {
      const client = await at.open();
      const asking = client.start({ method: 'POST', path: '/refuse', announce: 100_000, open: true }).write(Buffer.alloc(50_000));
      const first = await asking.answer;
      if (first.ended) return { first };
      asking.write(Buffer.alloc(50_000)).end();
      return { first, next: await client.ask() };
    },
    expect: ({ first, next }) => {
      assert.equal(first.status, 403, shown(first));
      if (next) assert.equal(next.status, 200, shown(next));
    },
  },
  {
    name: 'such an answer is counted, and frees its worker',
    app: 'counted',
    alone: true,
    not: { upgrade: NO_BODY },
    act: async at => {
      const key = 'requests_total 4xx';
      const before = (await at.counters())[key];
      const asking = (await at.open()).start({ method: 'POST', path: '/refuse', announce: 200_000, open: true });
      const { status } = await asking.write(Buffer.alloc(50_000)).answer;
      await at.quiet();
      return { status, added: (await at.counters())[key] - before };
    },
    expect: result => assert.deepEqual(result, { status: 403, added: 1 }),
  },
  {
    name: 'Expect: 100-continue is answered before the body',
    app: 'web',
    not: { upgrade: NO_BODY },
    act: async at => {
      const asking = (await at.open()).start({ method: 'POST', path: '/upload', fields: [['Expect', '100-continue']], announce: 4, open: true });
      await sleep(300);
      return asking.write('body').end().answer;
    },
    expect: result => {
      assert.equal(json(result).bytes, 4, shown(result));
      assert.ok(result.hints.some(hint => hint.status === 100), shown(result));
    },
    instead: {
      'pingora-http2': {
        says: 'Pingora drops informational answers of HTTP/2: the client sends its body when it has waited for long enough',
        expect: result => {
          assert.equal(json(result).bytes, 4, shown(result));
          assert.deepEqual(result.hints, []);
        },
      },
    },
  },
  {
    name: 'harmless trailers of a request pass',
    app: 'web',
    not: { upgrade: NO_BODY },
    act: at => at.ask({ method: 'POST', path: '/upload', chunks: ['abc', 'de'], trailers: { 'x-checksum': '7', 'content-length': '1' } }),
    expect: result => {
      assert.equal(json(result).bytes, 5, shown(result));
      assert.deepEqual(json(result).trailers, { 'x-checksum': '7' });
    },
    instead: {
      pingora: {
        says: 'Pingora drops the trailers of requests',
        expect: untrailed,
      },
      'http2-workers': {
        says: 'Pingora drops the trailers of requests to workers with HTTP/2',
        expect: untrailed,
      },
    },
  },
  {
    name: 'a body in pieces arrives whole, and once',
    app: 'web',
    not: { upgrade: NO_BODY },
    act: async at => {
      const client = await at.open();
      return [await client.ask({ method: 'POST', path: '/upload', chunks: ['abc', 'de'] }), await client.ask({ method: 'POST', path: '/upload', chunks: [] }), await client.ask()];
    },
    expect: ([body, none, next]) => {
      assert.equal(json(body).bytes, 5, shown(body));
      assert.equal(json(none).bytes, 0, shown(none));
      assert.equal(text(next), 'fine');
    },
  },
];
