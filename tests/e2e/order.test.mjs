// In which order requests of different connections reach the worker, and who waits while many come at once.
//
// The tests of the order compare with the same app without the proxy. The one of the flood compares with nginx before that
// app, and is skipped where there is none.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import WebSocket from 'ws';
import { Raw, request } from './lib/http.mjs';
import { BIN, apps, freePort, needsProxy, withProxy } from './lib/proxy.mjs';
import { range, sleep, until, within } from './lib/wait.mjs';

const PAIRS = 1000;
const config = { server: { threads: 2 }, apps: { web: { script: './order.js', instances: 1 } } };
const get = 'GET /n HTTP/1.1\r\nHost: app.example\r\n\r\n';
const post = 'POST /n HTTP/1.1\r\nHost: app.example\r\nContent-Length: 3\r\n\r\nabc';

/** How many pairs of requests, sent in one tick on two connections, changed places on their way to the worker. */
async function changedPlaces(port, { pairs = PAIRS, fresh = false } = {}) {
  let [first, second, between] = await Promise.all(range(3).map(() => Raw.connect(port)));
  let changed = 0;
  for (const n of range(pairs)) {
    if (fresh) {
      first.destroy();
      second.destroy();
      first = await Raw.connect(port);
      second = await Raw.connect(port);
    }
    // The worker has been back in its event loop: a kept connection that it has just answered would be looked at first.
    between.write(get);
    await between.response();
    first.write(get);
    second.write(n % 2 ? get : post);
    const [one, two] = await Promise.all([first.response(), second.response()]);
    if (Number(one.body) > Number(two.body)) changed++;
  }
  for (const raw of [first, second, between]) raw.destroy();
  return changed;
}

/**
 * No more pairs change places than without the proxy. A busy machine stops a process between two of its steps: a fault of the
 * order shows in each of three tries.
 */
async function inOrder(t, proxy, bare, options) {
  const seen = [];
  for (const _ of range(3)) {
    const [through, without] = [await changedPlaces(proxy.port, options), await changedPlaces(bare, options)];
    seen.push(`${through} of ${options.pairs} changed places, without the proxy ${without}`);
    t.diagnostic(seen.at(-1));
    if (through <= without) return;
  }
  assert.fail(seen.join('; '));
}

/** The app alone, and nginx before it if `withNginx`, while `body` runs. */
async function beside(proxy, withNginx, body) {
  const bare = await freePort();
  const started = [spawn(process.execPath, [path.join(apps, 'order.js')], { env: { ...proxy.environment(), PORT: bare }, stdio: 'inherit' })];
  try {
    let front;
    if (withNginx) {
      front = await freePort();
      const conf = proxy.file('nginx.conf', nginxConf(path.dirname(proxy.file('x')), front, bare));
      started.push(spawn('nginx', ['-c', conf], { env: proxy.environment(), stdio: 'ignore' }));
    }
    for (const port of [bare, front].filter(Boolean)) {
      await until(async () => (await request(port, { path: '/pid' })).status === 200, { what: `an answer on ${port}` });
    }
    return await body(bare, front);
  } finally {
    for (const child of started) {
      const ended = new Promise(resolve => child.once('exit', resolve));
      child.kill('SIGTERM');
      await within(10_000, 'the end of what runs beside', ended);
    }
  }
}

const nginxConf = (dir, port, app) => `
worker_processes 2; daemon off; pid ${dir}/nginx.pid; error_log ${dir}/nginx.err;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path ${dir}; proxy_temp_path ${dir}; fastcgi_temp_path ${dir}; uwsgi_temp_path ${dir}; scgi_temp_path ${dir};
  upstream app { server 127.0.0.1:${app}; keepalive 64; }
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  server {
    listen 127.0.0.1:${port};
    location / {
      proxy_pass http://app; proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
    }
  }
}
`;

const hasNginx = () => {
  try {
    execFileSync('nginx', ['-v'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
};

/** One request each on so many new connections, all at once; how many were not answered. */
async function flood(port, connections) {
  const one = () =>
    new Promise(resolve => {
      const socket = net.connect(port, '127.0.0.1', () => socket.write(get));
      socket.setTimeout(20_000, () => socket.destroy());
      let answered = 0;
      socket.on('data', chunk => {
        if (!answered) answered = Number(chunk.toString('latin1').startsWith('HTTP/1.1 200'));
        socket.destroy();
      });
      socket.on('error', () => {});
      socket.on('close', () => resolve(answered));
    });
  const answered = await Promise.all(range(connections).map(one));
  return connections - answered.reduce((sum, one) => sum + one, 0);
}

/** The 99th of 100 echoes, in ms, while `rounds` floods come from another process. */
async function echoUnderFlood(port, rounds, connections) {
  const ws = new WebSocket(`ws://127.0.0.1:${port}/ws`, { perMessageDeflate: false });
  await within(5000, 'a WebSocket', new Promise((resolve, reject) => ws.once('open', resolve).once('error', reject)));
  const times = [];
  const flooder = spawn(process.execPath, [new URL(import.meta.url).pathname, 'flood', port, rounds, connections], {
    env: { ...process.env, NODE_TEST_CONTEXT: '' }, stdio: ['ignore', 'pipe', 'inherit'],
  });
  let said = '';
  flooder.stdout.on('data', text => (said += text));
  let over = false;
  const ended = new Promise(resolve => flooder.once('close', resolve)).then(() => (over = true));
  while (!over) {
    const began = performance.now();
    ws.send('x');
    await within(20_000, 'an echo', new Promise(resolve => ws.once('message', resolve)));
    times.push(performance.now() - began);
    await sleep(1);
  }
  await ended;
  ws.terminate();
  assert.equal(said.trim(), '0', 'requests of the flood without an answer');
  times.sort((a, b) => a - b);
  return times[Math.floor(times.length * 0.99)];
}

if (process.argv[2] === 'flood') {
  const [port, rounds, connections] = process.argv.slice(3).map(Number);
  let missing = 0;
  for (let round = 0; round < rounds; round++) missing += await flood(port, connections);
  console.log(missing);
} else {
  test('two requests of one tick on two connections keep their order', { timeout: 120_000, ...needsProxy }, t =>
    withProxy(config, proxy =>
      beside(proxy, false, async bare => {
        await inOrder(t, proxy, bare, { pairs: PAIRS });
      }),
    ));

  test('the same on two new connections each time', { timeout: 120_000, ...needsProxy }, t =>
    withProxy(config, proxy =>
      beside(proxy, false, async bare => {
        await inOrder(t, proxy, bare, { pairs: 300, fresh: true });
      }),
    ));

  test('connections are spread over the threads', { timeout: 60_000, ...needsProxy }, async () => {
    const metrics = await freePort();
    await withProxy({ ...config, metrics: { address: `127.0.0.1:${metrics}` } }, async proxy => {
      const idle = await Promise.all(range(100).map(() => Raw.connect(proxy.port)));
      let tasks;
      const counted = async () => {
        const { text } = await request(metrics, { path: '/metrics' });
        tasks = [...text.matchAll(/^pingora_unix_proxy_thread_tasks\{.*\} (\d+)$/gm)].map(([, count]) => Number(count));
        return tasks.reduce((sum, count) => sum + count, 0) >= 100;
      };
      await until(counted, { what: 'all of them in the metrics' });
      assert.equal(tasks.length, 2);
      // All of one client: a few more stay together than an even share.
      assert.ok(Math.abs(tasks[0] - tasks[1]) <= 10, `connections of each thread: ${tasks}`);
      for (const raw of idle) raw.destroy();
    });
  });

  test('a client that vanishes without a word will be noticed', { timeout: 60_000, ...needsProxy }, () =>
    withProxy(config, async proxy => {
      const idle = await Raw.connect(proxy.port);
      // The kernel's timer of our end of it: 2 is the one of keepalive (Documentation/networking/proc_net_tcp).
      const port = proxy.port.toString(16).toUpperCase().padStart(4, '0');
      const timers = () => {
        const lines = readFileSync('/proc/net/tcp', 'latin1').split('\n').map(line => line.trim().split(/\s+/));
        const ours = lines.filter(([, local, , state]) => local?.endsWith(`:${port}`) && state === '01');
        return ours.map(fields => fields[5].split(':')[0]);
      };
      await until(() => timers().length === 1 && timers()[0] === '02', { what: () => `a keepalive timer, not ${timers()}` });
      idle.destroy();
    }));

  const needsNginx = {
    ...needsProxy,
    skip: needsProxy.skip || (!process.env.SLOW && 'SLOW=1 compares with nginx') || (!hasNginx() && 'there is no nginx to compare with'),
  };
  test('a WebSocket is served while 1,000 connect at once, beside nginx', { timeout: 180_000, ...needsNginx }, t =>
    withProxy(config, proxy =>
      beside(proxy, true, async (_bare, nginx) => {
        // Times are for people to read: scripts/bench-echo compares on a quiet machine.
        for (const _ of range(3)) {
          const [ours, theirs] = [await echoUnderFlood(proxy.port, 3, 1000), await echoUnderFlood(nginx, 3, 1000)];
          t.diagnostic(`99 of 100 echoes within ${ours.toFixed(1)} ms, behind nginx ${theirs.toFixed(1)} ms`);
          assert.ok(ours > 0 && theirs > 0);
        }
      }),
    ));
}
