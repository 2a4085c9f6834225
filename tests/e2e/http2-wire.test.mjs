// What a worker with HTTP/1 is sent for a request by HTTP/2, byte by byte, and what the client makes of the worker's answer.

import assert from 'node:assert/strict';
import test, { describe } from 'node:test';
import { request } from './lib/http.mjs';
import { ask, withSession } from './lib/http2.mjs';
import { PLAIN, needsProxy, withProxy } from './lib/proxy.mjs';
import { sharing } from './lib/shared.mjs';
import { pooled, range, sleep } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };
const share = PLAIN ? title => console.log(`skipped: ${title}: needs the proxy`) : sharing;
const h2c = proxy => [{ address: `127.0.0.1:${proxy.port}`, h2c: true }];
const recording = proxy => ({
  listeners: h2c(proxy),
  apps: { web: { command: [process.execPath, 'record.js', '{socket}'], preload: false, instances: 1 } },
});
const frames = proxy => ({ listeners: h2c(proxy), apps: { web: { script: './frames.js', instances: 1 } } });

/** What the worker was sent: start line, fields as pairs, and the body's bytes. */
function sent(answer) {
  assert.equal(answer.status, 200, JSON.stringify({ ...answer, stream: undefined, body: undefined }));
  const raw = Buffer.from(answer.text, 'base64').toString('latin1');
  const end = raw.indexOf('\r\n\r\n');
  const [start, ...lines] = raw.slice(0, end).split('\r\n');
  const fields = lines.map(line => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]);
  return { raw, start, fields, body: raw.slice(end + 4), all: name => fields.filter(([key]) => key === name).map(([, value]) => value) };
}

/** A chunked body read strictly: no extension, one last chunk, and nothing after it. */
function dechunked(body) {
  let rest = body;
  let text = '';
  for (;;) {
    const [line, digits] = /^([0-9a-f]+)\r\n/i.exec(rest) ?? assert.fail(`a chunk's size in ${JSON.stringify(rest.slice(0, 40))}`);
    const size = parseInt(digits, 16);
    rest = rest.slice(line.length);
    if (size === 0) break;
    text += rest.slice(0, size);
    assert.equal(rest.slice(size, size + 2), '\r\n');
    rest = rest.slice(size + 2);
  }
  const end = rest.startsWith('\r\n') ? 0 : rest.indexOf('\r\n\r\n') + 2;
  const trailers = rest.slice(0, end).split('\r\n').filter(Boolean);
  return { text, trailers, surplus: rest.slice(end + 2) };
}

/** An upload's ways to be framed: what is done with the stream, and the body that the worker must see. */
const uploads = {
  'DATA, then an empty DATA that ends': [stream => (stream.write('abc'), setImmediate(() => stream.end())), 'abc'],
  'DATA that ends': [stream => stream.end('abc'), 'abc'],
  'an empty DATA alone': [stream => stream.end(), ''],
  'three pieces and a late end': [async stream => {
    for (const piece of ['one', 'two', 'three']) {
      stream.write(piece);
      await sleep(30);
    }
    stream.end();
  }, 'onetwothree'],
  '200 KiB and an empty end': [stream => stream.write(Buffer.alloc(200 * 1024, 'x'), () => stream.end()), 'x'.repeat(200 * 1024)],
};

share('what a worker is sent', recording, check => {
  for (const [name, [send, want]] of Object.entries(uploads)) {
    check(`an upload without content-length: ${name}: one last chunk`, needsProxy, proxy =>
      withSession(proxy.port, async session => {
        const seen = sent(await ask(session, { ':method': 'POST', ':path': '/upload' }, { send }));
        assert.deepEqual(seen.all('content-length').filter(length => length !== '0'), []);
        if (want === '' && seen.body === '') return;
        assert.deepEqual(seen.all('transfer-encoding'), ['chunked']);
        assert.deepEqual(dechunked(seen.body), { text: want, trailers: [], surplus: '' });
      }));
  }

  check('an upload with content-length: that length, and no chunks', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const seen = sent(await ask(session, { ':method': 'POST', 'content-length': '6' }, { send: stream => (stream.write('abc'), stream.end('def')) }));
      assert.deepEqual([seen.all('content-length'), seen.all('transfer-encoding'), seen.body], [['6'], [], 'abcdef']);
    }));

  check('uploads and GETs in turn over kept connections: each record begins with its request', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const answers = await pooled(range(60), 6, async n => {
        const upload = n % 2 === 0;
        const send = stream => (stream.write(`body ${n}`), setImmediate(() => stream.end()));
        const seen = sent(await ask(session, { ':path': `/${n}`, ':method': upload ? 'POST' : 'GET' }, upload ? { send } : {}));
        assert.equal(seen.start, `${upload ? 'POST' : 'GET'} /${n} HTTP/1.1`);
        if (upload) assert.deepEqual(dechunked(seen.body), { text: `body ${n}`, trailers: [], surplus: '' });
        else assert.equal(seen.body, '');
      });
      assert.equal(answers.length, 60);
    }));

  check('several cookie fields are one, joined by "; "', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const seen = sent(await ask(session, { cookie: ['a=1', 'b=2; c=3', 'd=4'] }));
      assert.deepEqual(seen.all('cookie'), ['a=1; b=2; c=3; d=4']);
    }));

  check('other fields that come several times stay in their order', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const seen = sent(await ask(session, { 'x-list': ['one', 'two', 'three'] }));
      assert.equal(seen.all('x-list').join(', '), 'one, two, three');
    }));

  check('OPTIONS * stays *; :authority becomes the only Host', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const seen = sent(await ask(session, { ':method': 'OPTIONS', ':path': '*', ':authority': 'app.example' }));
      assert.equal(seen.start, 'OPTIONS * HTTP/1.1');
      assert.deepEqual(seen.all('host'), ['app.example']);
    }));

  check('a client cannot write what the proxy writes', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const lies = { 'x-forwarded-for': '9.9.9.9', 'x-real-ip': '9.9.9.9', forwarded: 'for=9.9.9.9', 'x_forwarded_for': '9.9.9.9', 'true-client-ip': '9.9.9.9', 'x-client-ip': '9.9.9.9',
        'x-forwarded-proto': 'https', 'x-forwarded-ssl': 'on', 'x-forwarded-prefix': '/lie' };
      const seen = sent(await ask(session, lies));
      assert.doesNotMatch(seen.raw, /9\.9\.9\.9|https|\/lie/);
      assert.deepEqual(seen.all('x-forwarded-for'), ['127.0.0.1']);
      assert.deepEqual(seen.all('x-forwarded-ssl'), []);
    }));

  check('trailers of a request: harmless ones arrive, those that frame or route do not', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const trailers = { 'x-checksum': '42', 'x-forwarded-for': '9.9.9.9', 'x_forwarded_for': '9.9.9.9', 'content-length': '7', host: 'other.example', cookie: 'a=b', authorization: 'x' };
      const seen = sent(await ask(session, { ':method': 'POST', trailer: 'x-checksum' }, { body: 'abc', trailers }));
      const body = dechunked(seen.body);
      assert.deepEqual([body.text, body.surplus], ['abc', '']);
      assert.deepEqual(body.trailers.map(line => line.toLowerCase()), ['x-checksum: 42']);
    }));
});

share('what a client gets', frames, check => {
  check('trailers of an answer', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const answer = await ask(session, { ':path': '/trailers', te: 'trailers' });
      assert.deepEqual([answer.status, answer.text, answer.trailers?.['x-sum'], answer.code], [200, 'body', '42', 'NO_ERROR']);
    }));

  for (const path of ['/cut', '/cut?chunked=1']) {
    check(`${path}: an answer that breaks off is INTERNAL_ERROR, of its stream alone`, needsProxy, proxy =>
      withSession(proxy.port, async session => {
        const from = performance.now();
        const other = ask(session, { ':path': '/slow?ms=300' });
        const answer = await ask(session, { ':path': path });
        assert.deepEqual([answer.status, answer.text, answer.code], [200, 'half of it', 'INTERNAL_ERROR']);
        assert.equal((await other).text, 'slow');
        const told = proxy.lines.filter(line => line.at >= from && /answered 50\d/.test(line.text)).map(line => line.text);
        assert.deepEqual(told, [], 'an answer that began with 200 is not told as another');
      }));
  }

  check('103, then the answer', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const answer = await ask(session, { ':path': '/early' });
      assert.deepEqual([answer.status, answer.text], [200, 'late']);
      assert.deepEqual(answer.informational.map(head => [head[':status'], head.link]), [[103, '</style.css>; rel=preload']]);
    }));

  check('HEAD, 204 and 304 have no body', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const head = await ask(session, { ':method': 'HEAD', ':path': '/big?kib=8' });
      assert.deepEqual([head.status, head.head['content-length'], head.body.length, head.code], [200, '8192', 0, 'NO_ERROR']);
      for (const code of [204, 304]) {
        const answer = await ask(session, { ':path': `/status?code=${code}` });
        assert.deepEqual([answer.status, answer.body.length, answer.head['transfer-encoding']], [code, 0, undefined]);
      }
    }));

  check('an early refusal: the answer arrives, and the connection lives', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const answer = await ask(session, { ':method': 'POST', ':path': '/refuse' }, {
        send: stream => stream.on('end', () => stream.close()).write('x'.repeat(1000)),
      });
      assert.deepEqual([answer.status, answer.text], [413, 'too much']);
      assert.equal((await ask(session)).status, 200);
    }));

  check('an answer and an upload flow at the same time', needsProxy, proxy =>
    withSession(proxy.port, async session => {
      const piece = 'x'.repeat(10_000);
      let got = 0;
      const answer = await ask(session, { ':method': 'POST', ':path': '/echo' }, {
        send: stream => {
          // The next piece goes when the last one has come back.
          let count = 0;
          const next = () => (count++ < 20 ? stream.write(piece) : stream.end());
          stream.on('data', data => (got += data.length) === count * piece.length && next());
          next();
        },
      });
      assert.deepEqual([answer.status, answer.body.length], [200, 20 * piece.length]);
    }));
});

const rounds = process.env.SLOW ? 2000 : 300;

describe('uploads without a length', () => {
  test(`${rounds} of them beside ${rounds} GETs of another client: each is answered 200`, options, () =>
    withProxy(frames, {}, proxy =>
      withSession(proxy.port, async session => {
        const bad = [];
        const uploading = pooled(range(rounds), 8, async n => {
          const answer = await ask(session, { ':method': 'POST', ':path': '/upload' }, { send: stream => (stream.write(`${n}`), setImmediate(() => stream.end())) });
          if (answer.status !== 200 || JSON.parse(answer.text).bytes !== String(n).length) bad.push(`upload ${n}: ${answer.status} ${answer.text} ${answer.code}`);
        });
        const asking = pooled(range(rounds), 4, async n => {
          const { status } = await request(proxy.port, { path: '/pid' });
          if (status !== 200) bad.push(`GET ${n}: ${status}`);
        });
        await Promise.all([uploading, asking]);
        assert.deepEqual(bad, []);
      })));
});
