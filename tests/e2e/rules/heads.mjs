// What of a head reaches the worker, and what is refused.

import assert from 'node:assert/strict';
import { noted } from './asking.mjs';
import { small } from './config.mjs';
import { json, shown } from './outcome.mjs';
import { range } from '../lib/wait.mjs';

const IS_GET = 'an upgrade is a GET';
const NO_CONNECTION = 'HTTP/2 has no fields of that kind: they make a request malformed there';

/** Asks what the worker sees. */
const see = (fields, more) => at => at.ask({ path: '/head', fields, ...more });

/** The fields that the worker saw, each [lower-case name, value]. */
function fields(result) {
  assert.equal(result.status, 200, shown(result));
  const { raw } = json(result);
  return raw.flatMap((name, i) => (i % 2 ? [] : [[name.toLowerCase(), raw[i + 1]]]));
}

const values = (result, name) => fields(result).filter(([key]) => key === name).map(([, value]) => value);
const status = code => result => assert.equal(result.status, code, shown(result));

/** Has an app ask the proxy again and again, with the fields that it was asked with; the status, and how often it was asked. */
const again = most => async at => {
  const name = `again${most}.${at.name}`;
  const { status } = await at.ask({ path: `/again?name=${name}&port=${at.proxy.port}&most=${most}` });
  return [status, noted(at, name).length];
};
const ONE_LEVEL = 'what the app asks is a plain request';

/** Asks as if it had come through the proxy so often already. */
const come = (times, more = []) => async at => {
  const [own] = values(await at.ask({ path: '/head' }), 'cdn-loop');
  const name = range(times).map(n => (n % 2 ? own.toUpperCase() : own)).join(', ');
  return [await at.ask({ path: '/head', fields: [['CDN-Loop', `cdn.example; a=b, ${name}`], ...more] }), own, name];
};

/** None of the client's values came through. */
const dropped = result => assert.doesNotMatch(JSON.stringify(fields(result)), /9\.9\.9\.9|evil/);

export const heads = [
  {
    name: 'no route is a 404',
    app: 'web',
    act: at => at.ask({ host: 'nobody.example' }),
    expect: status(404),
  },
  {
    name: 'forwarded fields: the proxy says who the client is',
    app: 'web',
    act: see([]),
    expect: (result, at) => {
      assert.deepEqual(values(result, 'x-forwarded-for'), ['127.0.0.1']);
      assert.deepEqual(values(result, 'x-real-ip'), ['127.0.0.1']);
      assert.deepEqual(values(result, 'x-forwarded-proto'), [at.secure ? 'https' : 'http']);
      assert.deepEqual(values(result, 'x-forwarded-host'), [at.host]);
      assert.deepEqual(values(result, 'x-forwarded-port'), [at.secure ? '443' : '80']);
      assert.deepEqual(values(result, 'host'), [at.host]);
    },
  },
  {
    name: 'each request has an id, which the worker and the client see, and which no client gives',
    app: 'web',
    act: see([['X-Request-Id', 'forged']]),
    expect: result => {
      const [id, ...more] = values(result, 'x-request-id');
      assert.match(id, /^[0-9a-f]{32}$/);
      assert.deepEqual(more, []);
      assert.equal(result.headers['x-request-id'], id);
    },
  },
  {
    name: 'an answer of the proxy itself names its request, too',
    app: 'web',
    act: at => at.ask({ host: 'nobody.example' }),
    expect: result => assert.match(result.headers['x-request-id'] ?? '', /^[0-9a-f]{32}$/, shown(result)),
  },
  {
    name: 'forwarded fields: a trusted proxy is believed, by the last address that is not trusted',
    app: 'web',
    own: at => ({ ...small({})(at), trusted_proxies: ['127.0.0.1'] }),
    act: see([
      ['X-Forwarded-For', '9.9.9.9, 192.0.2.7'], ['X-Forwarded-Proto', 'https'], ['X-Forwarded-Host', 'shop.example'], ['X-Forwarded-Port', '8443'],
      ['X-Request-Id', 'kept-1'],
    ]),
    expect: result => {
      const told = { 'x-forwarded-for': '192.0.2.7', 'x-real-ip': '192.0.2.7', 'x-forwarded-proto': 'https', 'x-forwarded-host': 'shop.example', 'x-forwarded-port': '8443', 'x-request-id': 'kept-1' };
      for (const [name, value] of Object.entries(told)) assert.deepEqual(values(result, name), [value], name);
      assert.equal(result.headers['x-request-id'], 'kept-1');
    },
  },
  {
    name: 'forwarded fields: what the client says of itself is dropped',
    app: 'web',
    act: see([
      ['X-Forwarded-For', '9.9.9.9'], ['x-forwarded-for', '9.9.9.9'], ['X-Forwarded-Proto', 'evil'], ['X-Forwarded-Host', 'evil'], ['X-Forwarded-Port', '9.9.9.9'],
      ['X-Real-IP', '9.9.9.9'], ['Forwarded', 'for=9.9.9.9'],
    ]),
    expect: dropped,
  },
  {
    name: 'forwarded fields: those of other proxies are dropped too',
    app: 'web',
    act: see([
      ['X-Client-IP', '9.9.9.9'], ['True-Client-IP', '9.9.9.9'], ['X-Forwarded-Ssl', 'evil'], ['X-Forwarded-Scheme', 'evil'], ['X-Forwarded-Prefix', 'evil'],
    ]),
    expect: dropped,
  },
  {
    name: 'forwarded fields: nobody claims a client certificate',
    app: 'web',
    act: see([
      ['Client-Cert', 'evil'], ['Client-Cert-Chain', 'evil'], ['X-SSL-Client-Verify', 'evil'], ['X-SSL-Client-Subject', 'evil'], ['X-SSL-Client-Fingerprint', '9.9.9.9'],
      ['client_cert', 'evil'], ['X_SSL_Client_Verify', 'evil'],
    ]),
    expect: dropped,
  },
  {
    name: 'forwarded fields: nor do they pass with _ for -',
    app: 'web',
    act: see([
      ['X_Forwarded_For', '9.9.9.9'], ['X_Real_IP', '9.9.9.9'], ['X-Forwarded_Proto', 'evil'], ['x_forwarded-host', 'evil'], ['X_Client_IP', '9.9.9.9'],
      ['True_Client_IP', '9.9.9.9'],
    ]),
    expect: result => {
      dropped(result);
      assert.deepEqual(values(result, 'x-forwarded-for'), ['127.0.0.1']);
    },
  },
  {
    name: 'a name with _ is dropped: servers may read it as another one',
    app: 'web',
    act: see([['X_Own', 'mine'], ['X-Own', 'other']]),
    expect: result => {
      assert.deepEqual(values(result, 'x_own'), []);
      assert.deepEqual(values(result, 'x-own'), ['other']);
    },
  },
  {
    name: 'with request_headers.underscores one that folds to nothing of ours passes',
    app: 'web',
    own: at => ({ ...small({})(at), request_headers: { underscores: true } }),
    act: see([['X_Own', 'mine'], ['X_Real_IP', '9.9.9.9']]),
    expect: result => {
      dropped(result);
      assert.deepEqual(values(result, 'x_own'), ['mine']);
    },
  },
  {
    name: 'the app\'s own fields pass unchanged, several of one name in their order',
    app: 'web',
    act: see([['X-Own', 'a  b'], ['X-Other', 'c'], ['X-Own', 'd'], ['Authorization', 'Basic eA==']]),
    expect: result => {
      assert.deepEqual(values(result, 'x-own'), ['a  b', 'd']);
      assert.deepEqual(values(result, 'x-other'), ['c']);
      assert.deepEqual(values(result, 'authorization'), ['Basic eA==']);
    },
  },
  {
    name: 'cookies arrive in one field',
    app: 'web',
    act: at => at.ask({ path: '/head', fields: at.two ? [['Cookie', 'a=1'], ['Cookie', 'b=2']] : [['Cookie', 'a=1; b=2']] }),
    expect: result => assert.deepEqual(values(result, 'cookie'), ['a=1; b=2']),
  },
  {
    name: 'fields of one connection stay there, two Connection fields are obeyed',
    app: 'web',
    not: { http2: NO_CONNECTION },
    act: see([
      ['Connection', 'X-One'], ['X-One', 'secret'], ['Connection', 'keep-alive, X-Two'], ['X-Two', 'secret'], ['Keep-Alive', 'timeout=5'], ['TE', 'trailers'],
      ['Proxy-Connection', 'keep-alive'],
    ]),
    expect: result => {
      const names = fields(result).map(([name]) => name);
      for (const name of ['x-one', 'x-two', 'keep-alive', 'te', 'proxy-connection']) assert.ok(!names.includes(name), `${name} in ${names}`);
    },
  },
  {
    name: 'a field with a NUL is a 400',
    app: 'web',
    act: async at => (await at.open()).broken(),
    expect: status(400),
    instead: {
      http2: {
        says: 'the h2 crate ends the connection with GOAWAY (RFC 9113, section 5.4.1, allows that)',
        expect: result => assert.equal(result.status, null, shown(result)),
      },
    },
  },
  {
    name: 'Content_Length is a 400',
    app: 'web',
    act: at => at.ask({ fields: [['Content_Length', '5']] }),
    expect: status(400),
  },
  {
    name: 'Transfer_Encoding is a 400',
    app: 'web',
    act: at => at.ask({ fields: [['Transfer_Encoding', 'chunked']] }),
    expect: status(400),
  },
  {
    name: 'GET * is a 400',
    app: 'web',
    act: at => at.ask({ path: '*' }),
    expect: status(400),
  },
  {
    name: 'OPTIONS * stays *',
    app: 'web',
    not: { upgrade: IS_GET },
    act: at => at.ask({ method: 'OPTIONS', path: '*' }),
    expect: result => {
      assert.equal(result.status, 200, shown(result));
      assert.equal(json(result).url, '*');
    },
  },
  {
    name: 'a path with # is a 400',
    app: 'web',
    act: at => at.ask({ path: '/head#part' }),
    expect: status(400),
    instead: {
      http2: {
        says: 'the h2 crate drops the fragment before it is seen: the worker gets the path without it',
        expect: result => {
          assert.equal(result.status, 200, shown(result));
          assert.ok(!result.body.includes('#part'), shown(result));
        },
      },
    },
  },
  {
    name: 'a second Host that names another is a 400',
    app: 'web',
    act: see([['Host', 'other.example']]),
    expect: status(400),
  },
  {
    name: 'an expectation that nobody knows is a 417',
    app: 'web',
    act: see([['Expect', 'wonders']]),
    expect: status(417),
  },
  {
    name: 'a target with scheme and host reaches the worker as a path',
    app: 'web',
    not: { http2: 'HTTP/2 has a path of its own' },
    act: at => at.ask({ path: `http://${at.host}/head?x=1` }),
    expect: (result, at) => {
      assert.equal(result.status, 200, shown(result));
      assert.equal(json(result).url, '/head?x=1');
      assert.deepEqual(values(result, 'host'), [at.host]);
    },
  },
  {
    name: 'loops: an app that asks the proxy the same again ends with a 508',
    app: 'one',
    not: { upgrade: ONE_LEVEL },
    act: again(1000),
    expect: found => assert.deepEqual(found, [508, 10]),
  },
  {
    name: 'loops: an app may ask itself through the proxy a few levels deep',
    app: 'one',
    not: { upgrade: ONE_LEVEL },
    act: again(6),
    expect: found => assert.deepEqual(found, [200, 6]),
  },
  {
    name: 'loops: a request that has come ten times is a 508, whatever else it says',
    app: 'web',
    connections: 2,
    act: async at => (await come(10)(at))[0],
    expect: status(508),
  },
  {
    name: 'loops: one that has come nine times passes, with all names and one more',
    app: 'web',
    connections: 2,
    act: come(9),
    expect: ([result, own, name]) => assert.deepEqual(values(result, 'cdn-loop'), [`cdn.example; a=b, ${name}`, own]),
  },
  {
    name: 'loops: no Connection field hides that a request has come before',
    app: 'web',
    not: { http2: NO_CONNECTION },
    connections: 2,
    act: async at => (await come(10, [['Connection', at.upgrades ? 'Upgrade, CDN-Loop' : 'CDN-Loop']])(at))[0],
    expect: status(508),
  },
  {
    name: 'the target passes unchanged',
    app: 'web',
    act: at => at.ask({ path: '/head/../head?a=%20b&c=d//e&x=[1]' }),
    expect: result => {
      assert.equal(result.status, 200, shown(result));
      assert.equal(json(result).url, '/head/../head?a=%20b&c=d//e&x=[1]');
    },
  },
];
