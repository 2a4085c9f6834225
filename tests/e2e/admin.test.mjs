// Seeing and steering a running proxy: commands, the API behind them, metrics.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readFileSync, rmSync, statSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { BIN, Proxy, configure, freePort, needsProxy, withProxy } from './lib/proxy.mjs';
import { sharing } from './lib/shared.mjs';
import { until } from './lib/wait.mjs';

const options = { timeout: 60_000, ...needsProxy };
const two = { apps: { web: { script: './http.js', instances: 2 } } };

/** Runs a command to its end. */
const run = (args, { env, timeout = 20_000 } = {}) =>
  new Promise(resolve => {
    const started = performance.now();
    execFile(BIN, args, { env: { ...process.env, ...env }, timeout }, (error, out, err) => {
      resolve({ code: error ? error.code : 0, out, err, ms: performance.now() - started });
    });
  });

const conf = proxy => path.join(proxy.dir, 'conf.yaml');
const socketOf = proxy => path.join(proxy.runtime, 'admin.sock');

/** The status as the API tells it. */
const status = async proxy => {
  const { code, out, err } = await run(['status', '--json', '--runtime-dir', proxy.runtime]);
  assert.equal(code, 0, err);
  return JSON.parse(out);
};

/** One request over the admin socket. */
const ask = (socketPath, { method = 'GET', path: at = '/v1/status', body = '' } = {}) =>
  new Promise((resolve, reject) => {
    const asked = http.request({ socketPath, method, path: at, headers: { 'content-length': Buffer.byteLength(body) } }, answer => {
      let text = '';
      answer.setEncoding('utf8').on('data', data => (text += data));
      answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, json: JSON.parse(text) }));
    });
    asked.on('error', reject);
    asked.end(body);
  });

sharing(
  'commands and their API',
  two,
  check => {
    check('the socket is for its owner only', options, proxy => {
      const { mode } = statSync(socketOf(proxy));
      assert.equal(mode & 0o777, 0o600);
    });

    check('status is a table that fits 80 columns', options, async proxy => {
      for (const found of [['-c', conf(proxy)], ['--runtime-dir', proxy.runtime]]) {
        const { code, out, err } = await run(['status', ...found]);
        assert.equal(code, 0, err);
        assert.match(out, new RegExp(`^pingora-unix-proxy \\d+\\.\\d+\\.\\d+, pid ${proxy.child.pid}, up \\d+`));
        assert.match(out, /^web: 2 of 2 ready$/m);
        for (const line of out.split('\n')) assert.ok(line.length <= 80, line);
        const head = out.split('\n').find(line => line.includes('SLOT'));
        const words = ['SLOT', 'PID', 'STATE', 'SINCE', 'ACTIVE', 'PARKED', 'SESS', 'ELU', 'LAG', 'RSS', 'RESTARTS'];
        assert.deepEqual(head.trim().split(/\s+/), words);
        const pids = await proxy.pids(2);
        for (const pid of pids) assert.match(out, new RegExp(`^ +[01] +${pid} +ready .* 0$`, 'm'));
      }
      // Options may stand in front, as with -c FILE alone.
      assert.equal((await run(['-c', conf(proxy), 'status'])).code, 0);
    });

    check('status --json is what the API says', options, async proxy => {
      const told = await status(proxy);
      const { json } = await ask(socketOf(proxy));
      assert.deepEqual(Object.keys(told), Object.keys(json));
      assert.equal(told.pid, proxy.child.pid);
      const [web] = told.apps;
      assert.deepEqual([web.name, web.ready, web.workers.length], ['web', 2, 2]);
      assert.deepEqual(web.workers.map(worker => worker.pid).sort(), (await proxy.pids(2)).sort());
      for (const worker of web.workers) {
        assert.equal(worker.state, 'ready');
        assert.ok(worker.reason && worker.since_seconds > 0 && worker.rss_bytes > 1e7, JSON.stringify(worker));
        assert.deepEqual(worker.last_stderr, []);
      }
      // What workers say of themselves comes within seconds.
      await until(async () => (await status(proxy)).apps[0].workers.every(worker => worker.elu !== null && worker.lag_seconds >= 0), {
        what: 'statistics of the workers',
      });
    });

    check('requests in flight are seen, and gone afterwards', options, async proxy => {
      const sum = async () => (await status(proxy)).apps[0].workers.reduce((n, worker) => n + worker.active, 0);
      const slow = [1, 2, 3].map(() => request(proxy.port, { path: '/pid?ms=3000', timeout: 10_000 }));
      await until(async () => (await sum()) === 3, { what: 'three requests in flight' });
      await Promise.all(slow);
      await until(async () => (await sum()) === 0, { what: 'no request in flight' });
    });

    check('the API answers mistakes with what to write', options, async proxy => {
      const socket = socketOf(proxy);
      const version = await ask(socket, { path: '/v1/version' });
      assert.equal(version.status, 200);
      assert.match(version.json.version, /^\d+\.\d+\.\d+/);
      assert.match(version.headers['content-type'], /^application\/json/);
      const cases = [
        [{ path: '/v1/nothing' }, 404, /no route/, /GET \/v1\/status/],
        [{ method: 'POST' }, 405, /takes GET/],
        [{ path: '/v1/reload' }, 405, /takes POST/],
        [{ method: 'POST', path: '/v1/apps/wbe/restart' }, 404, /no app "wbe"/, /did you mean "web"/],
        [{ method: 'POST', path: '/v1/apps/web/scale', body: 'to=4' }, 400, /not JSON/, /"to": 4/],
        [{ method: 'POST', path: '/v1/apps/web/scale', body: '{"to": "many"}' }, 400, /many/, /auto/],
        [{ method: 'POST', path: '/v1/apps/web/scale', body: ' '.repeat(64 * 1024 + 1) }, 413, /413/, /64 KiB/],
      ];
      for (const [what, code, error, hint] of cases) {
        const { status: got, json } = await ask(socket, what);
        assert.equal(got, code, JSON.stringify(json));
        assert.match(json.error, error);
        if (hint) assert.match(json.hint, hint);
      }
      assert.equal((await ask(socket, { method: 'POST' })).headers.allow, 'GET');
    });

    check('commands for an app that is not there', options, async proxy => {
      for (const args of [['scale', 'wbe', '2'], ['restart', 'wbe']]) {
        const { code, out, err } = await run([...args, '-c', conf(proxy)]);
        assert.deepEqual([code, out], [1, '']);
        assert.match(err, /no app "wbe"; did you mean "web"\?/);
      }
      assert.equal((await status(proxy)).apps[0].ready, 2);
    });

    check('a file that has become wrong still leads to its proxy', options, async proxy => {
      const text = readFileSync(conf(proxy), 'utf8');
      const wrong = proxy.file('wrong.yaml', text.replace('http.js', 'missing.js').replace('routes', 'rootes'));
      const { code, out, err } = await run(['status', '-c', wrong]);
      assert.equal(code, 0, err);
      assert.match(out, /2 of 2 ready/);
    });

    check('a proxy that hangs is not waited for', options, async proxy => {
      proxy.kill(proxy.child.pid, 'SIGSTOP');
      try {
        const { code, err, ms } = await run(['status', '-c', conf(proxy), '--timeout', '300ms']);
        assert.equal(code, 1);
        assert.match(err, /no answer within 300ms/);
        assert.ok(ms < 5000, `${ms} ms`);
      } finally {
        proxy.kill(proxy.child.pid, 'SIGCONT');
      }
      assert.equal((await status(proxy)).pid, proxy.child.pid);
    });
  },
  needsProxy,
);

test('commands without a proxy, and wrong commands', options, async () => {
  const proxy = new Proxy();
  try {
    proxy.port = await freePort();
    configure(proxy, two);
    for (const args of [['status'], ['status', '--json'], ['reload'], ['scale', 'web', '+1'], ['restart']]) {
      const { code, out, err } = await run([...args, '-c', conf(proxy)]);
      assert.deepEqual([code, out], [1, ''], args.join(' '));
      assert.match(err, new RegExp(`no proxy runs at ${socketOf(proxy)}; .*--runtime-dir`));
    }
    assert.equal(existsSync(proxy.runtime), false, 'a command makes nothing');
    // Without -c and --runtime-dir: the default directory.
    if (process.getuid() !== 0) {
      const { err } = await run(['status'], { env: { XDG_RUNTIME_DIR: proxy.dir } });
      assert.match(err, new RegExp(`no proxy runs at ${proxy.dir}/pingora-unix-proxy/admin\\.sock`));
    }
    const nowhere = await run(['status', '-c', '/nowhere/conf.yaml']);
    assert.deepEqual([nowhere.code, nowhere.out], [1, '']);
    assert.match(nowhere.err, /\/nowhere\/conf\.yaml/);

    for (const args of [['scale', 'web'], ['scale', 'web', '0'], ['status', 'web'], ['status', '--timeout', '5'], ['stauts']]) {
      const { code, err } = await run(args);
      assert.equal(code, 2, `${args.join(' ')}: ${err}`);
    }
    assert.match((await run(['stauts'])).err, /did you mean status\?/);
    const help = await run(['scale', '--help']);
    assert.equal(help.code, 0);
    assert.match(help.out, /--runtime-dir/);
    const all = await run(['--help']);
    for (const verb of ['status', 'reload', 'scale APP', 'restart']) assert.ok(all.out.includes(verb), verb);
  } finally {
    rmSync(proxy.dir, { recursive: true, force: true });
  }
});

test('a socket that a killed proxy left: no proxy runs there', options, async () => {
  const proxy = new Proxy();
  try {
    proxy.port = await freePort();
    proxy.run(BIN, ['-c', configure(proxy, two)]);
    await proxy.ready({ workers: 2 });
    proxy.kill(proxy.child.pid);
    await proxy.exit;
    assert.ok(existsSync(socketOf(proxy)));
    const { code, err } = await run(['status', '-c', conf(proxy)]);
    assert.equal(code, 1);
    assert.match(err, /no proxy runs at/);
  } finally {
    proxy.killAll();
    rmSync(proxy.dir, { recursive: true, force: true });
  }
});

test('admin: {socket: PATH} and {socket: off}', options, async () => {
  let socket;
  await withProxy(proxy => ({ ...two, admin: { socket: (socket = proxy.file('commands.sock')) } }), { ready: { workers: 2 } }, async proxy => {
    assert.equal(statSync(socket).mode & 0o777, 0o600);
    assert.equal(existsSync(socketOf(proxy)), false);
    const { code, out } = await run(['status', '-c', conf(proxy)]);
    assert.equal(code, 0);
    assert.match(out, /2 of 2 ready/);
    process.kill(proxy.child.pid, 'SIGTERM');
    await proxy.exit;
    assert.equal(existsSync(socket), false, 'it is removed at the end');
  });

  await withProxy({ ...two, admin: { socket: 'off' } }, async proxy => {
    assert.equal(existsSync(socketOf(proxy)), false);
    const { code, err } = await run(['status', '-c', conf(proxy)]);
    assert.equal(code, 1);
    assert.match(err, /takes no commands/);
  });
});

test('what stands in the way of the socket is not removed', options, async () => {
  const proxy = new Proxy();
  try {
    proxy.port = await freePort();
    const precious = proxy.file('precious', 'keep me');
    proxy.run(BIN, ['-c', configure(proxy, { ...two, admin: { socket: precious } })]);
    const { code } = await proxy.exit;
    assert.equal(code, 1);
    assert.match(proxy.output, /cannot take commands on .*precious: it is there and no socket/);
    assert.equal(readFileSync(precious, 'utf8'), 'keep me');
    await proxy.assertNothingLeft();
  } finally {
    proxy.killAll();
    rmSync(proxy.dir, { recursive: true, force: true });
  }
});

test('why an app does not come up, and that a draining worker drains', options, async () => {
  const config = proxy => ({
    apps: {
      web: { script: './http.js', drain_timeout: '20s' },
      bad: { script: './life.js', backoff: { min: '20s', max: '30s' }, env: { HABITS: 'fails', FLAG: proxy.file('none') } },
    },
    routes: [{ path: '/', app: 'web' }, { path: '/bad', app: 'bad' }],
  });
  await withProxy(config, async proxy => {
    const bad = async () => (await status(proxy)).apps.find(app => app.name === 'bad').workers[0];
    const worker = await until(async () => {
      const seen = await bad();
      return seen?.state === 'backing off' && seen;
    }, { what: 'the failed worker to wait' });
    assert.ok(worker.retry_seconds > 5 && worker.retry_seconds <= 30, JSON.stringify(worker));
    assert.match(worker.reason, /exited with code/);
    assert.ok(worker.last_stderr.some(line => /no database/.test(line)), JSON.stringify(worker));
    const { out } = await run(['status', '-c', conf(proxy)]);
    assert.match(out, /^bad: 0 of 1 ready$/m);
    assert.match(out, /exited with code \d+; failed once; starts again in/);
    assert.match(out, /^ +\| .*no database/m);

    const slow = request(proxy.port, { path: '/pid?ms=3000', timeout: 10_000 });
    await until(async () => (await status(proxy)).apps[0].workers[0].active === 1, { what: 'a request in flight' });
    process.kill(proxy.child.pid, 'SIGTERM');
    await until(async () => (await status(proxy)).apps[0].workers[0]?.state === 'draining', { what: 'draining' });
    assert.equal((await slow).status, 200);
  });
});

/** Reads OpenMetrics text strictly: families with their samples. */
function parse(text) {
  assert.ok(text.endsWith('# EOF\n'), 'it ends with EOF');
  const families = new Map();
  const series = new Set();
  let family;
  for (const line of text.slice(0, -'# EOF\n'.length).split('\n').slice(0, -1)) {
    const meta = /^# (HELP|TYPE|UNIT) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$/.exec(line);
    if (meta) {
      const [, kind, name, rest] = meta;
      if (family?.name !== name) {
        assert.ok(!families.has(name), `${name} is told once`);
        family = { name, samples: [] };
        families.set(name, family);
      }
      assert.equal(family[kind], undefined, line);
      family[kind] = rest;
      continue;
    }
    const sample = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (-?[0-9.e+-]+|\+Inf|NaN)$/.exec(line);
    assert.ok(sample, `no sample: ${line}`);
    const [, name, labels = '', value] = sample;
    assert.ok(family && name.startsWith(family.name), `${line} stands in its family`);
    if (family.TYPE === 'counter') assert.equal(name, `${family.name}_total`);
    if (family.TYPE === 'gauge') assert.equal(name, family.name);
    assert.ok(!series.has(`${name}{${labels}}`), `${line} is there once`);
    series.add(`${name}{${labels}}`);
    const pairs = [...labels.matchAll(/([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g)].map(([, key, text]) => [key, text]);
    family.samples.push({ name, labels: Object.fromEntries(pairs), value: Number(value) });
  }
  for (const { name, HELP, TYPE } of families.values()) assert.ok(HELP && TYPE, `${name} has help and type`);
  return families;
}

const LABELS = ['app', 'slot', 'thread', 'state', 'reason', 'code', 'class', 'le', 'version', 'kind', 'rule'];

test('metrics: well formed, bounded labels, true numbers', options, async () => {
  const port = await freePort();
  await withProxy({ ...two, metrics: { address: `127.0.0.1:${port}` } }, { ready: { workers: 2 } }, async proxy => {
    const scrape = async () => {
      const answer = await request(port, { path: '/metrics', headers: { accept: 'application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5' } });
      assert.equal(answer.status, 200);
      assert.match(answer.headers['content-type'], /^application\/openmetrics-text; version=1\.0\.0/);
      const families = parse(answer.text);
      const own = name => families.get(name) ?? families.get(`pingora_unix_proxy_${name}`);
      return { families, value: (name, labels = {}) => own(name)?.samples.find(s => Object.entries(labels).every(([k, v]) => s.labels[k] === v))?.value };
    };
    const { families, value } = await scrape();
    const pids = proxy.processes().map(process => String(process.pid));
    for (const family of families.values()) {
      assert.match(family.name, /^(pingora_unix_proxy|process)_[a-z_]+$/);
      for (const { labels } of family.samples) {
        for (const [key, text] of Object.entries(labels)) {
          assert.ok(LABELS.includes(key), `label ${key} of ${family.name}`);
          assert.ok(!text.includes('/') && !pids.includes(text), `${family.name} ${key}="${text}"`);
        }
      }
    }
    assert.match(Object.values(families.get('pingora_unix_proxy_build').samples[0].labels)[0], /^\d+\.\d+\.\d+/);
    assert.equal(value('workers', { app: 'web', state: 'ready' }), 2);
    assert.equal(value('workers', { app: 'web', state: 'draining' }), 0);
    for (const slot of ['0', '1']) assert.ok(value('worker_resident_memory_bytes', { app: 'web', slot }) > 1e7, `memory of ${slot}`);
    assert.ok(value('process_resident_memory_bytes') > 1e6);
    assert.ok(value('process_open_fds') > 5);
    assert.ok(value('thread_tasks', { thread: '1' }) >= 0);
    assert.ok(Math.abs(value('process_start_time_seconds') - Date.now() / 1000) < 60);

    const [victim] = await proxy.pids(2);
    proxy.kill(victim);
    const restarts = async () => (await scrape()).value('worker_restarts', { app: 'web', reason: 'signal' });
    await until(async () => (await restarts()) === 1, { what: 'the restart in the metrics' });
    await until(async () => (await scrape()).value('workers', { app: 'web', state: 'ready' }) === 2, { what: 'two ready again' });
    assert.equal((await status(proxy)).apps[0].workers.reduce((n, worker) => n + worker.restarts, 0), 1);
    await until(async () => (await scrape()).value('worker_event_loop_utilization_ratio', { slot: '0' }) >= 0, { what: 'utilization' });
    assert.ok((await scrape()).value('worker_cpu_seconds', { slot: '0' }) > 0);

    assert.equal((await request(port, { path: '/metrics', method: 'HEAD' })).text, '');
    assert.equal((await request(port, { path: '/' })).status, 404);
    assert.equal((await request(port, { path: '/metrics', method: 'POST', body: 'x' })).status, 405);
    // Whoever does not ask for it gets Prometheus' own format.
    const plain = await request(port, { path: '/metrics' });
    assert.match(plain.headers['content-type'], /^text\/plain; version=0\.0\.4/);
    assert.match(plain.text, /^# TYPE pingora_unix_proxy_requests_total counter$/m);
    // Traffic has no such page.
    assert.notEqual((await request(proxy.port, { path: '/metrics' })).headers['content-type'], 'application/openmetrics-text');
  });
  await assert.rejects(request(port, { path: '/metrics' }), /ECONNREFUSED/);
});

test('a busy address of metrics is told before anything starts', options, async () => {
  const port = await freePort();
  const holder = http.createServer();
  await new Promise(resolve => holder.listen(port, '127.0.0.1', resolve));
  const proxy = new Proxy();
  try {
    proxy.port = await freePort();
    proxy.run(BIN, ['-c', configure(proxy, { ...two, metrics: { address: `127.0.0.1:${port}` } })]);
    assert.equal((await proxy.exit).code, 1);
    assert.match(proxy.output, new RegExp(`cannot listen on 127\\.0\\.0\\.1:${port}: .*metrics`));
    await proxy.assertNothingLeft();
  } finally {
    holder.close();
    proxy.killAll();
    rmSync(proxy.dir, { recursive: true, force: true });
  }
});
