// The commands of a running proxy, its status, and deploys as a symbolic link does them.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { BIN, apps } from './proxy.mjs';
import { sleep, until } from './wait.mjs';

export const conf = proxy => path.join(proxy.dir, 'conf.yaml');

/** Runs a command to its end: exit code, standard output and error, milliseconds. */
export const command = (proxy, args, { timeout = 60_000 } = {}) =>
  new Promise(resolve => {
    const started = performance.now();
    execFile(BIN, [...args, '-c', conf(proxy)], { timeout }, (error, out, err) => {
      resolve({ code: error ? error.code ?? error.signal : 0, out, err, ms: performance.now() - started });
    });
  });

/** A command that must do it. */
export async function succeed(proxy, args, options) {
  const outcome = await command(proxy, args, options);
  assert.equal(outcome.code, 0, `${args.join(' ')}: ${JSON.stringify(outcome)}`);
  return outcome;
}

/** A command that must fail, and say so on standard error only. */
export async function refuse(proxy, args, options) {
  const outcome = await command(proxy, args, options);
  assert.equal(outcome.code, 1, `${args.join(' ')}: ${JSON.stringify(outcome)}`);
  assert.equal(outcome.out, '');
  return outcome;
}

export async function statusByCommand(proxy) {
  return JSON.parse((await succeed(proxy, ['status', '--json'])).out);
}

/** The status of one app, once `fits` says so. */
export async function appStatus(proxy, name, fits, what = 'a status') {
  let last;
  const look = async () => {
    last = (await statusByCommand(proxy)).apps.find(app => app.name === name);
    return fits(last) && last;
  };
  return until(look, { timeout: 40_000, every: 100, what: () => `${what}; the last was ${JSON.stringify(last)}` });
}

/** Asks on the socket for commands, without the cost of a process: for those who look often. */
export const asked = (proxy, path_, headers = {}) =>
  new Promise((resolve, reject) => {
    const asking = http.get({ socketPath: path.join(proxy.runtime, 'admin.sock'), path: path_, headers, agent: false }, answer => {
      let text = '';
      answer.setEncoding('utf8').on('data', data => (text += data));
      answer.on('error', reject);
      answer.on('end', () => resolve(text));
    });
    asking.on('error', reject);
    asking.setTimeout(10_000, () => asking.destroy(new Error(`no answer to ${path_} within 10 s`)));
  });

export const status = async proxy => JSON.parse(await asked(proxy, '/v1/status'));

/** One app's workers and waiting slots; the first app's unless told. */
export async function workers(proxy, app) {
  const { apps: all } = await status(proxy);
  const found = app ? all.find(one => one.name === app) : all[0];
  assert.ok(found, `app ${app} in the status`);
  return found.workers;
}

export const ready = async (proxy, app) => (await workers(proxy, app)).filter(worker => worker.state === 'ready');
export const pidsOf = list => list.map(worker => worker.pid).sort((a, b) => a - b);

/** Waits until exactly so many workers are there, all of them ready; returns them. */
export const steady = (proxy, count, { timeout = 20_000, app, fits = () => true } = {}) => {
  let last = [];
  return until(
    async () => {
      last = await workers(proxy, app);
      return last.length === count && last.every(worker => worker.state === 'ready') && fits(last) && last;
    },
    { timeout, every: 50, what: () => `${count} workers, all ready; there are ${describe(last)}` },
  );
};

export const describe = list => list.map(w => `[${w.slot}] ${w.pid} g${w.generation} ${w.state}: ${w.reason}`).join('; ');

/** Looks at the status all the time, until it is ended. */
export class Watch {
  /** {at, workers} */
  seen = [];
  #over = false;

  constructor(proxy, { app, every = 100 } = {}) {
    this.looking = (async () => {
      while (!this.#over) {
        try {
          const found = await workers(proxy, app);
          this.seen.push({ at: performance.now(), workers: found });
        } catch (error) {
          this.error ??= error;
        }
        await sleep(every);
      }
    })();
  }

  get fewestReady() {
    return Math.min(...this.seen.map(({ workers }) => workers.filter(worker => worker.state === 'ready').length));
  }

  get mostProcesses() {
    return Math.max(...this.seen.map(({ workers }) => workers.filter(worker => worker.pid).length));
  }

  /** Every state that a process was seen in. */
  statesOf(pid) {
    return [...new Set(this.seen.flatMap(({ workers }) => workers.filter(worker => worker.pid === pid).map(worker => worker.state)))];
  }

  async end() {
    this.#over = true;
    await this.looking;
    if (this.error) throw this.error;
    return this;
  }
}

/** Directories of code, and the symbolic link `current` that leads to one of them, as deploy tools make them. */
export class Releases {
  constructor(proxy, app = 'roll.js') {
    this.app = path.join(apps, app);
    this.dir = path.dirname(proxy.file('releases/.keep', ''));
    this.current = path.join(this.dir, 'current');
  }

  /** Makes a release; `before` is JavaScript that runs before the app. */
  make(name, before = '', load = true) {
    const dir = path.join(this.dir, name);
    mkdirSync(dir, { recursive: true });
    const start = load ? `require(${JSON.stringify(this.app)});` : '';
    writeFileSync(path.join(dir, 'app.js'), `globalThis.RELEASE = ${JSON.stringify(name)};\n${before}\n${start}\n`);
    return dir;
  }

  /** Leads `current` there, in one step. */
  point(name) {
    const next = path.join(this.dir, 'next');
    rmSync(next, { force: true });
    symlinkSync(name, next);
    renameSync(next, this.current);
    return this;
  }

  deploy(name, before, load) {
    this.make(name, before, load);
    return this.point(name);
  }
}

/** Resident memory of a process, in bytes. */
export function residentBytes(pid) {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) * 1024;
}
