'use strict';
/** The keep-alive of connections that the proxy keeps. */

/**
 * Keeps a server from closing the proxy's idle connections before the proxy does, whatever the app sets later:
 * a request sent on a connection that closes just then would fail. Once the app has closed the server there will be
 * no other request, and it waits for the connections to end.
 * @param {any} server
 * @param {import('./types').Seat} seat
 * @param {import('./types').Shared} shared
 */
function raiseTimeouts(server, seat, shared) {
  const settings = shared.settings;
  const guard = function (name, more) {
    let value = server[name];
    Object.defineProperty(server, name, {
      enumerable: true,
      configurable: true,
      get: function () {
        if ((shared.finishing || seat.leaving) && name === 'keepAliveTimeout') return 1;
        const least = settings.keep_alive_ms + more;
        return typeof value === 'number' && value > 0 && value < least ? least : value;
      },
      set: function (wanted) {
        value = wanted;
      },
    });
  };
  guard('keepAliveTimeout', 0);
  guard('headersTimeout', 5000);
}

function closeIdle(server) {
  // Since Node 18.2.
  if (typeof server.closeIdleConnections === 'function') server.closeIdleConnections();
}

module.exports = { raiseTimeouts, closeIdle };
