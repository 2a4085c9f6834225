'use strict';
/** https and http2 servers, which get the proxy's plain HTTP/1.1. */

const { DRESSED, dressRequest } = require('./address.cjs');
const { emitStream } = require('./stream.cjs');
const { raiseTimeouts } = require('./timeouts.cjs');

/** The server's own listener of 'connection', which would speak TLS or HTTP/2, steps aside for the proxy's sockets. */
function stepAside(server, plain) {
  const listeners = server.listeners('connection');
  const named = listeners.find(function (f) {
    return f.name === 'tlsConnectionListener' || f.name === 'connectionListener';
  });
  const own = named || listeners[0];
  if (own !== undefined) server.removeListener('connection', own);
  server.prependListener('connection', function onConnection(socket) {
    if (socket[DRESSED] === true) plain(socket);
    else if (own !== undefined) own.call(server, socket);
  });
}

/** What code written for a TLS socket asks of it, answered as for a client without a certificate. */
const TLS_ANSWERS = {
  authorized: false,
  authorizationError: null,
  alpnProtocol: false,
  servername: false,
  getPeerCertificate: () => ({}),
  getPeerX509Certificate: () => undefined,
  getCertificate: () => ({}),
  getCipher: () => ({}),
  getProtocol: () => null,
  getSession: () => undefined,
  isSessionReused: () => false,
};

/**
 * An https server takes the proxy's plain connections as if their handshake were done.
 * @param {import('./types').Seat} seat
 */
function servePlain(seat) {
  stepAside(seat.server, function (socket) {
    Object.assign(socket, TLS_ANSWERS);
    seat.server.emit('secureConnection', socket);
  });
}

const REQUEST_EVENTS = new Set([
  'request',
  'upgrade',
  'connect',
  'checkContinue',
  'checkExpectation',
  'clientError',
  'dropRequest',
]);

/**
 * An http2 server gets its 'request' events from an HTTP/1.1 server inside, as Node itself gives them with
 * `allowHTTP1`; a server that only knows 'stream' events gets them in the likeness of HTTP/2's.
 * @param {import('./types').Seat} seat
 * @param {import('./types').Shared} shared
 */
function serveHttp1(seat, shared) {
  const http = require('http');
  const EventEmitter = require('events');
  const server = seat.server;
  const inner = http.createServer();
  const count = inner.listenerCount;
  inner.listenerCount = function (event) {
    return REQUEST_EVENTS.has(event) ? server.listenerCount(event) : count.apply(inner, arguments);
  };
  inner.emit = function (event, first, second) {
    if (!REQUEST_EVENTS.has(event)) return EventEmitter.prototype.emit.apply(inner, arguments);
    if (event === 'request' && server.listenerCount('request') === 0 && server.listenerCount('stream') > 0) {
      dressRequest(first, shared);
      emitStream(server, first, second);
      return true;
    }
    return server.emit.apply(server, arguments);
  };
  raiseTimeouts(inner, seat, shared);
  // Starts the time-outs of a server that itself never listens.
  EventEmitter.prototype.emit.call(inner, 'listening');
  seat.inner = inner;
  stepAside(server, function (socket) {
    if (seat.kind === 'http2s') Object.assign(socket, TLS_ANSWERS);
    EventEmitter.prototype.emit.call(inner, 'connection', socket);
  });
}

module.exports = { servePlain, serveHttp1 };
