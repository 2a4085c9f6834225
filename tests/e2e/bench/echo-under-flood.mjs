// See scripts/bench-echo.

import { spawn } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Raw, request } from '../lib/http.mjs';
import { freePort, startProxy } from '../lib/proxy.mjs';
import { rawUpgrade } from '../lib/upgrade.mjs';
import { pooled, range, sleep, until } from '../lib/wait.mjs';

const PROBES = 8;
/** A masked text frame of 16 bytes; its echo has 18. */
const FRAME = Buffer.concat([Buffer.from([0x81, 0x80 | 16, 0, 0, 0, 0]), Buffer.alloc(16, 'x')]);
const ECHO = 18;

/** The flood, a process of its own: every connection asks again as soon as it is answered. */
async function flood(port, connections) {
  const open = await pooled(range(connections), 100, () => Raw.connect(port));
  let answers = 0;
  const get = Buffer.from('GET /pid HTTP/1.1\r\nHost: x\r\n\r\n');
  for (const raw of open) {
    raw.write(get);
    const { raw: head, body } = await raw.response();
    // All its answers are of this size.
    const size = head.length + body.length;
    let got = 0;
    raw.socket.removeAllListeners('data');
    raw.socket.on('data', bytes => {
      got += bytes.length;
      if (got < size) return;
      got -= size;
      answers++;
      raw.write(get);
    });
  }
  for (const raw of open) raw.write(get);
  process.on('message', () => {
    process.send(answers);
    answers = 0;
  });
  process.on('disconnect', () => process.exit(0));
  process.send('ready');
}

/** Sends a frame, waits for its echo, pauses for 5 ms, and so on. */
async function probe(port) {
  const { socket, answer } = await rawUpgrade(port, '/ws');
  if (answer.status !== 101) throw new Error(`upgrade answered with ${answer.status}`);
  const found = { socket, times: [] };
  let [got, sent] = [0, 0];
  const send = () => {
    sent = performance.now();
    socket.write(FRAME);
  };
  socket.removeAllListeners('data');
  socket.on('data', bytes => {
    got += bytes.length;
    if (got < ECHO) return;
    got -= ECHO;
    found.times.push(performance.now() - sent);
    found.timer = setTimeout(send, 5);
  });
  send();
  return found;
}

/** Echo times on one port while the flood is on it, and how many requests a second the flood had. */
async function measure(port, connections, seconds) {
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), 'flood', port, connections], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const told = () =>
    new Promise((resolve, reject) => {
      child.once('message', resolve);
      child.once('exit', code => reject(new Error(`the flood ended with ${code}`)));
    });
  try {
    await told();
    const probes = await Promise.all(range(PROBES).map(() => probe(port)));
    await sleep(1000);
    child.send('count');
    await told();
    for (const one of probes) one.times.length = 0;
    await sleep(seconds * 1000);
    child.send('count');
    const answers = await told();
    for (const one of probes) {
      clearTimeout(one.timer);
      one.socket.destroy();
    }
    const times = probes.flatMap(one => one.times).sort((a, b) => a - b);
    return {
      p50: quantile(times, 0.5),
      p99: quantile(times, 0.99),
      most: times.at(-1),
      echoes: times.length,
      rate: Math.round(answers / seconds),
    };
  } finally {
    child.disconnect();
    await new Promise(resolve => (child.exitCode === null ? child.once('exit', resolve) : resolve()));
  }
}

const quantile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN;
const shown = found =>
  [found.p50, found.p99, found.most].map(ms => ms.toFixed(1).padStart(8)).join('') + String(found.rate).padStart(9);

/** nginx before the same workers, on a port of its own. */
async function startNginx(proxy, port) {
  const dir = path.dirname(proxy.file('nginx/x'));
  const sockets = path.join(proxy.runtime, 'workers');
  const worker = app =>
    path.join(
      sockets,
      readdirSync(sockets).find(name => name.startsWith(`${app}.`) && name.endsWith('.sock')),
    );
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map(name => `${name}_temp_path ${dir}/${name};`)
    .join(' ');
  proxy.file('nginx/x', '');
  writeFileSync(
    path.join(dir, 'nginx.conf'),
    `
    worker_processes 1; daemon off; master_process off; pid ${dir}/nginx.pid; error_log ${dir}/nginx.log; worker_rlimit_nofile 8192;
    events { worker_connections 4096; }
    http {
      access_log off; keepalive_requests 1000000000; ${temporary}
      upstream web { server unix:${worker('web')}; keepalive 256; keepalive_requests 1000000000; }
      upstream ws { server unix:${worker('ws')}; }
      server {
        listen 127.0.0.1:${port} backlog=2048;
        proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;
        location / { proxy_pass http://web; proxy_set_header Connection ""; }
        location /ws { proxy_pass http://ws; proxy_set_header Connection upgrade; proxy_set_header Upgrade $http_upgrade; }
      }
    }`,
  );
  const child = spawn('nginx', ['-c', path.join(dir, 'nginx.conf')], { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.on('data', data => (said += data));
  child.once('error', error => (said += error.message));
  await until(async () => (await request(port, { path: '/pid', timeout: 2000 })).status === 200, {
    what: () => `nginx: ${said}`,
  });
  return child;
}

async function main(connections, seconds, rounds) {
  const proxy = await startProxy({
    server: { threads: process.env.THREADS ? Number(process.env.THREADS) : 1 },
    limits: { connections: connections + 1000 },
    apps: { web: { script: './faults.js', affinity: 'none' }, ws: { script: './ws.js', affinity: 'none' } },
    routes: [
      { path: '/', app: 'web' },
      { path: '/ws', app: 'ws' },
    ],
  });
  let nginx;
  try {
    await proxy.ready({ path: '/ws' });
    const port = await freePort();
    nginx = await startNginx(proxy, port);
    console.log(`an echo's time in ms beside ${connections} connections that ask without a pause, ${seconds} s each`);
    console.log(`round  through ${'p50'.padStart(8)}${'p99'.padStart(8)}${'most'.padStart(8)}${'answers/s'.padStart(10)}`);
    for (const round of range(rounds)) {
      for (const [name, at] of [
        ['proxy', proxy.port],
        ['nginx', port],
      ]) {
        console.log(`${String(round + 1).padEnd(7)}${name.padEnd(7)} ${shown(await measure(at, connections, seconds))}`);
      }
    }
  } finally {
    nginx?.kill();
    await proxy.stop({ timeout: 60_000 });
  }
}

const [first, ...more] = process.argv.slice(2);
if (first === 'flood') await flood(Number(more[0]), Number(more[1]));
else {
  const [connections, seconds, rounds] = [Number(first ?? 1000), Number(more[0] ?? 5), Number(more[1] ?? 3)];
  if (!(connections > 0) || !(seconds > 0) || !(rounds > 0)) {
    console.error('usage: bench-echo [CONNECTIONS] [SECONDS] [ROUNDS]');
    process.exit(2);
  }
  await main(connections, seconds, rounds);
}
