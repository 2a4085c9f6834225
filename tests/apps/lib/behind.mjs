// An app behind the proxy: its workers, and what a rollout under load does to its clients.

import assert from 'node:assert/strict';
import http from 'node:http';
import { startProxy } from '../../e2e/lib/proxy.mjs';
import { pidsOf, steady, succeed } from '../../e2e/lib/steer.mjs';
import { range, sleep, until } from '../../e2e/lib/wait.mjs';
import { fill, fillText } from './alone.mjs';
import { check } from './compare.mjs';

/** Of the load, in all; a rollout takes seconds. */
const LOAD_LIMIT = 120_000;
const LANES = 3;
const PAUSE = 20;
/** Before and after the rollout. */
const ANSWERS_AROUND = 20;

export async function startBehind(app, { cwd, env, ports, timeout }) {
  const { start, workers = 1, proxy: more = {} } = app;
  const filled = JSON.parse(fillText(JSON.stringify(start), ports));
  const proxy = await startProxy(
    own => ({
      ...more,
      apps: {
        app: {
          cwd,
          instances: workers,
          // Sessions move on at once.
          drain_window: '1s',
          start_timeout: `${Math.round(timeout / 1000)}s`,
          ...filled,
          env: { TMPDIR: temporary(own), ...fill({ ...app.env, ...start.env }, ports) },
        },
      },
    }),
    { env, ready: false },
  );
  return proxy;
}

/** Apps may leave what they like in a directory for temporary files; the proxy may not, so theirs is another one. */
const temporary = proxy => proxy.file('tmp/.keep', '').replace(/\/\.keep$/, '');

/** Asks all the time until it is stopped; every answer must be what the app's requests say. */
export class Load {
  done = 0;
  failed = [];
  #over = false;

  constructor(target, requests) {
    this.lanes = [
      ...range(LANES).map(lane => this.#ask(target, requests, lane, new http.Agent({ keepAlive: true, maxSockets: 1 }))),
      this.#ask(target, requests, LANES, false),
    ];
    this.ender = setTimeout(() => (this.#over = true), LOAD_LIMIT);
  }

  async #ask(target, requests, lane, agent) {
    for (let n = lane; !this.#over; n++) {
      const request = requests[n % requests.length];
      const started = performance.now();
      try {
        check(await target.request({ ...request, agent }), request, target);
        this.done++;
      } catch (error) {
        const took = Math.round(performance.now() - started);
        this.failed.push(`${request.method ?? 'GET'} ${request.path} after ${took} ms: ${error.code ?? ''} ${error.message}`);
      }
      await sleep(PAUSE);
    }
    if (agent) agent.destroy();
  }

  more(answers) {
    const from = this.done;
    return until(() => this.done + this.failed.length >= from + answers, { timeout: 60_000, what: 'answers to the load' });
  }

  async stop() {
    this.#over = true;
    clearTimeout(this.ender);
    await Promise.all(this.lanes);
  }
}

/** Every worker is replaced while requests go on, and none of them may fail: how many there were, and how long it took. */
export async function reloadUnderLoad(proxy, target, app, timeout) {
  const workers = app.workers ?? 1;
  const before = pidsOf(await steady(proxy, workers, { timeout }));
  const requests = app.load ?? app.requests.filter(({ method = 'GET' }) => method === 'GET');
  const load = new Load(target, requests);
  let ms;
  try {
    await load.more(ANSWERS_AROUND);
    ({ ms } = await succeed(proxy, ['restart', 'app'], { timeout: 2 * timeout }));
    await load.more(ANSWERS_AROUND);
  } finally {
    await load.stop();
  }
  const after = pidsOf(await steady(proxy, workers, { timeout }));
  assert.deepEqual(after.filter(pid => before.includes(pid)), [], 'every worker is a new one');
  assert.deepEqual(load.failed.slice(0, 10), [], `${load.failed.length} requests of ${load.done + load.failed.length} failed`);
  return { answered: load.done, ms };
}
