// See scripts/bench-idle-websockets.

import { readFileSync } from 'node:fs';
import { Raw } from '../lib/http.mjs';
import { freePort, startProxy } from '../lib/proxy.mjs';
import { connect, listener } from '../lib/tls.mjs';
import { rawUpgrade, upgradeHead } from '../lib/upgrade.mjs';
import { pooled, range, sleep } from '../lib/wait.mjs';

const args = process.argv.slice(2);
const secure = args[0] === '--tls';
if (secure) args.shift();
const count = Number(args[0] ?? 5000);
const limit = args[1] === undefined ? undefined : Number(args[1]);
if (!(count > 0) || (limit !== undefined && !(limit > 0))) {
  console.error('usage: bench-idle-websockets [--tls] [CONNECTIONS] [LIMIT_KIB]');
  process.exit(2);
}

const resident = pid => Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]);

async function openAll(proxy, n) {
  return pooled(range(n), 100, async () => {
    const raw = secure ? await secureUpgrade(tlsPort) : await rawUpgrade(proxy.port, '/ws');
    if (raw.answer.status !== 101) throw new Error(`upgrade answered with ${raw.answer.status}`);
    raw.socket.on('error', () => {});
    return raw;
  });
}

async function secureUpgrade(port) {
  const raw = Raw.over(await connect(port, { ALPNProtocols: ['http/1.1'], minVersion: 'TLSv1.3' }));
  raw.write(upgradeHead('/ws'));
  raw.answer = await raw.head();
  return raw;
}

const tlsPort = await freePort();
const proxy = await startProxy(at => ({
  listeners: [{ address: `127.0.0.1:${at.port}` }, ...(secure ? [listener(at, tlsPort)] : [])],
  apps: { ws: { script: './ws.js', instances: 2 } },
  limits: { connections: count + 1000 },
}));
let code = 0;
try {
  const pid = proxy.child.pid;
  // What every proxy that has worked once has allocated is not the price of a connection.
  for (const raw of await openAll(proxy, 50)) raw.destroy();
  await sleep(1000);
  const before = resident(pid);
  const open = await openAll(proxy, count);
  await sleep(2000);
  const after = resident(pid);
  const ended = open.filter(raw => raw.ended).length;
  if (ended > 0) throw new Error(`${ended} of ${count} connections did not stay open`);
  const each = (after - before) / count;
  console.log(`${count} idle WebSockets${secure ? ' over TLS' : ''}: ${before} KiB -> ${after} KiB resident, ${each.toFixed(2)} KiB per connection`);
  for (const raw of open) raw.destroy();
  await sleep(2000);
  console.log(`after they closed: ${resident(pid)} KiB resident`);
  if (limit !== undefined && each > limit) {
    console.error(`more than the limit of ${limit} KiB per connection`);
    code = 1;
  }
} finally {
  await proxy.stop({ timeout: 60_000 });
}
process.exitCode = code;
