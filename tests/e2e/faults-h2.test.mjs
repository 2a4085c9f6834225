// HTTP/2: what a stream says, and how it ends, must be what the worker and the client said.

import assert from 'node:assert/strict';
import http2 from 'node:http2';
import { after, before, describe, test } from 'node:test';
import path from 'node:path';
import { frame } from './lib/frames.mjs';
import { Raw, dechunk } from './lib/http.mjs';
import { needsProxy, startProxy, suiteDir } from './lib/proxy.mjs';
import { ask, withSession } from './lib/streams.mjs';
import { range, sleep } from './lib/wait.mjs';

const timeout = 30_000;
const wire = { command: ['node', path.join(suiteDir, 'apps/wire.js'), '{socket}'], preload: false };
const { NGHTTP2_INTERNAL_ERROR, NGHTTP2_PROTOCOL_ERROR, NGHTTP2_NO_ERROR } = http2.constants;

describe('HTTP/2 streams', { ...needsProxy }, () => {
  let proxy;
  before(async () => {
    proxy = await startProxy(made => ({
      listeners: [{ address: `127.0.0.1:${made.port}`, h2c: true }],
      apps: { web: { script: './faults.js' }, wire },
      routes: [{ path: '/', app: 'web' }, ...['record', 'raw', 'cut'].map(name => ({ path: `/${name}`, app: 'wire' }))],
    }));
  });
  after(() => proxy?.stop());

  /** A test on a session of its own. */
  const check = (name, body) =>
    test(name, { timeout }, async () => {
      try {
        await withSession(proxy.port, session => body(session));
      } catch (error) {
        proxy.show();
        throw error;
      }
    });
  const raw = (head, body = '') => `/raw?bytes=${encodeURIComponent(`HTTP/1.1 200 OK\r\n${head}\r\n${body}`)}`;

  /** HEADERS, DATA, then an empty DATA that ends the stream: a body without a length. */
  const piecewise = (...pieces) => ({
    timeout: 5000,
    send: async stream => {
      for (const piece of pieces) {
        stream.write(piece);
        await sleep(5);
      }
      stream.end();
    },
  });

  check('an upload without content-length gets one last chunk', async session => {
    const answer = await ask(session, { ':path': '/record', ':method': 'POST' }, piecewise('abc', 'defg'));
    assert.equal(answer.status, 200);
    assert.equal(dechunk(JSON.parse(answer.text)), 'abcdefg', answer.text);
  });

  check('an upload of nothing without content-length gets one last chunk', async session => {
    const answer = await ask(session, { ':path': '/record', ':method': 'POST' }, piecewise());
    assert.equal(answer.status, 200);
    assert.match(JSON.parse(answer.text), /^(?:0\r\n\r\n)?$/);
  });

  check('uploads without content-length and requests of others: all are answered', async session => {
    const answers = [];
    for (let round = 0; round < 30; round++) {
      answers.push(await ask(session, { ':path': '/upload', ':method': 'POST' }, piecewise('abc')));
      await withSession(proxy.port, async other => answers.push(await ask(other, { ':path': '/pid' })));
    }
    assert.deepEqual([...new Set(answers.map(answer => answer.status))], [200]);
  });

  check('cookies arrive as one field, joined with "; "', async session => {
    const answer = await ask(session, { ':path': '/fields', cookie: ['a=1', 'b=2', 'c=3'] });
    const { raw: fields } = JSON.parse(answer.text);
    assert.deepEqual(
      fields.filter((_, i) => fields[i - 1]?.toLowerCase() === 'cookie' && i % 2),
      ['a=1; b=2; c=3'],
    );
  });

  check('trailers of an answer arrive', async session => {
    const answer = await ask(session, { ':path': '/trailers', te: 'trailers' });
    assert.deepEqual([answer.status, answer.text, answer.trailers['x-sum']], [200, 'body', '4']);
  });

  check('OPTIONS * stays *', async session => {
    const answer = await ask(session, { ':path': '*', ':method': 'OPTIONS' });
    assert.equal(answer.status, 200);
    assert.deepEqual([JSON.parse(answer.text).method, JSON.parse(answer.text).url], ['OPTIONS', '*']);
  });

  check('a bad field is refused, and nobody else is touched', async session => {
    for (const [name, value] of [
      ['x-bad', 'a\0b'],
      ['x-bad', 'a\nb'],
      ['x-bad', 'a\rb'],
    ]) {
      // The h2 crate ends the connection (RFC 9113, section 5.4.1, allows that): each has one of its own.
      const answer = await withSession(proxy.port, other => ask(other, { [name]: value })).catch(error => ({ error }));
      assert.ok(answer.status === undefined || answer.status === 400, `${answer.status} ${answer.error}`);
      assert.equal((await ask(session)).status, 200, 'other connections go on');
    }
  });

  for (const [name, fields] of Object.entries({
    'a Connection field': [['connection', 'keep-alive']],
    'a TE of another value': [['te', 'gzip']],
    'a name in capitals': [['X-Upper', '1']],
    'a Transfer-Encoding': [['transfer-encoding', 'chunked']],
    'a NUL in a value': [['x-bad', 'a\0b']],
    'two :path': [[':path', '/pid']],
  })) {
    // What no field may hold, the h2 crate treats as an error of the connection (RFC 9113, section 5.4.1, allows that).
    const endsAll = ['a name in capitals', 'a NUL in a value'].includes(name);
    test(`${name}: ${endsAll ? 'the connection ends' : 'a stream error, and the connection goes on'}`, { timeout }, async () => {
      const { status, code, alive } = await withFrames(proxy.port, fields);
      if (endsAll) {
        assert.deepEqual([status, alive], [undefined, false]);
        return;
      }
      assert.ok(status === 400 || code === NGHTTP2_PROTOCOL_ERROR, `status ${status}, RST_STREAM ${code}`);
      assert.ok(alive, 'the connection ended with it');
    });
  }

  const cuts = {
    'a body shorter than its length': '/cut?head=Content-Length:%201000%0d%0a',
    'a chunked body without its end': '/cut?head=Transfer-Encoding:%20chunked%0d%0a%0d%0a14',
    'a chunked body that breaks behind its first chunk': `${raw('Transfer-Encoding: chunked\r\nConnection: close\r\n', '5\r\nhello\r\n')}&later=ZZ%0d%0a`,
  };
  for (const [name, target] of Object.entries(cuts)) {
    check(`${name}: RST_STREAM with INTERNAL_ERROR, and no word of a 502`, async session => {
      const from = performance.now();
      const answer = await ask(session, { ':path': target });
      assert.equal(answer.code, NGHTTP2_INTERNAL_ERROR);
      // The reset may have overtaken the head.
      assert.ok([200, undefined].includes(answer.status), `${answer.status}`);
      assert.equal((await ask(session)).status, 200, 'the connection goes on');
      const told = proxy.lines.filter(line => line.at >= from && /answered 502/.test(line.text)).map(line => line.text);
      assert.deepEqual(told, [], 'an answer that began as 200 was not answered 502');
    });
  }

  check('an answer without a body ends without an error', async session => {
    for (const headers of [{ ':method': 'HEAD' }, {}]) {
      const answer = await ask(session, headers);
      assert.deepEqual([answer.status, answer.code], [200, NGHTTP2_NO_ERROR]);
    }
    const answers = await Promise.all(range(50).map(() => ask(session, { ':path': '/page?ms=20' })));
    assert.ok(answers.every(answer => answer.status === 200));
  });
});

/** Sends fields that no library would, as literals without compression. */
async function withFrames(port, fields) {
  const client = await Raw.connect(port);
  const literal = ([name, value]) =>
    Buffer.concat([Buffer.from([0, name.length]), Buffer.from(name), Buffer.from([value.length]), Buffer.from(value, 'latin1')]);
  const get = (stream, more) =>
    frame(
      1,
      5,
      stream,
      Buffer.concat([[':method', 'GET'], [':scheme', 'http'], [':authority', 'x'], [':path', '/pid'], ...more].map(literal)),
    );
  const seen = { 1: {}, 3: {}, alive: false };
  try {
    client.socket.on('error', () => {});
    client.write(
      Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(4, 0, 0, Buffer.alloc(0)), get(1, fields)]),
    );
    client.write(get(3, []));
    while (!seen[3].over) {
      const head = await client.take(9, 'a frame', 5000);
      const payload = await client.take(head.readUIntBE(0, 3), 'its payload', 5000);
      const [type, flags, stream] = [head[3], head[4], head.readUInt32BE(5)];
      if (type === 7) break;
      if (!seen[stream]) continue;
      if (type === 3) Object.assign(seen[stream], { code: payload.readUInt32BE(0), over: true });
      if (type === 1) seen[stream].status ??= statusOf(payload);
      if ((type === 0 || type === 1) && flags & 1) seen[stream].over = true;
    }
    seen.alive = seen[3].status === 200;
  } catch {
    // It ended: not alive.
  } finally {
    client.destroy();
  }
  return { ...seen[1], alive: seen.alive };
}

/** The status that a header block begins with: indexed, or a literal whose name is (RFC 7541). */
function statusOf(block) {
  const indexed = { 0x88: 200, 0x89: 204, 0x8b: 304, 0x8c: 400, 0x8d: 404, 0x8e: 500 };
  while ((block[0] & 0xe0) === 0x20) block = block.subarray(1);
  return indexed[block[0]] ?? 0;
}
