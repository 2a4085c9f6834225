// An app as its users start it without the proxy, on a free port.

import { spawn } from 'node:child_process';
import assert from 'node:assert/strict';
import { freePort, markedProcesses } from '../../e2e/lib/proxy.mjs';
import { until, within } from '../../e2e/lib/wait.mjs';
import { randomUUID } from 'node:crypto';

const KEPT = 64 * 1024;

export class Alone {
  /** Everything that it wrote, the end of it. */
  output = '';

  async start(app, { cwd, env, ports }) {
    this.port = await freePort();
    this.mark = `ZOO=${randomUUID()}`;
    const [command, ...args] = app.alone ?? commandOf(app.start);
    const own = fill({ PORT: this.port, ...app.env, ...app.aloneEnv }, { port: this.port, ...ports });
    this.child = spawn(command, args.map(text => fillText(text, { port: this.port, ...ports })), {
      cwd,
      env: { ...env, ...own, ZOO: this.mark.slice(4) },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    this.kill = this.kill.bind(this);
    process.once('exit', this.kill);
    this.exit = new Promise((resolve, reject) => {
      this.child.once('error', reject);
      this.child.once('exit', (code, signal) => resolve((this.ended = { code, signal })));
    });
    this.exit.catch(error => (this.ended = error));
    for (const stream of ['stdout', 'stderr']) {
      this.child[stream].setEncoding('utf8').on('data', text => (this.output = (this.output + text).slice(-KEPT)));
    }
    return this;
  }

  async ready(target, app, timeout) {
    await until(
      async () => {
        if (this.ended) throw Object.assign(new Error(`it ended: ${JSON.stringify(this.ended)}`), { fatal: true });
        return isReady(await target.request({ path: app.ready ?? '/' }), app);
      },
      { timeout, every: 100, what: `${app.name} to be ready alone` },
    );
  }

  /** SIGTERM to what was started, as a service manager or Ctrl-C of a terminal does; SIGKILL to what is left. */
  async stop() {
    if (!this.child?.pid) return;
    if (!this.ended) process.kill(-this.child.pid, 'SIGTERM');
    try {
      await within(10_000, 'its end', this.exit);
      await until(() => markedProcesses(this.mark).length === 0, { timeout: 3000, what: 'its last process' });
    } catch {
      // How an app ends by itself is not what is tested here.
    } finally {
      process.off('exit', this.kill);
      this.kill();
    }
  }

  kill() {
    for (const { pid } of this.mark ? markedProcesses(this.mark) : []) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // Gone already.
      }
    }
  }
}

export const isReady = (answer, app) => answer.status === (app.readyStatus ?? 200);

/** What an app's keys `script` and `command` mean to a shell. */
function commandOf({ script, args = [], node_args = [], command }) {
  if (command) return typeof command === 'string' ? command.split(' ') : command;
  assert.ok(script, 'start has a script or a command');
  return ['node', ...node_args, script, ...args];
}

export const fillText = (text, values) => String(text).replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);

/** `{name}` in values becomes a port. */
export const fill = (env, values) => Object.fromEntries(Object.entries(env ?? {}).map(([name, text]) => [name, fillText(text, values)]));
