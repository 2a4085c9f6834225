'use strict';
/** What a process measures of itself. */

const STATS_EVERY_MS = 1000;
const LAG_SAMPLE_MS = 50;

/**
 * Measures this process, and calls `report` with a `stats` line every second.
 * @param {import('./types').Shared} shared
 * @param {any} timers
 * @param {any} report
 */
function createStats(shared, timers, report) {
  const performance = require('perf_hooks').performance;
  let before = performance.eventLoopUtilization();
  let last = performance.now();
  let lag = 0;
  // The longest stall of the loop within the second. Node's own histogram loses the stall that follows a reset.
  timers
    .setInterval(function () {
      const now = performance.now();
      lag = Math.max(lag, now - last - LAG_SAMPLE_MS);
      last = now;
    }, LAG_SAMPLE_MS)
    .unref();
  timers
    .setInterval(function () {
      const now = performance.eventLoopUtilization();
      const elu = performance.eventLoopUtilization(now, before).utilization;
      before = now;
      const memory = process.memoryUsage();
      let sockets = 0;
      for (const seat of shared.seats.open) sockets += seat.server._connections || 0;
      report({
        type: 'stats',
        elu: Math.round(elu * 1e4) / 1e4,
        lag_ms: Math.round(lag * 10) / 10,
        rss: memory.rss,
        heap_used: memory.heapUsed,
        sockets,
        sessions: shared.engines.sessions(),
      });
      lag = 0;
    }, STATS_EVERY_MS)
    .unref();
}

module.exports = { createStats };
