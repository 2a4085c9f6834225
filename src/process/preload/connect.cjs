'use strict';
/**
 * Connections of an app to its own port, which was led away: they reach the server that they are meant for. A server
 * that speaks TLS or HTTP/2 to its clients does not to the proxy's socket, so those are left alone.
 */

const { replace } = require('./replace.cjs');

/** @param {import('./types').Shared} shared */
function patchConnect(shared) {
  const proto = require('net').Socket.prototype;
  const connect = proto.connect;
  replace(proto, 'connect', function (...args) {
    let target = null;
    try {
      target = shared.seats.open.size === 0 ? null : redirect(args, shared);
    } catch (_) {
      // Ours to blame: it connects as it would without us.
    }
    return target === null ? connect.apply(this, args) : connect.apply(this, target);
  });
}

/**
 * @param {any[]} args
 * @param {import('./types').Shared} shared
 */
function redirect(args, shared) {
  // net.connect() hands its arguments over in an array.
  const given = Array.isArray(args[0]) ? args[0] : args;
  const first = given[0];
  const last = given[given.length - 1];
  const options =
    first !== null && typeof first === 'object'
      ? first
      : { port: first, host: typeof given[1] === 'string' ? given[1] : '' };
  if (options.path || options.port === undefined || !isOwnHost(options.host)) return null;
  const seat = find(Number(options.port), shared);
  if (seat === undefined) return null;
  const target = Object.assign({}, options, { path: seat.path });
  delete target.port;
  delete target.host;
  return typeof last === 'function' ? [target, last] : [target];
}

/**
 * The server that was led away from this port, or, on any port, shows it in its address.
 * @param {number} port
 * @param {import('./types').Shared} shared
 */
function find(port, shared) {
  return Array.from(shared.seats.open).find(function (seat) {
    if (!seat.up || seat.kind !== 'http' || seat.port === null) return false;
    // The port that it shows is the proxy's: through that the app may mean to go, unless another server is the main one.
    if (seat.port === 0) return seat.address.port === port && !seat.main;
    return seat.port === port && (seat.tcp === null || seat.said !== 'tcp');
  });
}

function isOwnHost(host) {
  if (host === undefined || host === null || host === '') return true;
  return /^(localhost|127\.[\d.]+|0\.0\.0\.0|::1?|\[::1\]|::ffff:127\.[\d.]+)$/i.test(host);
}

module.exports = { patchConnect };
