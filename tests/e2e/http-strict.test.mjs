// Requests on which two readers could disagree. Each must be refused and the connection closed, before a
// worker sees a byte of it; otherwise one client could speak inside another's connection.

import assert from 'node:assert/strict';
import { Raw, exchange, request } from './lib/http.mjs';
import { needsProxy } from './lib/proxy.mjs';
import { sharing } from './lib/shared.mjs';

const H = 'Host: x\r\n';
// Were the framing misread, this would be taken for a request of its own, and answered.
const SMUGGLED = 'GET /status?code=299 HTTP/1.1\r\nHost: x\r\n\r\n';

const refused = {
  'Content-Length and Transfer-Encoding': `POST /upload HTTP/1.1\r\n${H}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
  'Transfer-Encoding and Content-Length': `POST /upload HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n`,
  'two different Content-Length': `POST /upload HTTP/1.1\r\n${H}Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde`,
  'two equal Content-Length': `POST /upload HTTP/1.1\r\n${H}Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd`,
  'a list of Content-Length': `POST /upload HTTP/1.1\r\n${H}Content-Length: 4, 4\r\n\r\nabcd`,
  'Content-Length +4': `POST /upload HTTP/1.1\r\n${H}Content-Length: +4\r\n\r\nabcd`,
  'Content-Length -4': `POST /upload HTTP/1.1\r\n${H}Content-Length: -4\r\n\r\nabcd`,
  'Content-Length 0x4': `POST /upload HTTP/1.1\r\n${H}Content-Length: 0x4\r\n\r\nabcd`,
  'Content-Length 4 4': `POST /upload HTTP/1.1\r\n${H}Content-Length: 4 4\r\n\r\nabcd`,
  'an empty Content-Length': `POST /upload HTTP/1.1\r\n${H}Content-Length:\r\n\r\nabcd`,
  'a Content-Length beyond 2^64': `POST /upload HTTP/1.1\r\n${H}Content-Length: 18446744073709551620\r\n\r\nabcd`,
  'Transfer-Encoding: xchunked': `POST /upload HTTP/1.1\r\n${H}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n`,
  'Transfer-Encoding: chunked, identity': `POST /upload HTTP/1.1\r\n${H}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n`,
  'Transfer-Encoding: identity': `POST /upload HTTP/1.1\r\n${H}Transfer-Encoding: identity\r\nContent-Length: 4\r\n\r\nabcd`,
  'Transfer-Encoding twice': `POST /upload HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
  'Transfer-Encoding: chunked, chunked': `POST /upload HTTP/1.1\r\n${H}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n`,
  'Transfer-Encoding with a control character': `POST /upload HTTP/1.1\r\n${H}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n`,
  'Transfer-Encoding in HTTP/1.0': 'POST /upload HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
  'a space before the colon': `POST /upload HTTP/1.1\r\n${H}Content-Length : 4\r\n\r\nabcd`,
  'a tab before the colon': `POST /upload HTTP/1.1\r\n${H}Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n`,
  'a folded header': `GET /pid HTTP/1.1\r\n${H}X-A: b\r\n c\r\n\r\n`,
  'a space before the first header': `GET /pid HTTP/1.1\r\n X-A: b\r\n${H}\r\n`,
  'bare LF after a header': 'GET /pid HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n',
  'bare LF after the request line': 'GET /pid HTTP/1.1\nHost: x\r\n\r\n',
  'only LF': 'GET /pid HTTP/1.1\nHost: x\n\n',
  'a bare CR in a value': `GET /pid HTTP/1.1\r\n${H}X-A: b\rc\r\n\r\n`,
  'a NUL in a value': `GET /pid HTTP/1.1\r\n${H}X-A: b\0c\r\n\r\n`,
  'a NUL in a name': `GET /pid HTTP/1.1\r\n${H}X-\0A: b\r\n\r\n`,
  'an empty name': `GET /pid HTTP/1.1\r\n${H}: b\r\n\r\n`,
  'a line without a colon': `GET /pid HTTP/1.1\r\n${H}nonsense\r\n\r\n`,
  'two Host': 'GET /pid HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n',
  'no Host': 'GET /pid HTTP/1.1\r\nX-A: b\r\n\r\n',
  'a Host with a path': 'GET /pid HTTP/1.1\r\nHost: x/y\r\n\r\n',
  'a space in the target': `GET /pid /x HTTP/1.1\r\n${H}\r\n`,
  'two spaces after the method': `GET  /pid HTTP/1.1\r\n${H}\r\n`,
  'a target without a slash': `GET pid HTTP/1.1\r\n${H}\r\n`,
  'a control character in the target': `GET /p\x01id HTTP/1.1\r\n${H}\r\n`,
  'a method with a brace': `G{T /pid HTTP/1.1\r\n${H}\r\n`,
  'HTTP/1.1 in small letters': `GET /pid http/1.1\r\n${H}\r\n`,
  'HTTP/0.9': 'GET /pid\r\n\r\n',
  'HTTP/1.11': `GET /pid HTTP/1.11\r\n${H}\r\n`,
  'no HTTP at all': '\x17\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n',
  'an Upgrade with a body': `GET /pid HTTP/1.1\r\n${H}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nabcd`,
};

const brokenBodies = {
  'a chunk size that is no number': 'zz\r\nabc\r\n0\r\n\r\n',
  'an empty chunk size': '\r\nabc\r\n0\r\n\r\n',
  'a negative chunk size': '-1\r\nabc\r\n0\r\n\r\n',
  'a chunk size with 0x': '0x3\r\nabc\r\n0\r\n\r\n',
  'a chunk size beyond 2^64': '10000000000000003\r\nabc\r\n0\r\n\r\n',
  'a chunk longer than its size': '3\r\nabcdef\r\n0\r\n\r\n',
  'a bare LF after the chunk size': '3\nabc\r\n0\r\n\r\n',
  'a bare LF after the chunk': '3\r\nabc\n0\r\n\r\n',
  'an endless chunk extension': `3;${'x'.repeat(100_000)}`,
};

// Odd, but only readable in one way.
const accepted = {
  'Transfer-Encoding: Chunked': [`POST /upload HTTP/1.1\r\n${H}Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n`, 3],
  'a chunk extension': [`POST /upload HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n`, 3],
  trailers: [`POST /upload HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n`, 3],
  'space around a value': [`POST /upload HTTP/1.1\r\n${H}Content-Length:   3  \r\n\r\nabc`, 3],
  'a chunk size with zeros in front': [`POST /upload HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\n\r\n0003\r\nabc\r\n0\r\n\r\n`, 3],
};

sharing('ambiguous requests', { apps: { web: { script: './http.js' } } }, check => {
  for (const [name, bytes] of Object.entries(refused)) {
    check(`${name}: refused and closed`, needsProxy, async proxy => {
      const raw = await Raw.connect(proxy.port);
      raw.socket.on('error', () => {});
      raw.write(Buffer.from(bytes + SMUGGLED, 'latin1'));
      const all = (await raw.rest()).toString('latin1');
      const statuses = [...all.matchAll(/^HTTP\/1\.[01] (\d{3})/gm)].map(match => match[1]);
      // RFC 9112: 501 for a transfer coding that is not known, 505 for a version.
      const allowed = ['400', ...(name.startsWith('Transfer-Encoding') ? ['501'] : []), ...(name.startsWith('HTTP/1.1') ? ['505'] : [])];
      assert.equal(statuses.length, 1, `one answer, not ${statuses}`);
      assert.ok(allowed.includes(statuses[0]), `${statuses[0]} instead of ${allowed}`);
    });
  }

  check('what begins as TLS: an alert of TLS, and closed', needsProxy, async proxy => {
    const raw = await Raw.connect(proxy.port);
    raw.socket.on('error', () => {});
    raw.write(Buffer.from(`\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n${SMUGGLED}`, 'latin1'));
    assert.deepEqual(await raw.rest(), Buffer.from([21, 3, 3, 0, 2, 2, 40]), 'handshake_failure, fatal');
  });

  for (const [name, body] of Object.entries(brokenBodies)) {
    check(`${name}: not served, and closed`, needsProxy, async proxy => {
      const raw = await Raw.connect(proxy.port);
      raw.socket.on('error', () => {});
      raw.write(`POST /upload HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\n\r\n${body}${SMUGGLED}`);
      const all = (await raw.rest()).toString('latin1');
      const statuses = [...all.matchAll(/^HTTP\/1\.[01] (\d{3})/gm)].map(match => match[1]);
      assert.ok(statuses.length <= 1, `at most one answer, not ${statuses}`);
      for (const status of statuses) assert.ok(['400', '413', '502'].includes(status), status);
    });
  }

  for (const [name, [bytes, length]] of Object.entries(accepted)) {
    check(`${name}: served`, async proxy => {
      const answer = await exchange(proxy.port, bytes);
      assert.equal(answer.status, 200);
      assert.equal(JSON.parse(answer.body).bytes, length);
    });
  }

  check('CONNECT and TRACE are no way through', needsProxy, async proxy => {
    for (const start of ['CONNECT 127.0.0.1:22 HTTP/1.1', 'CONNECT /pid HTTP/1.1']) {
      const answer = await exchange(proxy.port, `${start}\r\n${H}\r\n`);
      assert.ok(answer.status >= 400 && answer.status < 600, `${start} -> ${answer.status}`);
    }
  });

  check('after all that the proxy and its worker serve on', async proxy => {
    assert.equal((await request(proxy.port, { path: '/pid' })).status, 200);
  });
});
