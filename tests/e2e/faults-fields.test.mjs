// What a client may not say in the proxy's name, in any spelling, on any path that a request may take.

import assert from 'node:assert/strict';
import http2 from 'node:http2';
import { after, before, describe, test } from 'node:test';
import { Raw, exchange } from './lib/http.mjs';
import { needsProxy, startProxy } from './lib/proxy.mjs';
import { ask } from './lib/streams.mjs';
import { upgradeHead } from './lib/upgrade.mjs';

/** Written by the proxy, or by nobody. */
const OWN = [
  'x-forwarded-for',
  'x-forwarded-proto',
  'x-forwarded-host',
  'x-forwarded-port',
  'x-real-ip',
  'forwarded',
  'x-forwarded-ssl',
  'x-forwarded-scheme',
  'x-forwarded-prefix',
  'x-client-ip',
  'true-client-ip',
  'client-cert',
  'client-cert-chain',
  'x-ssl-client-verify',
  'x-ssl-client-subject',
  'x-ssl-client-fingerprint',
];
const spellings = name => [name, name.replaceAll('-', '_'), name.replace('-', '_'), name.toUpperCase().replaceAll('-', '_')];
const FORGED = '6.6.6.6';

/** As CGI, WSGI and Rack see names of fields. */
const fold = name => name.toLowerCase().replaceAll('_', '-');
const pairs = raw => raw.flatMap((name, i) => (i % 2 ? [] : [[fold(name), raw[i + 1]]]));

describe('fields that only the proxy may write', { ...needsProxy }, () => {
  let proxy;
  let session;
  before(async () => {
    proxy = await startProxy(made => ({
      listeners: [{ address: `127.0.0.1:${made.port}`, h2c: true }],
      apps: { web: { script: './faults.js' } },
    }));
    session = http2.connect(`http://127.0.0.1:${proxy.port}`);
    session.on('error', () => {});
  });
  after(() => {
    session?.destroy();
    return proxy?.stop();
  });

  const lines = fields => fields.map(([name, value]) => `${name}: ${value}\r\n`).join('');
  /** How a request gets to the worker: each says what the worker saw, or the status of a refusal. */
  const paths = {
    'HTTP/1.1': async fields => {
      const answer = await exchange(proxy.port, `GET /fields HTTP/1.1\r\nHost: x\r\n${lines(fields)}\r\n`);
      return answer.status === 200 ? JSON.parse(answer.body).raw : answer.status;
    },
    'an upgrade': async fields => {
      const answer = await exchange(proxy.port, upgradeHead('/fields', lines(fields)));
      return answer.status === 403 ? JSON.parse(answer.body).raw : answer.status;
    },
    'HTTP/2': async fields => {
      const answer = await ask(session, {
        ':path': '/fields',
        ...Object.fromEntries(fields.map(([name, value]) => [name.toLowerCase(), value])),
      });
      return answer.status === 200 ? JSON.parse(answer.text).raw : answer.status;
    },
  };

  for (const [path, seen] of Object.entries(paths)) {
    test(
      `${path}: a client's own words in them never reach a worker, however they are spelled`,
      { timeout: 30_000 },
      async () => {
        const wrong = [];
        for (const name of OWN) {
          for (const spelling of new Set(spellings(name))) {
            const raw = await seen([
              [spelling, FORGED],
              ['X-Mine', 'kept'],
            ]);
            if (raw === 400) continue;
            assert.ok(Array.isArray(raw), `${spelling}: ${raw}`);
            assert.ok(
              pairs(raw).some(([name, value]) => name === 'x-mine' && value === 'kept'),
              'other fields go on',
            );
            if (pairs(raw).some(([, value]) => value.includes(FORGED))) wrong.push(spelling);
          }
        }
        assert.deepEqual(wrong, []);
      },
    );

    test(`${path}: a name with _ that frames or routes never reaches a worker`, { timeout: 30_000 }, async () => {
      const wrong = [];
      for (const [name, value] of [
        ['content_length', '5'],
        ['transfer_encoding', 'chunked'],
        ['Content_Length', '0'],
        ['Transfer_Encoding', 'identity'],
      ]) {
        const raw = await seen([[name, value]]);
        if (raw !== 400) wrong.push(`${name}: ${JSON.stringify(raw)}`);
      }
      assert.deepEqual(wrong, [], 'not refused with 400');
    });

    test(`${path}: the proxy's own words are there once`, { timeout: 30_000 }, async () => {
      const all = pairs(
        await seen([
          ['x_forwarded_for', FORGED],
          ['x-forwarded-for', FORGED],
          ['x_real_ip', FORGED],
        ]),
      );
      for (const name of ['x-forwarded-for', 'x-real-ip']) {
        assert.deepEqual(
          all.filter(([one]) => one === name).map(([, value]) => value),
          ['127.0.0.1'],
          name,
        );
      }
    });
  }

  test('two Connection fields: what either names ends here', { timeout: 30_000 }, async () => {
    const raw = await paths['HTTP/1.1']([
      ['Connection', 'X-First'],
      ['X-First', '1'],
      ['X-Second', '2'],
      ['Connection', 'X-Second'],
      ['X-Third', '3'],
    ]);
    assert.deepEqual(
      pairs(raw)
        .filter(([name]) => /^x-(first|second|third)$/.test(name))
        .map(([name]) => name),
      ['x-third'],
    );
  });

  test('two Connection fields: close in the second ends the connection', { timeout: 30_000 }, async () => {
    const raw = await Raw.connect(proxy.port);
    raw.write('GET /pid HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n');
    const answer = await raw.response();
    assert.match(answer.headers.connection ?? '', /close/i);
    await raw.closed();
    raw.destroy();
  });

  const h1 = target => async () => (await exchange(proxy.port, `GET ${target} HTTP/1.1\r\nHost: x\r\n\r\n`)).status;
  const up = target => async () => (await exchange(proxy.port, upgradeHead(target))).status;
  const h2 = target => async () => {
    const answer = await ask(session, { ':path': target });
    return answer.status ?? `RST_STREAM ${answer.code}`;
  };
  for (const target of ['*', '/a#b', '/fields#', '#/fields']) {
    for (const [path, send] of Object.entries({ 'HTTP/1.1': h1(target), 'an upgrade': up(target), 'HTTP/2': h2(target) })) {
      // The h2 crate drops a fragment before it is seen; the next test says what the worker gets.
      if (path === 'HTTP/2' && target.includes('#')) continue;
      test(`${path}: GET ${target} is refused`, { timeout: 30_000 }, async () => {
        const got = await send();
        assert.ok(got === 400 || got === 'RST_STREAM 1', `${got}`);
      });
    }
  }

  test('HTTP/2: a fragment never reaches the worker', { timeout: 30_000 }, async () => {
    const { raw: _, url } = JSON.parse((await ask(session, { ':path': '/fields#part' })).text);
    assert.equal(url, '/fields');
  });
});
