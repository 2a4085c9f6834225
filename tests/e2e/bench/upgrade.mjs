// See scripts/bench-upgrade.

import { startProxy } from '../lib/proxy.mjs';
import { rawUpgrade } from '../lib/upgrade.mjs';
import { pooled, range, sleep } from '../lib/wait.mjs';

const count = Number(process.argv[2] ?? 1000);
const rounds = Number(process.argv[3] ?? 3);
const limit = process.argv[4] === undefined ? undefined : Number(process.argv[4]);
if (!(count > 0) || !(rounds > 0) || (limit !== undefined && !(limit > 0))) {
  console.error('usage: bench-upgrade [TUNNELS] [ROUNDS] [LIMIT_MS]');
  process.exit(2);
}

/** A masked text frame of 16 bytes; its echo has 18. */
const frame = Buffer.concat([Buffer.from([0x81, 0x80 | 16, 0, 0, 0, 0]), Buffer.alloc(16, 'x')]);
const ECHO = 18;
const median = numbers => [...numbers].sort((a, b) => a - b)[Math.floor((numbers.length - 1) / 2)];

/** Sends a frame, waits for its echo, and so on; notes the longest wait. */
class Probe {
  worst = 0;
  #got = 0;
  constructor(socket) {
    this.socket = socket;
    socket.setNoDelay(true);
    socket.on('data', bytes => this.#take(bytes.length));
    this.#send();
  }
  #send() {
    this.sent = performance.now();
    this.socket.write(frame);
  }
  #take(bytes) {
    this.#got += bytes;
    if (this.#got < ECHO) return;
    this.#got -= ECHO;
    this.worst = Math.max(this.worst, performance.now() - this.sent);
    this.timer = setTimeout(() => this.#send(), 1);
  }
}

/** The longest wait of any probe while `what` goes on. */
async function longest(probes, what) {
  for (const probe of probes) probe.worst = 0;
  const outcome = await what();
  await sleep(500);
  return { worst: Math.max(...probes.map(probe => probe.worst)), outcome };
}

const proxy = await startProxy({
  limits: { connections: count + 1000 },
  apps: { ws: { script: './ws.js', instances: 2, affinity: 'none' } },
});
let code = 0;
try {
  const open = await pooled(range(count), 100, async () => {
    const raw = await rawUpgrade(proxy.port, '/ws');
    if (raw.answer.status !== 101) throw new Error(`upgrade answered with ${raw.answer.status}`);
    raw.socket.on('error', () => {});
    return raw;
  });
  // Some of them are busy. More would measure the client.
  const probes = open.slice(0, 8).map(raw => {
    raw.socket.removeAllListeners('data');
    return new Probe(raw.socket);
  });
  await sleep(1000);
  const quiet = await longest(probes, () => sleep(2000));
  console.log(`${count} WebSockets, no upgrade: an echo takes ${quiet.worst.toFixed(1)} ms at most`);
  const worst = [];
  for (const round of range(rounds)) {
    const { worst: ms, outcome } = await longest(probes, () => proxy.upgrade({ args: ['--timeout', '60s'] }));
    if (outcome.code !== 0) throw new Error(`upgrade: ${outcome.err}`);
    worst.push(ms);
    console.log(`upgrade ${round + 1}: an echo takes ${ms.toFixed(1)} ms at most`);
    await proxy.gone(outcome.old, { timeout: 30_000 });
  }
  const ended = open.filter(raw => raw.socket.destroyed || raw.ended).length;
  if (ended > 0) throw new Error(`${ended} of ${count} WebSockets did not stay open`);
  console.log(`${count} WebSockets: the longest wait for an echo is ${median(worst).toFixed(1)} ms, the median of ${rounds} upgrades`);
  for (const probe of probes) clearTimeout(probe.timer);
  for (const raw of open) raw.destroy();
  if (limit !== undefined && median(worst) > limit) {
    console.error(`more than the limit of ${limit} ms`);
    code = 1;
  }
} finally {
  await proxy.stop({ timeout: 60_000 });
}
process.exitCode = code;
