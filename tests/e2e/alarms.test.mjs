// Alarms on their way to a real web server, a program, the log and the metrics.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { withListener } from './lib/listener.mjs';
import { apps, freePort, needsProxy, withProxy } from './lib/proxy.mjs';
import { appStatus, succeed } from './lib/steer.mjs';
import { sleep, until } from './lib/wait.mjs';

const options = { timeout: 90_000, ...needsProxy };
const app = { script: './alarm.js', node_args: ['--expose-gc'] };
const quiet = { lag: 'none', elu: 'none' };

const ask = (proxy, at) => request(proxy.port, { path: at });
const webhook = ({ port }) => ({ url: `http://127.0.0.1:${port}/hook?key=1`, headers: { 'X-Token': 'secret' } });

test('a webhook arrives at once, then once per interval, and when it is over', options, t =>
  withListener({}, async listener => {
    const metrics = await freePort();
    const repeat = 2000;
    const conf = {
      apps: { web: app },
      metrics: { address: `127.0.0.1:${metrics}` },
      alarms: { ...quiet, repeat: '2s', for: '1s', memory: '200mib', webhook: webhook(listener) },
    };
    await withProxy(conf, async proxy => {
      await ask(proxy, '/hold?mb=250');
      await listener.notice(body => body.status === 'raised');
      const measured = async () => (await request(metrics, { path: '/metrics' })).text;
      assert.match(await measured(), /pingora_unix_proxy_alarms_active\{kind="memory",app="web"\} 1\n/);
      const third = body => body.status === 'repeated' && body.count === 4;
      await listener.notice(third, { what: 'the third repetition' });
      await ask(proxy, '/hold?mb=0');
      const { body } = await listener.notice(body => body.status === 'resolved');
      const { taken } = listener;
      assert.deepEqual(taken.map(({ body }) => body.status).slice(0, 4), ['raised', 'repeated', 'repeated', 'repeated']);
      // By the proxy's clock: on a busy machine one delivery is later than another.
      const gaps = taken.slice(1, 4).map(({ body }, n) => Date.parse(body.time) - Date.parse(taken[n].body.time));
      const delays = taken.map(({ at, body }) => performance.timeOrigin + at - Date.parse(body.time));
      t.diagnostic(`gaps of ${gaps} ms, delays of ${delays.map(Math.round)} ms`);
      for (const delay of delays) assert.ok(delay < repeat, `${delays}`);
      for (const gap of gaps) assert.ok(gap > repeat - 300 && gap < repeat + 1200, `${gaps}`);
      for (const { method, url, headers, body } of taken) {
        assert.deepEqual([method, url, headers['x-token'], headers['content-type']], ['POST', '/hook?key=1', 'secret', 'application/json']);
        assert.deepEqual([body.kind, body.app, body.slot, body.since], ['memory', 'web', 0, taken[0].body.since]);
        assert.match(body.detail, /^\d+ MiB of memory, the threshold is 200 MiB$/);
      }
      assert.equal(body.count, taken.length);
      // And then there is quiet.
      await sleep(repeat + 500);
      assert.equal(listener.requests.length, taken.length);
      const text = await measured();
      for (const line of ['alarms_active{kind="memory",app="web"} 0', 'alarms_total{kind="memory",app="web"} 1', `alarm_notices_total{way="webhook",outcome="delivered"} ${taken.length}`]) {
        assert.ok(text.includes(`pingora_unix_proxy_${line}\n`) || line.endsWith(' 0'), `${line}\n${text}`);
      }
      await proxy.line(/WARN.*ALARM memory web\[0\]: \d+ MiB/);
      await proxy.line(/WARN.*ALARM memory web\[0\] still lasts/);
      await proxy.line(/INFO.*ALARM memory web\[0\] is over/);
    });
  }));

/** As people start their apps: the process that serves is not the one that was started. */
const launchers = {
  'npm start': proxy => {
    const dir = path.join(proxy.dir, 'own', 'package');
    mkdirSync(dir, { recursive: true });
    const scripts = { start: `node --expose-gc ${path.join(apps, 'alarm.js')}` };
    writeFileSync(path.join(dir, 'package.json'), JSON.stringify({ name: 'packaged', version: '1.0.0', private: true, scripts }));
    return { command: ['npm', 'start'], cwd: dir };
  },
  npx: () => ({ command: ['npx', '-c', `node --expose-gc ${path.join(apps, 'alarm.js')}`] }),
  'a shell': () => ({ command: ['sh', '-c', 'node --expose-gc ./alarm.js; exit'], preload: true }),
};

for (const [name, launcher] of Object.entries(launchers)) {
  test(`memory behind a launcher is the worker's, and the pid is of who serves: ${name}`, options, async () => {
    const metrics = await freePort();
    await withListener({}, listener =>
      withProxy(
        proxy => ({
          apps: { web: launcher(proxy) },
          metrics: { address: `127.0.0.1:${metrics}` },
          alarms: { ...quiet, for: '0s', memory: '300mib', webhook: webhook(listener) },
        }),
        async proxy => {
          const [serving] = await proxy.pids(1);
          await ask(proxy, '/hold?mb=350');
          const { body } = await listener.notice(body => body.kind === 'memory', { timeout: 30_000 });
          assert.ok(Number(body.detail.match(/^(\d+) MiB/)[1]) >= 300, body.detail);
          const { workers: [worker] } = await appStatus(proxy, 'web', ({ workers }) => workers[0].rss_bytes > 350 << 20, 'its memory');
          assert.equal(worker.pid, serving);
          assert.ok(worker.launcher_pid > 0 && worker.launcher_pid !== serving, JSON.stringify(worker));
          const { text } = await request(metrics, { path: '/metrics' });
          assert.ok(Number(text.match(/worker_resident_memory_bytes\{app="web",slot="0"\} ([\d.]+)/)[1]) > 350 << 20, text);
        },
      ));
  });
}

test('further ports of workers are shown, and workers that differ in them are told of', options, async () => {
  const port = await freePort();
  const app = { script: './servers.js', args: ['unlike'], port: 3000, instances: 2, env: { METRICS: String(port) } };
  await withListener({}, listener =>
    withProxy({ apps: { web: app }, alarms: { ...quiet, for: '1s', webhook: webhook(listener) } }, async proxy => {
      const { body } = await listener.notice(body => body.kind === 'servers-differ', { timeout: 30_000 });
      assert.deepEqual([body.status, body.app, body.slot], ['raised', 'web', null]);
      assert.match(body.detail, new RegExp(`worker 0: main server on port 3000; worker 1: main server on port 3000, further ports ${port}$`));
      const { workers } = await appStatus(proxy, 'web', ({ ready }) => ready === 2);
      assert.deepEqual(workers.map(worker => [worker.port, worker.further_ports]), [[3000, []], [3000, [{ port, state: 'listens', at: port }]]]);
      const { out } = await succeed(proxy, ['status']);
      assert.match(out, new RegExp(`^ +port 3000; further ports: ${port} here$`, 'm'));
      await succeed(proxy, ['scale', 'web', '1']);
      await listener.notice(body => body.kind === 'servers-differ' && body.status === 'resolved', { timeout: 40_000 });
    }));
});

test('a late event loop: alarm; the worker is killed: over', options, () =>
  withListener({}, listener =>
    withProxy({ apps: { web: app }, alarms: { for: '1s', lag: '100ms', elu: 'none', webhook: webhook(listener) } }, async proxy => {
      const [pid] = await proxy.pids(1);
      await ask(proxy, '/block?ms=250');
      const { body } = await listener.notice(body => body.kind === 'lag' && body.status === 'raised');
      assert.match(body.detail, /^the event loop is \d+ ms late, the threshold is 100 ms$/);
      proxy.kill(pid);
      await listener.notice(body => body.kind === 'lag' && body.status === 'resolved');
    })));

test('a webhook in trouble is tried again; the notices stay in order', options, () =>
  withListener({ status: n => (n < 2 ? 503 : 200) }, listener =>
    withProxy({ apps: { web: app }, alarms: { ...quiet, for: '0s', memory: '200mib', webhook: webhook(listener) } }, async proxy => {
      await ask(proxy, '/hold?mb=250');
      await proxy.line(/ALARM memory web\[0\]: /);
      await ask(proxy, '/hold?mb=0');
      await listener.notice(body => body.status === 'resolved');
      assert.deepEqual(listener.requests.map(({ status, body }) => `${status} ${body.status}`), ['503 raised', '503 raised', '200 raised', '200 resolved']);
    })));

test('a webhook that nobody serves, or that hangs, changes nothing else', options, () =>
  withProxy(
    proxy => ({
      apps: { web: app },
      alarms: {
        ...quiet,
        for: '0s',
        memory: '200mib',
        webhook: { url: `http://127.0.0.1:${proxy.port === 10_001 ? 10_002 : 10_001}/`, retries: 0, timeout: '200ms' },
        exec: ['sh', '-c', `cat >> ${proxy.file('told')}; echo >> ${proxy.file('told')}`],
      },
    }),
    async proxy => {
      await ask(proxy, '/hold?mb=250');
      await proxy.line(/ERROR.*alarms: the webhook did not take raised memory web\[0\]/);
      const told = () => (existsSync(proxy.file('told')) ? readFileSync(proxy.file('told'), 'utf8').split('\n').filter(Boolean).map(JSON.parse) : []);
      await until(() => told().length === 1, { what: 'the program to be told' });
      assert.deepEqual([told()[0].status, told()[0].kind], ['raised', 'memory']);
      await ask(proxy, '/hold?mb=0');
      await until(() => told().length === 2, { what: 'the program to be told of the end' });
      assert.equal(told()[1].status, 'resolved');
      assert.equal((await ask(proxy, '/pid')).status, 200);
      assert.ok(!proxy.output.includes('key='), 'no secret of the URL in the log');
    }));

test('a program that does not end: the proxy ends without it', options, () =>
  withProxy({ apps: { web: app }, alarms: { ...quiet, for: '0s', memory: '200mib', exec: ['sh', '-c', 'sleep 300 & sleep 300'] } }, async proxy => {
    await ask(proxy, '/hold?mb=250');
    await until(() => proxy.processes().filter(({ command }) => /sleep 300/.test(command)).length >= 2, { what: 'the program to run' });
    // What follows is the harness: nothing may be left.
  }));

test('lines of output that are dropped', options, () =>
  withListener({}, listener =>
    withProxy({ apps: { web: { script: './http.js' } }, alarms: { for: '1s', webhook: webhook(listener) } }, async proxy => {
      proxy.child.stdout.pause();
      await request(proxy.port, { path: '/print?times=300000', timeout: 30_000 });
      const { body } = await listener.notice(body => body.kind === 'log-drops');
      assert.match(body.detail, /^\d+ lines of output were dropped$/);
      assert.deepEqual([body.app, body.slot], ['web', null]);
      proxy.child.stdout.resume();
      await listener.notice(body => body.kind === 'log-drops' && body.status === 'resolved');
    })));

test('requests that the queue refuses', options, () =>
  withListener({}, listener =>
    withProxy(
      { apps: { web: { ...app, queue: { max: 1, timeout: '100ms' }, command: undefined, script: './never.js', node_args: undefined } }, alarms: { for: '1s', webhook: webhook(listener) } },
      { ready: { status: 503 } },
      async proxy => {
        await Promise.all([1, 2, 3, 4].map(() => ask(proxy, '/')));
        const { body } = await listener.notice(body => body.kind === 'queue-overflow');
        assert.match(body.detail, /^\d+ requests were refused by the queue$/);
        await listener.notice(body => body.kind === 'queue-overflow' && body.status === 'resolved');
      },
    )));

test('little room for log files', options, t =>
  withListener({}, async listener => {
    let disk;
    const conf = proxy => {
      disk = path.join(proxy.dir, 'own/disk');
      mkdirSync(disk, { recursive: true });
      return {
        apps: { web: app },
        logs: { output: 'both', path: path.join(disk, '{app}.log') },
        alarms: { for: '0s', disk_free: '1mib', webhook: webhook(listener) },
      };
    };
    await withProxy(conf, async proxy => {
      try {
        execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'none', disk], { stdio: 'ignore' });
      } catch {
        return t.diagnostic('no mount: not tested');
      }
      try {
        writeFileSync(path.join(disk, 'filler'), Buffer.alloc(1_500_000));
        const { body } = await listener.notice(body => body.kind === 'disk', { timeout: 25_000 });
        assert.match(body.detail, /^log files in .*own\/disk: \d+ KiB free, the threshold is 1024 KiB$/);
        assert.deepEqual([body.app, body.slot], [null, null]);
        rmSync(path.join(disk, 'filler'));
        await listener.notice(body => body.kind === 'disk' && body.status === 'resolved', { timeout: 25_000 });
      } finally {
        execFileSync('umount', ['-l', disk]);
      }
      assert.equal((await ask(proxy, '/pid')).status, 200);
    });
  }));

test('a crash loop: with its last words, and over when the app is well again', options, () =>
  withListener({}, listener =>
    withProxy(
      proxy => ({
        apps: {
          web: {
            command: ['node', '-e', `
              if (!require('fs').existsSync(${JSON.stringify(proxy.file('well'))})) { console.error('no database here'); process.exit(3); }
              require('http').createServer((q, s) => s.end(String(process.pid))).listen(3000)`],
            backoff: { min: '20ms', max: '200ms' },
            min_uptime: '1s',
            crash_loop: { max: 3, window: '30s', retry: '1s' },
            queue: { timeout: '200ms' },
          },
        },
        alarms: { ...quiet, queue_overflow: false, webhook: webhook(listener) },
      }),
      { ready: false },
      async proxy => {
        const { body } = await listener.notice(body => body.kind === 'crash-loop', { timeout: 30_000 });
        assert.deepEqual([body.status, body.app, body.slot], ['raised', 'web', 0]);
        assert.match(body.detail, /no database here/);
        proxy.file('well', '');
        await listener.notice(body => body.kind === 'crash-loop' && body.status === 'resolved', { timeout: 40_000 });
      },
    )));

/** A key and a certificate for localhost that only who trusts it takes; null without openssl. */
function certificate(dir) {
  const [key, cert] = ['key.pem', 'cert.pem'].map(name => path.join(dir, name));
  try {
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-addext', 'basicConstraints=critical,CA:FALSE'];
    execFileSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-keyout', key, '-out', cert, ...subject], { stdio: 'ignore' });
  } catch {
    return null;
  }
  return { key: readFileSync(key), cert: readFileSync(cert), file: cert };
}

test('https: a certificate that the system trusts is taken, another is not', options, async t => {
  const dir = '/tmp';
  const work = execFileSync('mktemp', ['-d', path.join(dir, 'pup-tls-XXXXXX')], { encoding: 'utf8' }).trim();
  try {
    const tls = certificate(work);
    if (!tls) return t.skip('openssl is not here');
    await withListener({ tls }, async listener => {
      const conf = { apps: { web: app }, alarms: { ...quiet, for: '0s', memory: '200mib', webhook: { url: `https://localhost:${listener.port}/`, retries: 0 } } };
      await withProxy(conf, { env: { SSL_CERT_FILE: tls.file } }, async proxy => {
        await ask(proxy, '/hold?mb=250');
        await listener.notice(body => body.status === 'raised');
      });
      const before = listener.requests.length;
      await withProxy(conf, async proxy => {
        await ask(proxy, '/hold?mb=250');
        await proxy.line(/ERROR.*alarms: the webhook did not take raised memory web\[0\]: .*(invalid peer certificate|there are none)/);
      });
      const damaged = path.join(work, 'damaged.pem');
      writeFileSync(damaged, '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n');
      for (const [file, why] of [[damaged, '1 of 1 are damaged'], ['/no/such/file', 'could not load certs from file /no/such/file'], ['/dev/null', 'there are none']]) {
        await withProxy(conf, { env: { SSL_CERT_FILE: file, SSL_CERT_DIR: undefined } }, async proxy => {
          await ask(proxy, '/hold?mb=250');
          const { text } = await proxy.line(/ERROR.*alarms: the webhook did not take raised memory web\[0\]: /);
          assert.ok(text.includes(why) && text.includes(`SSL_CERT_FILE=${file}`), text);
          assert.equal((await ask(proxy, '/pid')).status, 200);
          assert.doesNotMatch(proxy.output, /panicked/);
        });
      }
      assert.equal(listener.requests.length, before);
    });
  } finally {
    rmSync(work, { recursive: true });
  }
});
