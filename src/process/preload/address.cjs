'use strict';
/** The client's address, which the proxy's connection does not have. */

const DRESSED = Symbol('pingora-unix-proxy.socket');
/** A connection that has come over TCP, and has all its addresses. */
const IS_TCP = Symbol('pingora-unix-proxy.tcp');
/** Ports for the clients of connections that have none: libraries tell connections apart by address and port. */
const FIRST_PORT = 1024;
const LAST_PORT = 65535;
let lastPort = LAST_PORT;

/**
 * Gives a connection of the proxy the properties that a Unix socket lacks. Once per connection.
 * @param {any} socket
 * @param {import('./types').Seat} seat
 * @param {import('./types').Shared} shared
 */
function dressSocket(socket, seat, shared) {
  if (socket === null || typeof socket !== 'object' || socket[DRESSED] || socket[IS_TCP]) return;
  const field = function (name, value) {
    Object.defineProperty(socket, name, { value, writable: true, enumerable: true, configurable: true });
  };
  const local = seat.address === null || seat.address.address === '::' ? '127.0.0.1' : seat.address.address;
  field('remoteAddress', '127.0.0.1');
  Object.defineProperty(socket, 'remoteFamily', { get: familyOfRemote, enumerable: true, configurable: true });
  field('localAddress', local);
  const port = seat.address === null ? shared.settings.port || undefined : seat.address.port;
  field('localPort', port);
  lastPort = lastPort >= LAST_PORT ? FIRST_PORT : lastPort + 1;
  field('remotePort', lastPort);
  Object.defineProperty(socket, 'address', { value: addressOf, writable: true, enumerable: false, configurable: true });
  socket.encrypted = false;
  socket[DRESSED] = true;
}

/** `socket.address()`: our own end. */
function addressOf() {
  if (this.localPort === undefined) return {};
  const family = String(this.localAddress).indexOf(':') >= 0 ? 'IPv6' : 'IPv4';
  return { address: this.localAddress, family, port: this.localPort };
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

module.exports = { DRESSED, IS_TCP, dressSocket, dressRequest };
