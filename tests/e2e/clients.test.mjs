// Who a client is, and what each may have: addresses of this machine's loopback stand for clients, load balancers and
// proxies. What holds on every path of a request alike stands in the table of rules/; here is what needs several addresses.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createRequire } from 'node:module';
import http2 from 'node:http2';
import net from 'node:net';
import { after, before, describe, test } from 'node:test';
import { alone, upgraded } from './lib/handoff.mjs';
import { Raw, request } from './lib/http.mjs';
import { freePort, needsProxy, startProxy } from './lib/proxy.mjs';
import { ask } from './lib/streams.mjs';
import { upgradeHead } from './lib/upgrade.mjs';
import { range, sleep, until } from './lib/wait.mjs';

const require = createRequire(import.meta.url);
const { io } = require('socket.io-client-4');
const WebSocket = require('ws');

const BALANCER = '127.0.0.9';
const ONE = '127.0.0.5';
const OTHER = '127.0.0.6';

const lines = fields => fields.map(([name, value]) => `${name}: ${value}\r\n`).join('');
const values = (raw, name) => raw.filter((_, i) => i % 2 && raw[i - 1].toLowerCase() === name);

/** One answer of a raw connection: status, head and body by its length. */
function answer(raw, timeout) {
  return raw.need(all => {
    const end = all.indexOf('\r\n\r\n');
    if (end < 0) return undefined;
    const head = all.toString('latin1', 0, end);
    const length = Number(/^content-length: (\d+)/im.exec(head)?.[1] ?? 0);
    if (all.length < end + 4 + length) return undefined;
    raw.buffer = all.subarray(end + 4 + length);
    return { status: Number(head.split(' ')[1]), head, body: all.toString('latin1', end + 4, end + 4 + length) };
  }, 'an answer', timeout);
}

const field = (head, name) => new RegExp(`^${name}: (.*)$`, 'im').exec(head)?.[1].trim();

/** Asks from an address, on a connection of its own. */
async function from(localAddress, port, { path = '/fields', fields = [], first = '' } = {}) {
  const raw = await Raw.connect(port, { localAddress });
  try {
    raw.write(Buffer.concat([Buffer.from(first, 'latin1'), Buffer.from(`GET ${path} HTTP/1.1\r\nHost: a.example\r\n${lines(fields)}Connection: close\r\n\r\n`)]));
    return await answer(raw);
  } finally {
    raw.destroy();
  }
}

const seen = reply => JSON.parse(reply.body).raw;
const ended = (raw, timeout = 10_000) => until(() => raw.ended, { timeout, what: 'the end of the connection' });

function session(localAddress, port) {
  const made = http2.connect(`http://127.0.0.1:${port}`, { createConnection: () => net.connect({ host: '127.0.0.1', port, localAddress }) });
  made.on('error', () => {});
  return made;
}

async function refusals(proxy) {
  const page = (await request(proxy.metrics, { path: '/metrics' })).text;
  return Object.fromEntries([...page.matchAll(/client_refusals_total\{rule="(\w+)"\} (\d+)/g)].map(([, rule, count]) => [rule, Number(count)]));
}

async function started(config) {
  const metrics = await freePort();
  const proxy = await startProxy(at => ({
    listeners: [{ address: `127.0.0.1:${at.port}`, h2c: true }],
    metrics: { address: `127.0.0.1:${metrics}` },
    apps: { web: { script: './faults.js' } },
    ...config(at),
  }));
  proxy.metrics = metrics;
  return proxy;
}

describe('trusted proxies', { ...needsProxy }, () => {
  let proxy;
  before(async () => {
    proxy = await started(() => ({ trusted_proxies: [BALANCER, '10.0.0.0/8'], request_headers: { forwarded: true, traceparent: 'begin' } }));
  });
  after(() => proxy?.stop());

  const said = [
    ['X-Forwarded-For', '6.6.6.6, 192.0.2.7, 10.1.1.1'], ['X-Forwarded-Proto', 'https'], ['X-Forwarded-Host', 'shop.example'],
    ['X-Forwarded-Port', '8443'], ['X-Request-Id', 'abc-1'],
  ];
  const judge = (raw, expected) => {
    for (const [name, value] of Object.entries(expected)) assert.deepEqual(values(raw, name), [value], name);
  };
  const told = {
    'x-forwarded-for': '192.0.2.7', 'x-real-ip': '192.0.2.7', 'x-forwarded-proto': 'https', 'x-forwarded-host': 'shop.example', 'x-forwarded-port': '8443',
    'x-request-id': 'abc-1', host: 'a.example', forwarded: 'for=192.0.2.7;proto=https;host="shop.example"',
  };

  test('are believed, on HTTP/1, HTTP/2 and upgrades', async () => {
    const reply = await from(BALANCER, proxy.port, { fields: said });
    judge(seen(reply), told);
    assert.equal(field(reply.head, 'x-request-id'), 'abc-1');
    const raw = await Raw.connect(proxy.port, { localAddress: BALANCER });
    raw.write(upgradeHead('/fields', lines(said)).replace(/^Host: .*$/m, 'Host: a.example'));
    judge(JSON.parse((await answer(raw)).body).raw, told);
    raw.destroy();
    const two = session(BALANCER, proxy.port);
    const stream = await ask(two, { ':path': '/fields', ':authority': 'a.example', ...Object.fromEntries(said.map(([name, value]) => [name.toLowerCase(), value])) });
    judge(JSON.parse(stream.text).raw, told);
    two.destroy();
  });

  test('are the only ones that are', async () => {
    const reply = await from(ONE, proxy.port, { fields: said });
    const raw = seen(reply);
    judge(raw, { 'x-forwarded-for': ONE, 'x-real-ip': ONE, 'x-forwarded-proto': 'http', 'x-forwarded-host': 'a.example', 'x-forwarded-port': '80', forwarded: `for=${ONE};proto=http;host="a.example"` });
    assert.match(values(raw, 'x-request-id')[0], /^[0-9a-f]{32}$/);
    assert.equal(field(reply.head, 'x-request-id'), values(raw, 'x-request-id')[0]);
  });

  test('a trace is kept or begun', async () => {
    const trace = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
    judge(seen(await from(ONE, proxy.port, { fields: [['traceparent', trace], ['tracestate', 'a=1']] })), { traceparent: trace, tracestate: 'a=1' });
    const begun = seen(await from(ONE, proxy.port, { fields: [['traceparent', 'wrong'], ['tracestate', 'a=1']] }));
    assert.match(values(begun, 'traceparent').join(), /^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
    assert.deepEqual(values(begun, 'tracestate'), []);
  });
});

describe('the PROXY protocol', { ...needsProxy }, () => {
  let proxy;
  let port;
  before(async () => {
    port = await freePort();
    proxy = await started(at => ({
      listeners: [{ address: `127.0.0.1:${at.port}` }, { address: `127.0.0.1:${port}`, h2c: true, proxy_protocol: { from: [BALANCER, '127.0.0.1'] } }],
      clients: { connections: 4 },
    }));
  });
  after(() => proxy?.stop());

  const v1 = client => `PROXY TCP4 ${client} 127.0.0.1 4711 80\r\n`;
  const v2 = (command, client) => {
    const ip = client.split('.').map(Number);
    return Buffer.from([...Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1'), 0x20 | command, 0x11, 0, 19, ...ip, 127, 0, 0, 1, 0x12, 0x67, 0, 80, 1, 0, 4, ...Buffer.from('http')]).toString('latin1');
  };
  const client = reply => values(seen(reply), 'x-forwarded-for');

  test('names the client, in both versions and as curl sends it', async () => {
    assert.deepEqual(client(await from(BALANCER, port, { first: v1('192.0.2.7') })), ['192.0.2.7']);
    assert.deepEqual(client(await from(BALANCER, port, { first: v2(1, '192.0.2.8') })), ['192.0.2.8']);
    assert.deepEqual(client(await from(BALANCER, port, { first: 'PROXY TCP6 2001:db8::7 ::1 4711 80\r\n' })), ['2001:db8::7']);
    const out = await new Promise((resolve, reject) => {
      execFile('curl', ['-sS', '-m', '10', '--haproxy-protocol', `http://127.0.0.1:${port}/fields`], (error, text) => (error ? reject(error) : resolve(text)));
    });
    assert.deepEqual(values(JSON.parse(out).raw, 'x-forwarded-for'), ['127.0.0.1']);
  });

  test('a balancer that speaks for itself is the client', async () => {
    assert.deepEqual(client(await from(BALANCER, port, { first: v2(0, '192.0.2.8') })), [BALANCER]);
    assert.deepEqual(client(await from(BALANCER, port, { first: 'PROXY UNKNOWN\r\n' })), [BALANCER]);
  });

  test('a header may come in pieces, and with HTTP/2 or an upgrade behind it', async () => {
    const raw = await Raw.connect(port, { localAddress: BALANCER });
    for (const byte of v2(1, '192.0.2.9')) {
      raw.write(Buffer.from(byte, 'latin1'));
      await sleep(2);
    }
    raw.write(upgradeHead('/fields'));
    assert.deepEqual(values(JSON.parse((await answer(raw)).body).raw, 'x-forwarded-for'), ['192.0.2.9']);
    raw.destroy();
    const socket = net.connect({ host: '127.0.0.1', port, localAddress: BALANCER });
    socket.write(v1('192.0.2.10'));
    const two = http2.connect(`http://127.0.0.1:${port}`, { createConnection: () => socket });
    two.on('error', () => {});
    const stream = await ask(two, { ':path': '/fields' });
    assert.deepEqual(values(JSON.parse(stream.text).raw, 'x-forwarded-for'), ['192.0.2.10']);
    two.destroy();
  });

  test('whoever is not listed, says nothing or something else is refused', async () => {
    const before = (await refusals(proxy)).proxy_header;
    for (const [address, first] of [[ONE, v1('192.0.2.7')], [BALANCER, ''], [BALANCER, 'PROXY TCP4 nonsense\r\n'], [BALANCER, `PROXY UNKNOWN ${'x'.repeat(120)}`]]) {
      const raw = await Raw.connect(port, { localAddress: address });
      raw.write(`${first}GET /fields HTTP/1.1\r\nHost: a\r\n\r\n`);
      await ended(raw, 4000);
      assert.equal(raw.buffer.length, 0);
      raw.destroy();
    }
    const silent = await Raw.connect(port, { localAddress: BALANCER });
    silent.write('PROXY TCP4');
    await ended(silent);
    silent.destroy();
    assert.equal((await refusals(proxy)).proxy_header - before, 5);
  });

  test('on a listener without it, a header is no request', async () => {
    const raw = await Raw.connect(proxy.port, { localAddress: BALANCER });
    raw.write(`${v1('192.0.2.7')}GET / HTTP/1.1\r\nHost: a\r\n\r\n`);
    assert.equal((await answer(raw)).status, 400);
    raw.destroy();
  });

  test('connections count for the client that the header names, and the client is kept over an upgrade', async () => {
    const open = [];
    for (const _ of range(4)) {
      const raw = await Raw.connect(port, { localAddress: BALANCER });
      raw.write(`${v1('192.0.2.30')}GET /fields HTTP/1.1\r\nHost: a\r\n\r\n`);
      assert.equal((await answer(raw)).status, 200);
      open.push(raw);
    }
    const fifth = async () => {
      const raw = await Raw.connect(port, { localAddress: BALANCER });
      raw.write(`${v1('192.0.2.30')}GET /fields HTTP/1.1\r\nHost: a\r\n\r\n`);
      const served = await Promise.race([answer(raw).then(() => true, () => false), ended(raw).then(() => false)]);
      raw.destroy();
      return served;
    };
    assert.equal(await fifth(), false);
    assert.deepEqual(client(await from(BALANCER, port, { first: v1('192.0.2.31') })), ['192.0.2.31']);
    await upgraded(proxy);
    await alone(proxy);
    open[0].write('GET /fields HTTP/1.1\r\nHost: a\r\n\r\n');
    assert.deepEqual(client(await answer(open[0])), ['192.0.2.30']);
    // What has moved counts where it is now.
    assert.equal(await fifth(), false);
    open.forEach(raw => raw.destroy());
    await until(fifth, { timeout: 5000, what: 'a place for the client' });
  });
});

describe('requests per client', { ...needsProxy }, () => {
  let proxy;
  before(async () => {
    proxy = await started(() => ({ clients: { requests: '6/m', burst: 3 }, trusted_proxies: [BALANCER, '127.0.0.1'] }));
  });
  after(() => proxy?.stop());

  test('beyond the rate are a 429 with Retry-After, on every path, and others are served', async () => {
    const statuses = [];
    for (const _ of range(5)) statuses.push((await from(ONE, proxy.port)).status);
    assert.deepEqual(statuses, [200, 200, 200, 429, 429]);
    const refused = await from(ONE, proxy.port);
    const seconds = Number(field(refused.head, 'retry-after'));
    assert.ok(seconds >= 1 && seconds <= 10, refused.head);
    assert.match(field(refused.head, 'x-request-id'), /^[0-9a-f]{32}$/);
    const raw = await Raw.connect(proxy.port, { localAddress: ONE });
    raw.write(upgradeHead('/fields'));
    assert.equal((await answer(raw)).status, 429);
    raw.destroy();
    const two = session(ONE, proxy.port);
    const stream = await ask(two, { ':path': '/fields' });
    assert.equal(stream.status, 429);
    two.destroy();
    assert.equal((await from(OTHER, proxy.port)).status, 200);
    assert.ok((await refusals(proxy)).requests >= 5);
  });

  test('each stream of an HTTP/2 connection counts', async () => {
    const two = session('127.0.0.7', proxy.port);
    const all = await Promise.all(range(10).map(() => ask(two, { ':path': '/fields' })));
    assert.equal(all.filter(({ status }) => status === 200).length, 3);
    assert.equal(all.filter(({ status }) => status === 429).length, 7);
    two.destroy();
  });

  test('through a trusted proxy count for its client, and the proxy itself is free', async () => {
    const via = (fields = []) => from(BALANCER, proxy.port, { fields }).then(({ status }) => status);
    const statuses = [];
    for (const _ of range(5)) statuses.push(await via([['X-Forwarded-For', '6.6.6.6, 192.0.2.50']]));
    assert.deepEqual(statuses, [200, 200, 200, 429, 429]);
    assert.equal(await via([['X-Forwarded-For', '192.0.2.51']]), 200);
    for (const _ of range(6)) assert.equal(await via(), 200);
  });
});

describe('WebSockets and Socket.IO sessions of one client', { ...needsProxy, timeout: 120_000 }, () => {
  let proxy;
  before(async () => {
    proxy = await started(() => ({
      trusted_proxies: [BALANCER, '127.0.0.1'], clients: { connections: 3 },
      apps: { web: { script: './sio.js', affinity: 'socket.io' } },
    }));
  });
  after(() => proxy?.stop());

  /** Socket.IO by WebSocket alone, as if it came through a proxy that asks for this client. */
  function socketio(client) {
    const socket = io(proxy.url, { transports: ['websocket'], forceNew: true, reconnection: false, extraHeaders: { 'X-Forwarded-For': client } });
    const opened = new Promise(resolve => {
      socket.once('connect', () => resolve(true));
      socket.once('connect_error', () => resolve(false));
    });
    return { opened, close: () => socket.close(), socket };
  }

  function websocket(localAddress) {
    const socket = new WebSocket(`ws://127.0.0.1:${proxy.port}/socket.io/?EIO=4&transport=websocket`, { localAddress });
    const opened = new Promise(resolve => {
      socket.once('open', () => resolve(true));
      socket.once('error', () => resolve(false));
    });
    return { opened, close: () => socket.terminate() };
  }

  for (const [how, open] of [['through a trusted proxy', () => socketio('192.0.2.60')], ['of its own address', () => websocket(ONE)]]) {
    test(`count as long as they are open, ${how}, also over an upgrade`, async () => {
      const three = range(3).map(open);
      assert.deepEqual(await Promise.all(three.map(({ opened }) => opened)), [true, true, true]);
      const tried = async () => {
        const one = open();
        const opened = await one.opened;
        one.close();
        return opened;
      };
      assert.equal(await tried(), false);
      const other = socketio('192.0.2.61');
      assert.equal(await other.opened, true);
      other.close();
      await upgraded(proxy);
      await alone(proxy);
      assert.equal(await tried(), false, 'what has moved counts');
      three.forEach(one => one.close());
      await until(tried, { timeout: 5000, what: 'a place for another one' });
    });
  }
});

test('a proxy that ends TLS before us is not sent in a circle, and nobody else pretends to be one', { ...needsProxy, timeout: 60_000 }, async () => {
  const port = await freePort();
  const proxy = await startProxy(at => ({
    apps: { web: { script: './rules.js', env: { NOTES: at.file('notes') } } },
    listeners: [{ address: `127.0.0.1:${at.port}` }, { address: `127.0.0.1:${port}`, redirect: 'https' }],
    trusted_proxies: [BALANCER],
  }));
  try {
    const said = [['X-Forwarded-Proto', 'https']];
    assert.equal((await from(BALANCER, port, { path: '/head', fields: said })).status, 200);
    assert.equal((await from(BALANCER, port, { path: '/head' })).status, 308);
    assert.equal((await from(ONE, port, { path: '/head', fields: said })).status, 308);
  } finally {
    await proxy.stop();
  }
});

describe('one address beside others', { ...needsProxy, timeout: 120_000 }, () => {
  let proxy;
  const LIMIT = 1000;
  before(async () => {
    proxy = await started(at => ({
      limits: { connections: LIMIT, body_rate: 0 },
      apps: { web: { script: './rules.js', instances: 2, max_concurrency: 10, queue: { max: 150 }, affinity: 'none', env: { NOTES: at.file('notes') } } },
    }));
  });
  after(() => proxy?.stop());

  const gauge = async name => Number(new RegExp(`^pingora_unix_proxy_${name}\\{app="web"\\} (\\d+)$`, 'm').exec((await request(proxy.metrics, { path: '/metrics' })).text)[1]);

  /** How long others wait for an answer at most, in milliseconds. */
  async function others() {
    let most = 0;
    for (const n of range(20)) {
      const began = performance.now();
      assert.equal((await from(`127.0.0.${20 + (n % 5)}`, proxy.port, { path: '/head' })).status, 200);
      most = Math.max(most, performance.now() - began);
    }
    return most;
  }

  test('1,000 idle connections and 200 slow bodies leave others served at once', async () => {
    const slow = [];
    for (const _ of range(200)) {
      const raw = await Raw.connect(proxy.port, { localAddress: ONE });
      raw.write(`POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n${'x'.repeat(2000)}`);
      slow.push(raw);
    }
    const idle = [];
    for (const _ of range(LIMIT)) idle.push(await Raw.connect(proxy.port, { localAddress: ONE }).catch(() => null));
    const drip = setInterval(() => slow.forEach(raw => raw.ended || raw.write('x')), 200);
    try {
      await until(async () => (await refusals(proxy)).share > 0, { timeout: 20_000, what: 'the share of one address to be used up' });
      // Fifteen of the twenty places for requests, and no more: the other bodies wait.
      await until(async () => (await gauge('queue_waiting')) >= 100, { timeout: 20_000, what: 'slow bodies to wait' });
      const took = await others();
      console.log(`others waited for at most ${took.toFixed(0)} ms; refused: ${JSON.stringify(await refusals(proxy))}`);
      assert.ok(took < 2000, `others waited for ${took} ms`);
      // Of the queue, too, one address has its share: requests that come together find places in it.
      const together = await Promise.all(range(12).map(n => from(`127.0.0.${20 + n}`, proxy.port, { path: '/head' })));
      assert.deepEqual(together.map(answer => answer.status), range(12).map(() => 200));
    } finally {
      clearInterval(drip);
      for (const raw of [...slow, ...idle]) raw?.destroy();
    }
  });
});
