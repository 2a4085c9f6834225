// Real socket.io clients, of generation 2 and 4.

import { createRequire } from 'node:module';
import { until, within } from './wait.mjs';

const require = createRequire(import.meta.url);
const libraries = { 2: require('socket.io-client-2'), 4: require('socket.io-client-4').io };

/** Connects, waits for the app's 'hello' and notes everything that goes wrong. */
export async function connect(generation, url, options = {}, timeout = 30_000) {
  const socket = libraries[generation](url, { forceNew: true, reconnection: false, timeout, ...options });
  const client = new Client(socket);
  try {
    client.hello = await within(timeout, () => `hello from the app (${client.errors})`, client.first);
  } catch (error) {
    socket.close();
    throw error;
  }
  client.pids.add(client.hello.pid);
  return client;
}

class Client {
  constructor(socket) {
    this.socket = socket;
    this.pids = new Set();
    this.errors = [];
    this.disconnects = [];
    this.first = new Promise((resolve, reject) => {
      socket.once('hello', resolve);
      for (const event of ['connect_error', 'error', 'connect_timeout']) {
        socket.on(event, error => {
          this.errors.push(`${event}: ${error?.message ?? error} ${error?.description?.message ?? error?.description ?? ''}`);
          reject(new Error(this.errors.join('; ')));
        });
      }
    });
    this.first.catch(() => {});
    socket.on('disconnect', reason => this.disconnects.push(reason));
  }

  get engine() {
    return this.socket.io.engine;
  }

  get transport() {
    return this.engine.transport.name;
  }

  /** Sends data, checks that it comes back, notes which process answered. */
  async echo(data, timeout = 30_000) {
    const answer = await within(timeout, () => `an answer (${[...this.errors, ...this.disconnects]})`,
      new Promise(resolve => this.socket.emit('echo', data, resolve)));
    if (answer.data !== data) throw new Error(`sent ${data}, got back ${answer.data}`);
    this.pids.add(answer.pid);
    return answer.pid;
  }

  upgraded(timeout = 30_000) {
    return until(() => this.transport === 'websocket' && !this.engine.upgrading, { timeout, what: 'the upgrade to websocket' });
  }

  /** Everything that should not have happened in this session. */
  get trouble() {
    const moved = this.pids.size === 1 ? [] : [`answered by ${[...this.pids]}`];
    return [...moved, ...this.errors, ...this.disconnects];
  }

  close() {
    this.socket.close();
  }
}
