'use strict';
/** The client's address, which the proxy's connection does not have. */

const DRESSED = Symbol('pingora-unix-proxy.socket');

/**
 * Gives a connection of the proxy the properties that a Unix socket lacks. Once per connection.
 * @param {any} socket
 * @param {import('./types').Seat} seat
 */
function dressSocket(socket, seat) {
  if (socket === null || typeof socket !== 'object' || socket[DRESSED]) return;
  const field = function (name, value) {
    Object.defineProperty(socket, name, { value, writable: true, enumerable: true, configurable: true });
  };
  const local = seat.address === null || seat.address.address === '::' ? '127.0.0.1' : seat.address.address;
  field('remoteAddress', '127.0.0.1');
  Object.defineProperty(socket, 'remoteFamily', { get: familyOfRemote, enumerable: true, configurable: true });
  field('localAddress', local);
  field('localPort', seat.address === null ? undefined : seat.address.port);
  socket.encrypted = false;
  socket[DRESSED] = true;
}

function familyOfRemote() {
  return this.remoteAddress.indexOf(':') >= 0 ? 'IPv6' : 'IPv4';
}

/**
 * Says who sent this request: the connection is the proxy's, and carries another client's request each time.
 * @param {any} request
 * @param {import('./types').Shared} shared
 */
function dressRequest(request, shared) {
  const socket = request.socket;
  if (!socket || socket[DRESSED] !== true) return;
  const headers = request.headers;
  const address = headers['x-real-ip'];
  socket.remoteAddress = address === undefined ? '127.0.0.1' : address;
  socket.encrypted = headers['x-forwarded-proto'] === 'https';
  if (shared.engines.none && request.url.indexOf('EIO=') > 0) shared.engines.scanAgain();
}

module.exports = { DRESSED, dressSocket, dressRequest };
