// The access log: what each path writes, and that nothing of it is lost or torn.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, renameSync, statSync, symlinkSync, truncateSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { WebSocket } from 'ws';
import { alone, upgraded } from './lib/handoff.mjs';
import { Raw, request } from './lib/http.mjs';
import { ask, withSession } from './lib/http2.mjs';
import { apps, configure, freePort, needsProxy, needsUpgrade, withProxy } from './lib/proxy.mjs';
import * as tls from './lib/tls.mjs';
import { open } from './lib/upgrade.mjs';
import { range, until } from './lib/wait.mjs';

const options = { timeout: 120_000, ...needsProxy };

const fileOf = proxy => path.join(proxy.dir, 'own', 'access.log');
const textOf = proxy => (existsSync(fileOf(proxy)) ? readFileSync(fileOf(proxy), 'utf8') : '');
const linesOf = proxy => textOf(proxy).split('\n').slice(0, -1);
const entriesOf = proxy => linesOf(proxy).map(line => JSON.parse(line));

/** The one line of a path, once it is there. */
function entry(proxy, wanted) {
  const matches = typeof wanted === 'function' ? wanted : one => one.path === wanted;
  return until(() => entriesOf(proxy).find(matches), { what: `the line of ${wanted}` });
}

const logged = (log, more = {}) => proxy => ({
  apps: { web: { script: './http.js' } },
  listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
  access_log: { file: fileOf(proxy), format: 'json', ...log },
  ...more,
});

test('HTTP/1: everything that is known of a request, and of those that no worker answered', options, () =>
  withProxy(logged({}, { apps: { web: { script: './http.js' }, idle: { script: './never.js', start_timeout: '10m', queue: { max: 0 } } }, limits: { head_size: '8kib' }, routes: [{ host: 'web.example', app: 'web' }, { host: 'idle.example', app: 'idle' }] }), { ready: false }, async proxy => {
    const ask = (at, headers = {}) => request(proxy.port, { path: at, headers: { host: 'web.example', ...headers } });
    await until(async () => (await ask('/pid')).status === 200, { timeout: 30_000, what: 'the app' });
    const answered = await ask('/head?a=1&token=geheim', { 'user-agent': 'test "1"', referer: 'http://web.example/?sid=geheim' });
    const { time, queue, connect, first_byte: first, total, sent, body_sent: body, ...one } = await entry(proxy, '/head');
    assert.ok(Math.abs(Date.parse(time) - Date.now()) < 60_000, time);
    assert.ok([queue, connect, first].every(part => part >= 0 && part < 10) && total >= queue + connect + first, JSON.stringify({ queue, connect, first, total }));
    assert.ok(body > 100 && sent > body, `${sent} ${body}`);
    assert.deepEqual(one, {
      client: '127.0.0.1', method: 'GET', path: '/head', query: 'a=1&token=REDACTED', protocol: 'HTTP/1.1', scheme: 'http', host: 'web.example',
      status: 200, answered_by: 'worker', app: 'web', slot: 0, generation: 1, received: 0, route: 'web.example/', retries: 0, user_agent: 'test "1"',
      referer: 'http://web.example/?sid=REDACTED', request_id: answered.headers['x-request-id'],
    });
    const [idle, lost] = await Promise.all([ask('/idle', { host: 'idle.example' }), ask('/lost', { host: 'other.example' })]);
    assert.deepEqual([idle.status, lost.status], [503, 404]);
    const refused = await entry(proxy, '/idle');
    assert.deepEqual([refused.status, refused.answered_by, refused.reason, refused.app, refused.slot], [503, 'proxy', 'no_worker', 'idle', undefined]);
    const unrouted = await entry(proxy, '/lost');
    assert.deepEqual([unrouted.status, unrouted.reason, unrouted.app], [404, 'no_route', undefined]);
    // A head that is refused.
    const raw = await Raw.connect(proxy.port);
    raw.write('GET /bad?token=geheim HTTP/1.1\r\nHost : x\r\n\r\n');
    await raw.rest();
    const bad = await entry(proxy, '/bad');
    assert.deepEqual([bad.status, bad.reason, bad.query, bad.method], [400, 'refused_head', 'token=REDACTED', 'GET']);
    // A client that leaves.
    const gone = await Raw.connect(proxy.port);
    gone.write('GET /sse?id=1 HTTP/1.1\r\nHost: web.example\r\n\r\n');
    await gone.head();
    gone.socket.destroy();
    const left = await entry(proxy, '/sse');
    assert.deepEqual([left.status, left.answered_by, left.reason], [200, 'worker', 'client_gone']);
    assert.ok(!textOf(proxy).includes('geheim'));
  }));

for (const [name, more] of [
  ['HTTP/2', {}],
  ['HTTP/2 by Pingora', { server: { http: 'pingora' } }],
  ['HTTP/2 to workers with HTTP/2', { apps: { web: { command: [process.execPath, path.join(apps, 'http2-worker.js'), '{socket}'], protocol: 'http2', preload: false, affinity: 'none' } } }],
]) {
  test(`${name}: one line per stream`, options, () =>
    withProxy(logged({}, more), { ready: false }, async proxy => {
      await until(async () => (await request(proxy.port, { path: '/pid' })).status === 200, { timeout: 30_000, what: 'the app' });
      await withSession(proxy.port, async session => {
        const answers = await Promise.all(range(20).map(n => ask(session, { ':path': `/pid?n=${n}&code=geheim`, 'user-agent': 'two' })));
        assert.ok(answers.every(answer => answer.status === 200));
      });
      const two = () => entriesOf(proxy).filter(one => one.protocol === 'HTTP/2.0');
      await until(() => two().length === 20, { what: '20 lines' });
      for (const one of two()) {
        assert.deepEqual([one.status, one.answered_by, one.app, one.slot, one.user_agent], [200, 'worker', 'web', 0, 'two'], JSON.stringify(one));
        assert.match(one.query, /^n=\d+&code=REDACTED$/);
        assert.ok(one.total > 0 && one.queue >= 0 && one.first_byte > 0 && one.body_sent > 0, JSON.stringify(one));
      }
    }));
}

test('an HTTP/2 client that goes away leaves a line for each of its requests', options, () =>
  withProxy(logged({}), async proxy => {
    await withSession(proxy.port, async session => {
      range(5).forEach(n => ask(session, { ':path': `/hang?id=${n}` }).catch(() => {}));
      const arrived = async n => (await request(proxy.port, { path: `/gone?id=${n}` })).text === 'open';
      for (const n of range(5)) await until(() => arrived(n), { what: `request ${n} to be at the worker` });
      session.destroy();
    });
    const gone = () => entriesOf(proxy).filter(one => one.protocol === 'HTTP/2.0');
    await until(() => gone().length === 5, { what: 'their lines' });
    assert.ok(gone().every(one => one.answered_by !== 'proxy' && one.app === 'web'), JSON.stringify(gone()));
  }));

test('a WebSocket has a line at its end with the side that ended it, and one at its beginning if asked for', options, () =>
  withProxy(proxy => ({ ...logged({ tunnel_begin: true })(proxy), apps: { ws: { script: './ws.js' } } }), async proxy => {
    const echo = async (at, end) => {
      const socket = await open(proxy.port, at);
      await new Promise(resolve => {
        socket.once('message', resolve);
        socket.send('hello');
      });
      await end(socket);
    };
    await echo('/ws?a=client&token=geheim', socket => socket.close());
    await echo('/ws?a=worker', socket => socket.send('close 4001'));
    await echo('/ws?a=gone', socket => socket.terminate());
    const ended = a => entry(proxy, one => one.tunnel === 'end' && one.query.startsWith(`a=${a}`));
    const client = await ended('client');
    assert.deepEqual([client.status, client.upgrade, client.reason, client.app, client.slot, client.method], [101, 'websocket', 'client', 'ws', 0, 'GET']);
    // A frame of 5 bytes with and without a mask, and two Close frames.
    assert.ok(client.received >= 11 + 6 && client.sent >= 7 + 2, JSON.stringify(client));
    assert.ok(Date.parse(client.time) - Date.parse(client.began) >= 0 && client.query === 'a=client&token=REDACTED');
    assert.equal((await ended('worker')).reason, 'worker');
    assert.ok(['client', 'broken'].includes((await ended('gone')).reason));
    const begins = entriesOf(proxy).filter(one => one.tunnel === 'begin');
    assert.deepEqual([begins.length, begins[0].status], [3, 101]);
  }));

test('a WebSocket that an upgrade moves is logged once, with its true beginning and all its bytes', { ...options, ...needsUpgrade }, () =>
  withProxy(proxy => ({ ...logged({})(proxy), apps: { ws: { script: './ws.js' } } }), async proxy => {
    const socket = await open(proxy.port, '/ws?a=1');
    const say = text => new Promise(resolve => {
      socket.once('message', resolve);
      socket.send(text);
    });
    const began = Date.now();
    await say('x'.repeat(1000));
    await upgraded(proxy);
    await alone(proxy);
    const moved = Date.now();
    await say('y'.repeat(1000));
    assert.deepEqual(entriesOf(proxy).filter(one => one.tunnel), []);
    socket.close();
    const one = await entry(proxy, at => at.tunnel === 'end');
    assert.ok(Math.abs(Date.parse(one.began) - began) < 5000 && Date.parse(one.began) < moved, JSON.stringify(one));
    assert.ok(one.received > 2000 && one.sent > 2000 && one.total >= (moved - began) / 1000 - 1, JSON.stringify(one));
    assert.deepEqual([one.reason, one.app, one.slot, one.query], ['client', 'ws', 0, 'a=1']);
    (await open(proxy.port, '/ws?a=2')).close();
    await entry(proxy, at => at.tunnel === 'end' && at.query === 'a=2');
    assert.equal(entriesOf(proxy).filter(at => at.tunnel).length, 2, 'one line each');
  }));

test('SIGUSR1 and copytruncate under load: each request has one whole line', options, () =>
  withProxy(logged({ format: '$status $args $app' }), async proxy => {
    let asked = 0;
    let stop = false;
    const kept = [];
    const load = range(4).map(async () => {
      while (!stop) await request(proxy.port, { path: `/pid?n=${asked++}` });
    });
    // What goes wrong below is told, not that the proxy is gone then.
    load.forEach(one => one.catch(() => {}));
    for (const round of range(4)) {
      const before = asked;
      await until(() => asked > before + 50 && existsSync(fileOf(proxy)), { timeout: 30_000, what: 'requests, and the file' });
      const aside = `${fileOf(proxy)}.${round}`;
      renameSync(fileOf(proxy), aside);
      kept.push(aside);
      proxy.kill(proxy.pid, 'SIGUSR1');
      await until(() => existsSync(fileOf(proxy)), { what: 'the new file' });
    }
    stop = true;
    await Promise.all(load);
    const all = () => [...kept, fileOf(proxy)].flatMap(file => readFileSync(file, 'utf8').split('\n').slice(0, -1)).filter(line => line.includes('n='));
    await until(() => all().length >= asked, { what: () => `${asked} lines, ${all().length} are there` });
    const numbers = all().map(line => Number(/^200 n=(\d+) web$/.exec(line)?.[1]));
    assert.deepEqual(numbers.sort((a, b) => a - b), range(asked));
    truncateSync(fileOf(proxy), 0);
    await request(proxy.port, { path: '/pid?after' });
    await until(() => textOf(proxy) === '200 after web\n', { what: 'the line at the beginning of the file' });
    assert.equal(statSync(fileOf(proxy)).mode & 0o777, 0o640);
  }));

test('a reload changes format and file, the last lines are written at the stop', options, () =>
  withProxy(logged({ format: '$uri' }), async proxy => {
    await request(proxy.port, { path: '/pid?1' });
    await until(() => linesOf(proxy).includes('/pid'));
    const other = path.join(proxy.dir, 'own', 'other.log');
    configure(proxy, logged({ file: other, format: 'json' })(proxy));
    proxy.kill(proxy.pid, 'SIGHUP');
    await until(async () => {
      await request(proxy.port, { path: '/pid?2' });
      return existsSync(other);
    }, { what: 'the other file' });
    await request(proxy.port, { path: '/head' });
    await proxy.interrupt();
    const lines = readFileSync(other, 'utf8').split('\n').slice(0, -1).map(line => JSON.parse(line));
    assert.equal(lines.at(-1).path, '/head', 'the last line');
  }));

test('standard output is shared with the workers, line by line', options, () =>
  withProxy(logged({ file: 'stdout', format: 'json' }), async proxy => {
    await Promise.all(range(200).map(n => request(proxy.port, { path: `/print?text=${'w'.repeat(500)}${n}` })));
    const seen = () => proxy.lines.filter(line => line.stream === 'stdout' && line.text.includes('"path":"/print"'));
    await until(() => seen().length === 200, { what: '200 lines' });
    seen().forEach(line => JSON.parse(line.text));
  }));

test('a full disk and a link stop nobody: what is missing is counted', options, async () => {
  const metrics = await freePort();
  const counted = async name => Number(new RegExp(`^pingora_unix_proxy_${name} (\\d+)$`, 'm').exec((await request(metrics, { path: '/metrics' })).text)?.[1]);
  for (const place of ['full', 'link']) {
    await withProxy(proxy => {
      const link = proxy.file('link.log');
      if (place === 'link' && !existsSync(link)) symlinkSync('/dev/null', link);
      return { ...logged({ file: place === 'full' ? '/dev/full' : link })(proxy), metrics: { address: `127.0.0.1:${metrics}` } };
    }, async proxy => {
      const answers = await Promise.all(range(50).map(() => request(proxy.port, { path: '/pid' })));
      assert.ok(answers.every(answer => answer.status === 200));
      await until(async () => await counted('access_log_lines_dropped_total') >= 50, { what: 'the lines to be counted' });
      assert.ok(await counted('access_log_lines_total') >= await counted('access_log_lines_dropped_total'));
      await proxy.line(/cannot be written/);
    });
  }
});

const has = program => {
  try {
    execFileSync('which', [program], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
};

test('goaccess reads the combined log', { ...options, skip: options.skip ?? (!has('goaccess') && 'goaccess is not installed: apt-get install goaccess') }, () =>
  withProxy(logged({ format: 'combined' }), async proxy => {
    await until(() => linesOf(proxy).length > 0, { what: 'the first line' });
    const before = linesOf(proxy).length;
    await Promise.all(range(40).map(n => request(proxy.port, { path: `/pid?n=${n}&token=geheim`, headers: { 'user-agent': 'Mozilla/5.0 "quoted" é', referer: 'https://a.example/?sid=geheim' } })));
    await request(proxy.port, { path: '/status?code=404' });
    const raw = await Raw.connect(proxy.port);
    raw.write('NONSENSE\r\n\r\n');
    await raw.rest();
    await until(() => linesOf(proxy).length === before + 42, { what: 'all lines' });
    const report = JSON.parse(execFileSync('goaccess', [fileOf(proxy), '--log-format=COMBINED', '--no-global-config', '-o', 'json'], { encoding: 'utf8', env: { ...process.env, TERM: 'dumb' } }));
    const { total_requests: total, valid_requests: valid } = report.general;
    assert.ok(total === before + 42 && valid >= before + 41, JSON.stringify(report.general));
    assert.ok(!textOf(proxy).includes('geheim'));
  }));

test('promtool finds nothing wrong in the metrics', { ...options, skip: options.skip ?? (!has('promtool') && 'promtool is not installed: apt-get install prometheus') }, async () => {
  const metrics = await freePort();
  await withProxy(proxy => ({ ...logged({})(proxy), metrics: { address: `127.0.0.1:${metrics}` } }), async proxy => {
    await request(proxy.port, { path: '/pid' });
    const page = (await request(metrics, { path: '/metrics' })).text;
    execFileSync('promtool', ['check', 'metrics'], { input: page, encoding: 'utf8' });
  });
});

test('TLS: version and cipher of HTTP/1, HTTP/2 and a WebSocket, by the names of nginx', options, async () => {
  const port = await freePort();
  await withProxy(proxy => ({
    apps: { web: { script: './ws.js' } },
    listeners: [tls.listener(proxy, port), { address: `127.0.0.1:${proxy.port}` }],
    access_log: { file: fileOf(proxy), format: 'json' },
  }), async proxy => {
    const of = one => [one.scheme, one.protocol, one.tls_version, one.tls_cipher];
    await tls.request(port, { path: '/new', ciphers: 'TLS_AES_256_GCM_SHA384' });
    assert.deepEqual(of(await entry(proxy, '/new')), ['https', 'HTTP/1.1', 'TLSv1.3', 'TLS_AES_256_GCM_SHA384']);
    await tls.request(port, { path: '/old', maxVersion: 'TLSv1.2' });
    const old = of(await entry(proxy, '/old'));
    assert.equal(old[2], 'TLSv1.2');
    assert.match(old[3], /^TLS_ECDHE_/);
    const session = await tls.session(port);
    await tls.ask(session, '/two');
    assert.deepEqual(of(await entry(proxy, '/two')).slice(0, 3), ['https', 'HTTP/2.0', 'TLSv1.3']);
    session.destroy();
    const socket = new WebSocket(`wss://127.0.0.1:${port}/ws`, { rejectUnauthorized: false });
    await once(socket, 'open');
    socket.terminate();
    const tunnel = await entry(proxy, one => one.path === '/ws' && one.tunnel === 'end');
    assert.deepEqual(of(tunnel).slice(0, 3), ['https', 'HTTP/1.1', 'TLSv1.3']);
    await request(proxy.port, { path: '/plain' });
    assert.deepEqual(of(await entry(proxy, '/plain')), ['http', 'HTTP/1.1', undefined, undefined]);
  });
});
