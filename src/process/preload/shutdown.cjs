'use strict';
/** The end of a worker. */

const { closeIdle } = require('./timeouts.cjs');

/** Those that the proxy may be told to send (`stop_signal`). */
const STOP_SIGNALS = ['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGWINCH', 'SIGABRT', 'SIGALRM'];
/** How long a process is held for its stop signal, which follows the shutdown within moments. */
const SIGNAL_WITHIN_MS = 5000;

/**
 * The proxy has sent its last request: tell the app, stop accepting, let idle connections go.
 * @param {import('./types').Shared} shared
 */
function finish(shared) {
  if (shared.finishing) return;
  shared.finishing = true;
  if (shared.channel.onMessage !== null) shared.channel.onMessage('shutdown');
  // After the app has heard it: a server that it closes itself is not ours to close.
  timersSoon(shared, function () {
    holdUntilSignal(shared);
    for (const seat of Array.from(shared.seats.open)) {
      try {
        shared.original.close.call(seat.server);
        seat.finished = true;
        seat.taken = false;
        shared.seats.wentDown(seat);
        closeIdle(seat.server);
        if (seat.inner !== null) closeIdle(seat.inner);
      } catch (_) {
        // The stop signal follows anyway.
      }
    }
  });
}

/**
 * @param {import('./types').Shared} shared
 * @param {any} run
 */
function timersSoon(shared, run) {
  shared.timers.setTimeout(run, 1).unref();
}

/**
 * Keeps the process alive until its stop signal has come, if the app handles one: without its servers it might end
 * before, and what the handler would save would be lost.
 * @param {import('./types').Shared} shared
 */
function holdUntilSignal(shared) {
  const handled = STOP_SIGNALS.filter((signal) => process.listenerCount(signal) > 0);
  if (handled.length === 0) return;
  const release = function () {
    shared.timers.clearTimeout(timer);
    process.removeListener('removeListener', stepBack);
    for (const signal of handled) process.removeListener(signal, release);
  };
  // With our listener alone left a signal would do nothing, where without it it ends the process.
  const stepBack = function (signal, listener) {
    if (listener === release || !handled.includes(signal)) return;
    if (process.listeners(signal).every((left) => left === release)) process.removeListener(signal, release);
  };
  const timer = shared.timers.setTimeout(release, SIGNAL_WITHIN_MS);
  for (const signal of handled) process.prependListener(signal, release);
  process.on('removeListener', stepBack);
}

module.exports = { finish };
