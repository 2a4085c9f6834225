// Certificates of clients: who comes in, what the workers are told, and what no client can pretend.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import http2 from 'node:http2';
import path from 'node:path';
import test from 'node:test';
import tls from 'node:tls';
import { X509Certificate } from 'node:crypto';
import { ask, authority, handshake, issue, revocations } from './lib/certificates.mjs';
import { upgraded } from './lib/handoff.mjs';
import { Raw, request } from './lib/http.mjs';
import { configure, freePort, needsProxy, withProxy } from './lib/proxy.mjs';
import { succeed } from './lib/steer.mjs';
import { until } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };

/** A proxy whose only TLS listener asks as `wanted` of the test's authority says. */
async function asking(wanted, body, more = {}) {
  const port = await freePort();
  let own;
  const config = (proxy, wanted) => {
    if (!own) {
      const dir = path.dirname(proxy.file('certs/x', ''));
      const [ca, staff, strangers] = ['ca', 'staff', 'strangers'].map(name => authority(dir, name));
      const subject = '/O=Example, Inc/CN=alice';
      own = {
        port, staff,
        server: issue(ca, 'server', { names: ['www.example', 'admin.example', 'open.example'] }),
        alice: issue(staff, 'alice', { subject }),
        bob: issue(staff, 'bob', { subject: '/CN=bob' }),
        mallory: issue(strangers, 'mallory', { subject }),
      };
    }
    const { cert, key } = own.server;
    const listeners = [
      { address: `127.0.0.1:${proxy.port}` },
      { address: `127.0.0.1:${port}`, tls: { certificates: [{ cert, key }], client_certificates: wanted(own) } },
    ];
    return { apps: { web: { script: './http.js' } }, listeners, ...more };
  };
  await withProxy(proxy => config(proxy, wanted), proxy =>
    body({ ...own, proxy, again: other => configure(proxy, config(proxy, other)) }));
}

const as = ({ pem, keyPem }) => ({ cert: pem, key: keyPem });
const told = ({ text }) => {
  const { headers } = JSON.parse(text);
  return Object.fromEntries(Object.entries(headers).filter(([name]) => /client-cert|ssl-client/.test(name)));
};
/** With the client's own words for all of it. */
const forged = {
  'Client-Cert': ':AAAA:', 'Client-Cert-Chain': ':AAAA:', 'X-SSL-Client-Verify': 'SUCCESS', 'X-SSL-Client-Subject': 'CN=root',
  'X-SSL-Client-Fingerprint': '00', X_SSL_Client_Verify: 'SUCCESS', 'client_cert': 'x',
};

for (const maxVersion of ['TLSv1.2', 'TLSv1.3']) {
  test(`required: only a client with a good certificate comes in, and is told to the workers (${maxVersion})`, options, () =>
    asking(({ staff }) => ({ ca: staff.cert }), async ({ port, alice, mallory, proxy }) => {
      const all = { path: '/head', servername: 'www.example', maxVersion };
      await assert.rejects(ask(port, all), /certificate|EPIPE|ECONNRESET|handshake|alert/i, 'without one');
      await assert.rejects(ask(port, { ...all, ...as(mallory) }), /certificate|unknown ca|EPIPE|ECONNRESET|alert/i, 'of another authority');
      const answer = await ask(port, { ...all, ...as(alice), headers: forged });
      const x509 = new X509Certificate(alice.pem);
      assert.deepEqual(told(answer), {
        'x-ssl-client-verify': 'SUCCESS',
        'x-ssl-client-subject': 'CN=alice,O=Example\\, Inc',
        'x-ssl-client-fingerprint': x509.fingerprint256.replaceAll(':', '').toLowerCase(),
        'client-cert': `:${x509.raw.toString('base64')}:`,
      });
      // A listener without: nothing of it, whatever a client says.
      const plain = await request(proxy.port, { path: '/head', headers: forged });
      assert.deepEqual(told(plain), {});
    }));
}

test('optional: a client without one comes in and is told, a bad one is refused', options, () =>
  asking(({ staff }) => ({ ca: staff.cert, mode: 'optional' }), async ({ port, alice, mallory }) => {
    const all = { path: '/head', servername: 'www.example' };
    assert.deepEqual(told(await ask(port, { ...all, headers: forged })), { 'x-ssl-client-verify': 'NONE' });
    assert.equal(told(await ask(port, { ...all, ...as(alice) }))['x-ssl-client-verify'], 'SUCCESS');
    await assert.rejects(ask(port, { ...all, ...as(mallory) }));
  }));

/** Who carries a request, or what its worker speaks. */
const ways = {
  'HTTP/1 workers': {},
  'HTTP/2 workers': { apps: { web: { command: [process.execPath, 'http2-worker.js', '{socket}'], protocol: 'http2', preload: false, affinity: 'none' } } },
  "Pingora's carrier": { server: { http: 'pingora' } },
};
for (const [way, more] of Object.entries(ways)) test(`HTTP/1 and HTTP/2 clients: the same fields, and the same 421 (${way})`, options, () =>
  asking(({ staff }) => [{ ca: staff.cert, hosts: ['admin.example'] }], async ({ port, alice }) => {
    const session = (servername, more) =>
      http2.connect(`https://127.0.0.1:${port}`, { servername, rejectUnauthorized: false, ...more });
    const get = (client, authority) =>
      new Promise((resolve, reject) => {
        const stream = client.request({ ':path': '/head', ':authority': authority, 'x-ssl-client-verify': 'SUCCESS' });
        let status, text = '';
        stream.on('response', headers => (status = headers[':status']));
        stream.setEncoding('utf8').on('data', data => (text += data));
        stream.once('error', reject);
        stream.once('end', () => resolve({ status, text }));
      });
    const open = session('www.example');
    const admin = session('admin.example', as(alice));
    try {
      assert.equal((await get(open, 'www.example')).status, 200);
      assert.equal((await get(open, 'admin.example')).status, 421);
      const answer = await get(admin, 'admin.example');
      assert.equal(answer.status, 200);
      assert.equal(told(answer)['x-ssl-client-subject'], 'CN=alice,O=Example\\, Inc');
      assert.equal((await get(admin, 'www.example')).status, 421, 'let in under other rules');
      const first = await ask(port, { path: '/head', servername: 'admin.example', headers: forged, ...as(alice) });
      assert.equal(told(first)['x-ssl-client-subject'], 'CN=alice,O=Example\\, Inc');
      assert.equal(told(first)['client-cert-chain'], undefined);
      assert.equal((await ask(port, { path: '/head', servername: 'www.example', host: 'admin.example' })).status, 421);
      assert.deepEqual(told(await ask(port, { path: '/head', servername: 'www.example', headers: forged })), { 'x-ssl-client-verify': 'NONE' });
    } finally {
      open.destroy();
      admin.destroy();
    }
  }, more));

test('a WebSocket upgrade: the same 421, and the worker is told', options, () =>
  asking(({ staff }) => [{ ca: staff.cert, hosts: ['admin.example'] }], async ({ port, alice }) => {
    const headers = { ...forged, connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==' };
    const upgrade = (servername, host, more) => ask(port, { path: '/fields', servername, host, headers, ...more });
    assert.equal((await upgrade('www.example', 'admin.example')).status, 421);
    const { raw } = JSON.parse((await upgrade('admin.example', 'admin.example', as(alice))).text);
    const verify = raw.filter((_, i) => i % 2 === 0 && /^x.ssl.client.verify$/i.test(raw[i]));
    assert.deepEqual(verify, ['X-SSL-Client-Verify']);
    assert.equal(raw[raw.indexOf('X-SSL-Client-Verify') + 1], 'SUCCESS');
  }, { apps: { web: { script: './faults.js' } } }));

test('per host: what a name asks for cannot be passed by with another name in the handshake', options, () =>
  asking(({ staff }) => [{ ca: staff.cert, hosts: ['admin.example'] }], async ({ port, alice }) => {
    const get = (servername, host, more) => ask(port, { path: '/head', servername, host, ...more });
    assert.deepEqual(told(await get('www.example', 'www.example', { headers: forged })), { 'x-ssl-client-verify': 'NONE' });
    await assert.rejects(get('admin.example', 'admin.example'));
    assert.equal((await get('admin.example', 'admin.example', as(alice))).status, 200);
    for (const host of ['admin.example', 'ADMIN.example', `admin.example:${port}`, 'admin.example.']) {
      const { status } = await get('www.example', host);
      assert.ok(status === 421 || status === 400, `${host}: ${status}`);
    }
    assert.equal((await get(undefined, 'admin.example')).status, 421, 'no name at all');
    assert.equal((await get('www.example', 'open.example')).status, 200, 'hosts with the same rules share a connection');
  }));

test('a certificate that was revoked does not come in, and a new list is followed', options, () =>
  asking(
    own => ({ ca: own.staff.cert, crl: (own.crl ??= revocations(own.staff, 'crl', own.bob)) }),
    async ({ port, staff, alice, bob }) => {
      const get = who => ask(port, { path: '/head', servername: 'www.example', ...as(who) });
      assert.equal((await get(alice)).status, 200);
      await assert.rejects(get(bob));
      writeFileSync(path.join(staff.dir, 'crl.pem'), readFileSync(revocations(staff, 'newer', alice, bob)));
      await until(() => get(alice).then(() => false, () => true), { timeout: 10_000, every: 200, what: 'alice refused' });
    },
  ));

test('a host whose list of revocations is another is not reached through one without', options, () =>
  asking(
    own => [
      { ca: own.staff.cert, hosts: ['open.example'] },
      { ca: own.staff.cert, crl: (own.crl ??= revocations(own.staff, 'crl', own.bob)), hosts: ['admin.example'] },
    ],
    async ({ port, alice, bob }) => {
      const get = (who, servername, host) => ask(port, { path: '/head', servername, host, ...as(who) });
      assert.equal((await get(bob, 'open.example', 'open.example')).status, 200, 'nothing is asked of him there');
      await assert.rejects(get(bob, 'admin.example', 'admin.example'));
      for (const host of ['admin.example', '%61dmin.example']) assert.equal((await get(bob, 'open.example', host)).status, 421, host);
      assert.equal((await get(alice, 'admin.example', 'admin.example')).status, 200);
    },
  ));

test('a plain connection of before is no way in once the listener asks for certificates, by a reload or an upgrade', options, async () => {
  const port = await freePort();
  const config = (proxy, tls) => ({
    apps: { web: { script: './http.js' } },
    listeners: [{ address: `127.0.0.1:${proxy.port}` }, { address: `127.0.0.1:${port}`, ...tls }],
  });
  await withProxy(proxy => config(proxy, {}), async proxy => {
    const kept = await Promise.all([Raw.connect(port), Raw.connect(port)]);
    const get = async raw => {
      raw.write('GET /pid HTTP/1.1\r\nHost: www.example\r\n\r\n');
      return (await raw.response()).status;
    };
    for (const raw of kept) assert.equal(await get(raw), 200);
    const dir = path.dirname(proxy.file('certs/x', ''));
    const [ca, staff] = ['ca', 'staff'].map(name => authority(dir, name));
    const { cert, key } = issue(ca, 'server', { names: ['www.example'] });
    configure(proxy, config(proxy, { tls: { certificates: [{ cert, key }], client_certificates: { ca: staff.cert } } }));
    await succeed(proxy, ['reload']);
    assert.equal(await get(kept[0]), 421);
    await upgraded(proxy);
    assert.equal(await get(kept[1]), 421);
  });
});

test('where certificates are asked for no session is resumed, also one that began before a reload asked', options, () =>
  asking(() => null, async ({ port, staff, proxy, again }) => {
    const tickets = [];
    const begin = session =>
      new Promise((resolve, reject) => {
        const socket = tls.connect({ host: '127.0.0.1', port, servername: 'www.example', rejectUnauthorized: false, session });
        socket.once('error', reject);
        socket.on('session', ticket => tickets.push(ticket));
        let reused;
        socket.once('secureConnect', () => {
          reused = socket.isSessionReused();
          socket.write('GET /pid HTTP/1.1\r\nHost: www.example\r\nConnection: close\r\n\r\n');
        });
        let text = '';
        socket.on('data', data => (text += data));
        socket.once('close', () => resolve({ reused, text }));
      });
    assert.equal((await begin()).reused, false);
    const [ticket] = tickets;
    assert.equal((await begin(ticket)).reused, true);
    again(() => ({ ca: staff.cert, mode: 'optional' }));
    await succeed(proxy, ['reload']);
    tickets.length = 0;
    assert.equal((await begin(ticket)).reused, false, 'a ticket of before');
    assert.deepEqual(tickets, [], 'no ticket is given');
    again(() => ({ ca: staff.cert }));
    await succeed(proxy, ['reload']);
    const { text } = await begin(ticket).catch(() => ({ text: '' }));
    assert.equal(text, '');
    await assert.rejects(ask(port, { servername: 'www.example', session: ticket }));
    assert.ok(await handshake(port, { servername: 'www.example', maxVersion: 'TLSv1.2' }).then(() => false, () => true));
  }));
