'use strict';
/*
 * The proxy's half inside a Node.js worker; docs/protocol.md is its contract.
 *
 * NODE_OPTIONS loads this into every Node process of the app: npm, runners, threads and children too. So it does
 * nothing but patch a few prototypes until a process listens for HTTP, prints nothing, holds no process alive, and
 * rather leaves a call to Node than fail in it. It has no dependencies, and the
 * proxy writes all its modules as one file to the runtime directory (mod.rs). Node 16 and later; the syntax is that of
 * Node 10, which must be able to skip it.
 */

const { PARENT, readSettings } = require('./settings.cjs');

const LOADED = Symbol.for('pingora-unix-proxy.preload');

const settings = global[LOADED] ? null : readSettings();
if (settings !== null) {
  Object.defineProperty(global, LOADED, { value: true });
  install(settings);
}

/** Whether a process of the app, and none that only starts apps, has started this one. */
function isChild() {
  const parent = process.env[PARENT];
  return parent !== undefined && parent !== String(process.pid);
}

/**
 * The other modules are loaded here: most processes with these NODE_OPTIONS are none that a proxy has started.
 * @param {import('./types').Settings} settings
 */
function install(settings) {
  const { createChannel } = require('./channel.cjs');
  const { createEngines, watchLoads } = require('./engineio.cjs');
  const { patchServers } = require('./listen.cjs');
  const { createPorts } = require('./ports.cjs');
  const { patchConnect } = require('./connect.cjs');
  const { createSeats } = require('./sockets.cjs');
  const { isLauncher, isRunner, takeProcessSend } = require('./send.cjs');
  // The app's tests may replace the clock; ours goes on.
  const timers = { setTimeout, clearTimeout, setInterval };
  const nextTick = process.nextTick;
  const isMainThread = require('worker_threads').isMainThread;
  /** @type {any} */
  const parts = { settings, timers, nextTick, isMainThread, isChild: isChild(), finishing: false };
  /** @type {import('./types').Shared} */
  const shared = parts;
  shared.seats = createSeats(shared);
  shared.engines = createEngines(shared);
  shared.channel = createChannel(shared);
  shared.ports = createPorts(shared);
  patchServers(shared);
  patchConnect(shared);
  watchLoads(shared);
  if (!isLauncher()) process.env[PARENT] = String(process.pid);
  if (isMainThread && typeof process.send !== 'function' && !isRunner()) takeProcessSend(shared);
}
