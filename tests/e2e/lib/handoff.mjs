// Upgrades as tests ask for them, and what has to be true after each.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import { connections, socketsOf } from './connections.mjs';
import { alive } from './proxy.mjs';
import { pidsOf, status, workers } from './steer.mjs';
import { until, within } from './wait.mjs';

const { numbered } = createRequire(import.meta.url)('../apps/numbers.js');

/** An upgrade that must come about. */
export async function upgraded(proxy, options) {
  const outcome = await proxy.upgrade(options);
  assert.equal(outcome.code, 0, `upgrade: ${JSON.stringify(outcome)}`);
  assert.match(outcome.out, new RegExp(`upgraded: process \\d+ took over from ${outcome.old}`));
  assert.equal(outcome.err, '');
  assert.notEqual(outcome.pid, outcome.old);
  assert.equal((await status(proxy)).pid, outcome.pid, 'the new process answers on the admin socket');
  return outcome;
}

/** One that must not, and leave everything as it is. */
export async function refused(proxy, reason, options) {
  const before = await status(proxy);
  const outcome = await proxy.upgrade(options);
  assert.deepEqual([outcome.code, outcome.out], [1, ''], JSON.stringify(outcome));
  assert.match(outcome.err, reason);
  await untouched(proxy, before);
  return outcome;
}

/** The same process serves with the same workers, and is alone. */
export async function untouched(proxy, before) {
  const after = await status(proxy);
  assert.equal(after.pid, before.pid, 'the same process serves');
  assert.deepEqual(pidsOf(after.apps[0].workers), pidsOf(before.apps[0].workers), 'the same workers');
  await alone(proxy);
}

/** Nothing of another process of the proxy is left. */
export const alone = (proxy, timeout = 10_000) => {
  const others = () => proxy.proxyProcesses().filter(({ pid }) => pid !== proxy.pid);
  return until(() => others().length === 0, { timeout, what: () => `the end of ${others().map(one => `${one.pid} ${one.command}`)}` });
};

/** A successor started by hand, until it waits for SIGQUIT. */
export async function waiting(proxy, options) {
  const candidate = proxy.candidate(options);
  await until(
    () => {
      if (candidate.ended) throw Object.assign(new Error(`the candidate ended: ${JSON.stringify(candidate.ended)}`), { fatal: true });
      return proxy.lines.some(line => waits(candidate.pid).test(line.text));
    },
    { timeout: 30_000, what: `process ${candidate.pid} to wait as successor` },
  );
  return candidate;
}

const waits = pid => new RegExp(`process ${pid}\\b.*waits to take over`);

/** An upgrade by hand: -u, then SIGQUIT to the old process. */
export async function byHand(proxy, options) {
  const old = proxy.pid;
  const candidate = await waiting(proxy, options);
  const started = performance.now();
  proxy.kill(old, 'SIGQUIT');
  await tookOver(proxy, candidate);
  return { old, pid: candidate.pid, at: performance.now(), ms: performance.now() - started };
}

export async function tookOver(proxy, candidate, timeout = 30_000) {
  await until(async () => (await status(proxy)).pid === candidate.pid, { timeout, what: `process ${candidate.pid} to take over` });
  proxy.promote(candidate);
}

/** Waits until the new process alone has every open WebSocket of the siege. */
export async function owned(siege, { pid, old }, timeout = 10_000) {
  const { port, securePort } = siege.proxy;
  const straysOf = (port, sockets) => {
    const all = connections(port);
    const [its, olds] = [socketsOf(pid), socketsOf(old)];
    return sockets.filter(({ port }) => !its.has(all.get(port)) || olds.has(all.get(port))).map(({ name }) => name);
  };
  const strays = () => [...straysOf(port, siege.websockets), ...(securePort ? straysOf(securePort, siege.websocketsOf(true)) : [])];
  await until(() => strays().length === 0, { timeout, every: 50, what: () => `all WebSockets in ${pid}; not: ${strays().slice(0, 10)}` });
  return siege.websockets.length + siege.websocketsOf(true).length;
}

/** Every connection of a client belongs to this process. */
export function ownsAll(proxy, pid) {
  const its = socketsOf(pid);
  const strays = [...connections(proxy.port)].filter(([, inode]) => !its.has(inode));
  assert.deepEqual(strays, [], `connections that ${pid} does not have`);
}

/** How long after its last request the old process goes; ms. */
export async function leaves(siege, { old }) {
  const last = await siege.lastRequestOf(old);
  const end = await siege.proxy.gone(old, { timeout: 30_000, what: `the end of the old process ${old} after its last request` });
  return Math.round(end - last);
}

/** The numbered lines of the workers of apps/siege.js (LINES_MS), as the proxy's standard output shows them. */
export class Lines {
  /** From a worker's pid to the texts of its numbered lines. */
  workers = new Map();
  others = [];

  constructor(proxy) {
    this.proxy = proxy;
    this.listener = line => this.take(line.text);
    proxy?.lines.forEach(this.listener);
    proxy?.listeners.add(this.listener);
  }

  take(text) {
    const found = /(line \d+ of (\d+) .*)$/.exec(text);
    if (/lines dropped/.test(text)) this.others.push(text);
    if (!found) return;
    const pid = Number(found[2]);
    if (!this.workers.has(pid)) this.workers.set(pid, []);
    this.workers.get(pid).push(found[1]);
  }

  /** Every worker's lines are 1, 2, 3 ..., each whole; returns how many there are. */
  check(what = 'standard output') {
    this.proxy?.listeners.delete(this.listener);
    assert.deepEqual(this.others, [], `${what}: dropped lines`);
    for (const [pid, texts] of this.workers) {
      texts.forEach((text, i) => assert.equal(`${text}\n`, numbered.line(i + 1, pid), `${what}: line ${i + 1} of ${pid}`));
    }
    return [...this.workers.values()].reduce((sum, texts) => sum + texts.length, 0);
  }
}

/** Waits for the end of a child, whatever it was. */
export const ended = (child, timeout = 20_000) => within(timeout, `the end of ${child.pid}`, child.exit);

export const confOf = proxy => path.join(proxy.dir, 'conf.yaml');
export { alive, workers };
