'use strict';
/** The end of a worker. */

const { closeIdle } = require('./timeouts.cjs');

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

module.exports = { finish };
