'use strict';
/** `process.send` and its messages. */

/**
 * Gives the app what a parent's IPC channel would give it.
 * @param {import('./types').Shared} shared
 */
function takeProcessSend(shared) {
  const channel = shared.channel;
  let listeners = 0;

  process.connected = true;
  /** @type {any} */ (process).send = function send(message, handle, options, callback) {
    const done = [handle, options, callback].find(function (x) {
      return typeof x === 'function';
    });
    const report = function (error) {
      if (done !== undefined) shared.nextTick.call(process, done, error);
    };
    if (!process.connected) {
      report(Object.assign(new Error('Channel closed'), { code: 'ERR_IPC_CHANNEL_CLOSED' }));
      return false;
    }
    if (message === undefined || typeof message === 'function' || typeof message === 'symbol') {
      report(new TypeError('a message is a value that JSON knows'));
    } else if (message === 'ready') {
      channel.sendReady();
      report(null);
    } else {
      channel.sendMessage(message, report);
    }
    return true;
  };
  process.disconnect = function disconnect() {
    if (!process.connected) return;
    process.connected = false;
    channel.hold(false);
    shared.nextTick.call(process, function () {
      process.emit('disconnect');
    });
  };
  channel.onMessage = function (data) {
    if (!process.connected) return;
    // On a tick of its own, so that an app's error is the app's and the next line is still read.
    shared.nextTick.call(process, function () {
      process.emit('message', data, undefined);
    });
  };

  const counts = function (step) {
    return function (event) {
      if (event !== 'message' && event !== 'disconnect') return;
      listeners += step;
      channel.hold(listeners > 0 && process.connected);
    };
  };
  process.on('newListener', counts(1));
  process.on('removeListener', counts(-1));
}

/**
 * Whether this process is a tool that starts the app in a process of its own. Such tools must not see a
 * `process.send`: tsx would give the app an IPC channel to itself and swallow what comes over it.
 */
function isRunner() {
  const script = String(process.argv[1]).replace(/\\/g, '/');
  return (
    /\/(npm|npx|pnpm|pnpx|yarn|corepack|tsx)(-cli)?(\.[cm]?js)?$/.test(script) ||
    /\/node_modules\/tsx\/dist\/cli\.[cm]js$/.test(script)
  );
}

/** Whether this process only starts the app: what it starts is the app, and no helper of it. */
function isLauncher() {
  const script = String(process.argv[1]).replace(/\\/g, '/');
  return (
    isRunner() ||
    process.execArgv.some((option) => option.startsWith('--watch')) ||
    /\/(node_modules|\.bin|bin)\/(.*\/)?(nodemon|pm2|pm2-runtime|ts-node-dev|tsnd|forever|concurrently)(\.[cm]?js)?$/.test(
      script,
    )
  );
}

module.exports = { takeProcessSend, isLauncher, isRunner };
