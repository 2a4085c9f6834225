'use strict';
/**
 * Every server but the main one stays on the TCP port that the app asked for, as it would without the proxy. The
 * workers of an app cannot all have one port: the first has it, the others wait until it is free (`ports:` in the
 * configuration says it otherwise). Such a server listens on a Unix socket besides, so that it may become the main one.
 */

const { IS_TCP } = require('./address.cjs');

/** Between two tries to get a port that somebody else has. */
const TRY_EVERY_MS = 500;

/** @param {import('./types').Shared} shared */
function createPorts(shared) {
  const net = require('net');
  const uses = shared.settings.ports || {};

  /** What to do with a server, once it is known whether it is the main one. */
  function settle(seat) {
    if (seat.main) {
      leave(seat);
      return;
    }
    const wants = seat.up && !seat.pending && !shared.finishing && seat.port !== null && seat.port !== 0;
    if (!wants || seat.tcp !== null) return;
    const use = uses[seat.port] || 'one';
    if (use === 'off') {
      tell(seat, 'off');
      return;
    }
    const at = use === 'each' ? seat.port + (shared.settings.slot || 0) : seat.port;
    if (at > 65535) {
      tell(seat, 'off');
      return;
    }
    seat.tcp = { server: null, retry: null, at };
    open(seat);
  }

  function open(seat) {
    const tcp = seat.tcp;
    const server = net.createServer({ allowHalfOpen: true }, function (socket) {
      socket[IS_TCP] = true;
      seat.server.emit('connection', socket);
    });
    tcp.retry = null;
    tcp.server = server;
    server.unref();
    server.on('error', function (/** @type {NodeJS.ErrnoException} */ error) {
      if (seat.tcp !== tcp) return;
      tcp.server = null;
      // An error that stays is tried again, too: it costs nothing, and may be mended.
      tcp.retry = shared.timers.setTimeout(open, TRY_EVERY_MS, seat).unref();
      tell(seat, error.code === 'EADDRINUSE' ? 'taken' : String(error.code));
    });
    server.on('listening', () => seat.tcp === tcp && tell(seat, 'tcp'));
    const host = seat.host === '' ? undefined : seat.host;
    shared.original.listen.call(server, {
      port: tcp.at,
      host,
      backlog: seat.wish.backlog || undefined,
      exclusive: true,
    });
  }

  /** To the proxy, whose people may look for the port. */
  function tell(seat, state) {
    if (seat.said === state) return;
    seat.said = state;
    shared.channel.tellPort(seat);
  }

  function leave(seat) {
    const tcp = seat.tcp;
    seat.tcp = null;
    seat.said = null;
    if (tcp === null) return;
    shared.timers.clearTimeout(tcp.retry);
    if (tcp.server !== null) shared.original.close.call(tcp.server);
  }

  return { settle, leave };
}

module.exports = { createPorts };
