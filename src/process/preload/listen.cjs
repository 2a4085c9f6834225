'use strict';
/** Takes over the HTTP servers of this process. */

const { readWish } = require('./arguments.cjs');
const { dressRequest, dressSocket } = require('./address.cjs');
const { servePlain, serveHttp1 } = require('./plain.cjs');
const { raiseTimeouts, closeIdle } = require('./timeouts.cjs');
const { replace } = require('./replace.cjs');

/** A full backlog of a Unix socket refuses at once, where TCP would retry: so ask for the kernel's usual most. */
const LEAST_BACKLOG = 4096;

/**
 * Takes over `listen`, `address` and `close` of HTTP servers; every other server goes on as before.
 * @param {import('./types').Shared} shared
 */
function patchServers(shared) {
  const net = require('net');
  const proto = net.Server.prototype;
  const original = { listen: proto.listen, address: proto.address, close: proto.close };
  const removeAll = proto.removeAllListeners;
  const seats = shared.seats;
  shared.original = original;

  replace(proto, 'listen', function listen(...args) {
    let wish = null;
    let seat = null;
    try {
      wish = this._handle ? null : readWish(args, shared.settings);
      if (wish !== null && wish.port === 0 && isHelper(shared)) wish = null;
      if (wish === null) {
        vacateForCluster(this, args, shared);
      } else {
        seat = seats.of.get(this) || createSeat(this, shared);
      }
    } catch (_) {
      seat = null; // Ours to blame, not the app's: it listens as it would without us.
    }
    if (seat === null) return original.listen.apply(this, args);
    return occupy(seat, wish, shared);
  });

  replace(proto, 'address', function address() {
    const seat = seats.of.get(this);
    if (seat === undefined || !seat.taken || seat.port === null) return original.address.call(this);
    return this._handle ? Object.assign({}, seat.address) : null;
  });

  replace(proto, 'close', function close(callback) {
    const seat = seats.of.get(this);
    if (seat === undefined) return original.close.apply(this, arguments);
    seat.leaving = true;
    closeIdle(this);
    if (seat.inner !== null) closeIdle(seat.inner);
    if (seat.finished && !this._handle) {
      // The shutdown has closed it. The app's own close() is the first it knows of, and must succeed.
      seat.finished = false;
      if (typeof callback === 'function') {
        if (this._connections === 0) shared.nextTick.call(process, callback);
        else this.once('close', callback.bind(this, undefined));
      }
      return this;
    }
    const result = original.close.apply(this, arguments);
    seats.wentDown(seat);
    seat.taken = false;
    return result;
  });

  // Every Engine.IO clears a server's listeners when it attaches itself: the time to meet it, before the app can
  // keep a `generateId` that we have not seen.
  replace(proto, 'removeAllListeners', function removeAllListeners(event) {
    if (event === 'request') shared.engines.scan();
    return removeAll.apply(this, arguments);
  });
}

/**
 * Whether a server on any port is for the app itself: an app that is asked for from outside says where. So it is when
 * there is a server already, and in a process that another one of the app has started, which learns the port from it.
 * @param {import('./types').Shared} shared
 */
function isHelper(shared) {
  if (shared.seats.isClusterWorker()) return false;
  return shared.isChild || shared.seats.isSlotInUse();
}

/**
 * The primary of a cluster binds the socket that its workers asked for: clear what a dead one left there.
 * @param {any} server
 * @param {any} args
 * @param {import('./types').Shared} shared
 */
function vacateForCluster(server, args, shared) {
  const first = args[0];
  if (first === null || typeof first !== 'object' || typeof first.path !== 'string') return;
  if (first.path.startsWith(shared.seats.stem) && first.path.endsWith('.sock')) shared.seats.vacate(first.path);
}

/**
 * Null for a server that does not speak HTTP.
 * @returns {import('./types').Seat['kind'] | null}
 */
function kindOf(server) {
  if (server instanceof require('http').Server) return 'http';
  for (let p = Object.getPrototypeOf(server); p !== null; p = Object.getPrototypeOf(p)) {
    // Neither class of http2 is exported. Whoever has such a server has loaded http2.
    if (p.constructor.name === 'Http2Server') return 'http2';
    if (p.constructor.name === 'Http2SecureServer') return 'http2s';
  }
  if (typeof server.setSecureContext === 'function' && server instanceof require('https').Server) return 'https';
  return null;
}

/**
 * @param {any} server
 * @param {import('./types').Shared} shared
 */
function createSeat(server, shared) {
  const kind = kindOf(server);
  if (kind === null) return null;
  /** @type {import('./types').Seat} */
  const seat = {
    server,
    kind,
    path: null,
    port: null,
    host: '',
    address: null,
    main: false,
    why: 'first',
    pending: false,
    tcp: null,
    said: null,
    /** listen() was called and close() not since. */
    taken: false,
    up: false,
    /** The app has called close(): connections end once they are idle. */
    leaving: false,
    /** Closed by a shutdown, and the app has not closed it yet. */
    finished: false,
    wish: null,
    inner: null,
  };
  shared.seats.of.set(server, seat);
  watch(seat, shared);
  if (kind === 'https') servePlain(seat);
  if (kind === 'http2' || kind === 'http2s') serveHttp1(seat, shared);
  if (kind === 'http' || kind === 'https') raiseTimeouts(server, seat, shared);
  return seat;
}

/**
 * Listens on a Unix socket instead of the port that was asked for.
 * @param {import('./types').Seat} seat
 * @param {import('./types').Wish} wish
 * @param {import('./types').Shared} shared
 */
function occupy(seat, wish, shared) {
  const server = seat.server;
  const settings = shared.settings;
  if (wish.port !== null && shared.seats.isTaken(wish.port, wish.host)) {
    if (wish.callback !== null) server.once('listening', wish.callback);
    const error = addressInUse(wish);
    shared.nextTick.call(process, function () {
      server.emit('error', error);
    });
    return server;
  }
  seat.wish = wish;
  seat.port = wish.port;
  seat.host = wish.host;
  seat.finished = false;
  seat.leaving = false;
  seat.taken = true;
  seat.path = wish.port === null ? settings.socket : shared.seats.choosePath(wish.port);
  if (wish.port === null && !shared.seats.isClusterWorker()) shared.seats.vacate(seat.path);
  const shown = wish.port === 0 ? settings.port || 0 : wish.port;
  const host = wish.host === 'localhost' ? '127.0.0.1' : wish.host || '::';
  seat.address = { address: host, family: host.indexOf(':') >= 0 ? 'IPv6' : 'IPv4', port: shown };
  shared.engines.scan();
  shared.seats.open.add(seat);
  bind(seat, wish.callback, shared);
  return server;
}

/**
 * @param {import('./types').Seat} seat
 * @param {any} callback
 * @param {import('./types').Shared} shared
 */
function bind(seat, callback, shared) {
  const wish = seat.wish;
  const options = {
    path: seat.path,
    backlog: Math.max(wish.backlog, LEAST_BACKLOG),
    exclusive: wish.exclusive,
    signal: wish.signal,
  };
  try {
    if (callback === null) shared.original.listen.call(seat.server, options);
    else shared.original.listen.call(seat.server, options, callback);
  } catch (error) {
    shared.seats.wentDown(seat);
    throw error;
  }
  shared.seats.sweepAtExit();
}

/** @param {import('./types').Wish} wish */
function addressInUse(wish) {
  const host = wish.host || '::';
  const where = host + ':' + wish.port;
  const error = new Error('listen EADDRINUSE: address already in use ' + where);
  const errno = -require('os').constants.errno.EADDRINUSE;
  return Object.assign(error, { code: 'EADDRINUSE', errno, syscall: 'listen', address: host, port: wish.port });
}

/**
 * What became of an error event of a server: the error to emit, or null when another path is tried instead,
 * because another process of the slot was a moment quicker.
 * @param {import('./types').Seat} seat
 * @param {any} error
 * @param {import('./types').Shared} shared
 */
function onServerError(seat, error, shared) {
  // A cluster's worker is told of its primary's failure as one of 'bind'.
  if (seat.up || !seat.taken || !error || (error.syscall !== 'listen' && error.syscall !== 'bind')) return error;
  shared.seats.wentDown(seat);
  seat.taken = false;
  if (error.code !== 'EADDRINUSE' || seat.port === null) return error;
  if (seat.path === shared.settings.socket) {
    seat.path = shared.seats.choosePath(seat.port);
    if (seat.path !== shared.settings.socket) {
      shared.seats.open.add(seat);
      seat.taken = true;
      bind(seat, null, shared);
      return null;
    }
  }
  return addressInUse(seat.wish);
}

/**
 * Sees a server's events before its listeners do. An own listener would not do: 'upgrade' and 'checkContinue' change
 * what Node does by having one, and Engine.IO takes over all listeners of 'request'.
 * @param {import('./types').Seat} seat
 * @param {import('./types').Shared} shared
 */
function watch(seat, shared) {
  const server = seat.server;
  const inherited = server.emit;
  replace(server, 'emit', function emit(event, first) {
    switch (event) {
      case 'request':
      case 'upgrade':
      case 'connect':
      case 'checkContinue':
      case 'checkExpectation':
      case 'dropRequest':
        dressRequest(first, shared);
        break;
      case 'connection':
        if (seat.up) dressSocket(first, seat, shared);
        break;
      case 'listening':
        if (seat.taken) shared.seats.cameUp(seat);
        break;
      case 'error': {
        const error = onServerError(seat, first, shared);
        if (error === null) return true;
        if (error !== first) return inherited.call(this, 'error', error);
        break;
      }
      case 'close':
        shared.seats.wentDown(seat);
        break;
    }
    return inherited.apply(this, arguments);
  });
}

module.exports = { patchServers };
