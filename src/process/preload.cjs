'use strict';
/*
 * The proxy's half inside a Node.js worker; docs/protocol.md is its contract.
 *
 * NODE_OPTIONS loads this file into every Node process of the app: npm, runners, threads and children too. So
 * it does nothing but patch a few prototypes until a process listens for HTTP, prints nothing, holds no process
 * alive, and rather leaves a call to Node than fail in it. One file without dependencies, because it is written to
 * the runtime directory as it is. Node 16 and later; the syntax is that of Node 10, which must be able to skip it.
 */

const VARIABLE = 'PINGORA_UNIX_PROXY_WORKER';
/** The directory that a worker shares with a proxy that did not start it. */
const JOIN = 'PINGORA_UNIX_PROXY_JOIN';
/** Who such a worker is, for its threads and the workers of its cluster: 'TOKEN.NAME', with '.up' once it listens. */
const JOIN_ID = 'PINGORA_UNIX_PROXY_JOIN_ID';
const LOADED = Symbol.for('pingora-unix-proxy.preload');
/** Longest line either side may send, in bytes (docs/protocol.md). */
const MAX_LINE = 1024 * 1024;
/** Most messages of the app, and bytes of them, that wait for the proxy. */
const MAX_QUEUE = 1000;
const MAX_QUEUE_BYTES = 1024 * 1024;
/** Bytes the channel's socket may hold back before messages stay in the queue, and statistics are skipped. */
const MAX_UNWRITTEN = 256 * 1024;
const CUT_WITHIN_MS = 100; // Between the ends of two connections of a proxy that dies.
const REDIAL_FIRST_MS = 100;
const REDIAL_AT_ONCE_AFTER_MS = 1000; // A connection that lasted so long.
const REDIAL_LAST_MS = 2000;
const WELCOME_WITHIN_MS = 10000;
const EXIT_AFTER_MS = 5000;
const STATS_EVERY_MS = 1000;
const LAG_SAMPLE_MS = 50;
/** How long a first server on another port than PORT waits for the one on PORT before it is the main one. */
const MAIN_AFTER_MS = 1000;
/** A full backlog of a Unix socket refuses at once, where TCP would retry: so ask for the kernel's usual most. */
const LEAST_BACKLOG = 4096;
const SOCKET_MODE = 0o660;
/** The proxy is another user; who may come near is for the directory to say. */
const SHARED_SOCKET_MODE = 0o666;
/** How long a worker that joins waits in silence, and then between two complaints. */
const PATIENCE_MS = 10000;
const COMPLAIN_EVERY_MS = 60000;
/** Between two sessions that a drain ends, where it need not hurry; and between two looks for more of them. */
const DRAIN_STEP_MS = 10;
const DRAIN_LOOK_MS = 100;
/** Most paths of Engine.IO that the proxy is told, and most characters of each. */
const MOST_PATHS = 64;
const LONGEST_PATH = 1024;
/** From one refusal to the next try, doubled each time. */
const REFUSED_FIRST_MS = 2000;
const REFUSED_LAST_MS = 30000;

const settings = global[LOADED] ? null : readSettings();
if (settings !== null) {
  Object.defineProperty(global, LOADED, { value: true });
  install(settings);
}

/** The worker's settings, or null where there is nothing to do. */
function readSettings() {
  const text = process.env[VARIABLE];
  const joins = text === undefined || text === '';
  const name = joins ? JOIN : VARIABLE;
  if (joins && !process.env[JOIN]) return null;
  if (process.versions.bun !== undefined || process.versions.deno !== undefined) return null;
  const wrong = function (what) {
    // One warning is enough: the processes this one starts would say the same.
    delete process.env[name];
    complain(name + ' ' + what + '; this process is left alone');
    return null;
  };
  if (parseInt(process.versions.node, 10) < 16) return wrong('needs Node.js 16 or later');
  if (joins) return joinSettings(process.env[JOIN], wrong);
  let s;
  try {
    s = JSON.parse(text);
  } catch (_) {
    return wrong('is not JSON');
  }
  if (s === null || typeof s !== 'object') return wrong('is not a JSON object');
  if (s.protocol !== 1) return wrong('speaks protocol ' + JSON.stringify(s.protocol) + ', this script speaks 1');
  const isCount = function (n) {
    return Number.isInteger(n) && n >= 0;
  };
  for (const key of ['control', 'socket', 'app', 'token']) {
    if (typeof s[key] !== 'string' || s[key] === '') return wrong('has no string "' + key + '"');
  }
  for (const key of ['slot', 'incarnation']) {
    if (!isCount(s[key])) return wrong('has no whole number "' + key + '"');
  }
  if (!s.socket.endsWith('.sock')) return wrong('has a "socket" that does not end in .sock');
  if (s.tag !== undefined && !/^[A-Za-z0-9_-]{3}$/.test(s.tag)) return wrong('has a "tag" that is not 3 characters');
  if (!isCount(s.port) || s.port > 65535) s.port = null;
  if (!isCount(s.keep_alive_ms)) s.keep_alive_ms = 75000;
  if (!isCount(s.orphan_ms)) s.orphan_ms = 30000;
  return s;
}

/** Known only once a proxy has taken the worker in, where none started it. */
function entitle(shared) {
  const settings = shared.settings;
  if (shared.isMainThread && settings.app !== undefined) process.title = settings.app + ': slot ' + settings.slot;
}

function complain(text) {
  try {
    require('fs').writeSync(2, 'pingora-unix-proxy: ' + text + '\n');
  } catch (_) {
    // stderr is closed: nobody to tell.
  }
}

/**
 * The settings of a worker that no proxy started, as far as they are known before one has taken it in. Each process is
 * a worker of its own, but for threads and a cluster's workers. What a worker starts besides is none.
 */
function joinSettings(directory, wrong) {
  if (directory[0] !== '/') return wrong('is not an absolute path');
  const given = /^([0-9a-f]{32})\.([0-9a-f]{12})(\.up)?$/.exec(process.env[JOIN_ID] || '');
  const isPart = given !== null && (!require('worker_threads').isMainThread || require('cluster').isWorker);
  if (given !== null && !isPart && given[3] !== undefined) return null;
  const random = function (bytes) {
    return require('crypto').randomBytes(bytes).toString('hex');
  };
  const token = isPart ? given[1] : random(16);
  const name = isPart ? given[2] : random(6);
  if (!isPart) process.env[JOIN_ID] = token + '.' + name;
  const base = directory.replace(/\/+$/, '');
  return {
    external: true,
    control: base + '/control.sock',
    socket: base + '/worker.' + name + '.sock',
    token,
    tag: undefined,
    port: null,
    keep_alive_ms: 75000,
    orphan_ms: Infinity,
  };
}

function install(settings) {
  // The app's tests may replace the clock; ours goes on.
  const timers = { setTimeout, clearTimeout, setInterval };
  const nextTick = process.nextTick;
  const isMainThread = require('worker_threads').isMainThread;
  const shared = { settings, timers, nextTick, isMainThread, finishing: false };
  shared.seats = createSeats(shared);
  shared.engines = createEngines(shared);
  shared.channel = createChannel(shared);
  patchServers(shared);
  watchLoads(shared);
  if (isMainThread && typeof process.send !== 'function' && !isRunner()) takeProcessSend(shared);
}

/**
 * Whether this process is a tool that starts the app in a process of its own. Such tools must not see a
 * `process.send`: tsx would give the app an IPC channel to itself and swallow what comes over it.
 */
function isRunner() {
  const script = String(process.argv[1]).replace(/\\/g, '/');
  return (
    /\/(npm|npx|pnpm|pnpx|yarn|corepack|tsx)(-cli)?(\.[cm]?js)?$/.test(script) ||
    /\/node_modules\/tsx\/dist\/cli\.[cm]js$/.test(script)
  );
}

// ------------------------------------------------------------------------------------------------ listening

/** What this process knows of the slot's sockets: one seat per HTTP server that was ever taken over. */
function createSeats(shared) {
  const fs = require('fs');
  const settings = shared.settings;
  const stem = settings.socket.slice(0, -'.sock'.length);
  const seats = new WeakMap();
  const open = new Set();

  function isClusterWorker() {
    return require('cluster').isWorker === true;
  }

  function pathOf(port, n) {
    return stem + '-' + port + (n > 1 ? '-' + n : '') + '.sock';
  }

  /** Whether some process listens on `path`. Where that can't be known, a file that is there counts as in use. */
  function isLive(path) {
    let table;
    try {
      table = fs.readFileSync('/proc/net/unix', 'utf8');
    } catch (_) {
      return true;
    }
    // Num RefCount Protocol Flags Type St Inode Path; accepted connections carry the path too, without the flag.
    return table.split('\n').some(function (line) {
      return line.endsWith(' ' + path) && line.split(/\s+/, 4)[3] === '00010000';
    });
  }

  /** True if `path` can be bound; removes what a dead process of this slot has left there. */
  function vacate(path) {
    try {
      fs.lstatSync(path);
    } catch (_) {
      return true;
    }
    if (isLive(path)) return false;
    try {
      fs.unlinkSync(path);
    } catch (_) {
      // Gone already, or not ours to remove: bind will say.
    }
    return true;
  }

  function isHeldHere(path) {
    for (const seat of open) if (seat.path === path) return true;
    return false;
  }

  /** The socket path for a server that asks for `port`, as docs/protocol.md names them. */
  function choosePath(port) {
    const inCluster = isClusterWorker();
    // The workers of a cluster must agree on a path without talking: theirs always follow the port.
    if (!inCluster && !isHeldHere(settings.socket) && vacate(settings.socket)) return settings.socket;
    for (let n = 1; ; n++) {
      const path = pathOf(port, n);
      if (isHeldHere(path)) continue;
      // A port that another process of the slot holds ends as it would without us: EADDRINUSE.
      if (inCluster || port !== 0 || vacate(path)) {
        if (!inCluster) vacate(path);
        return path;
      }
    }
  }

  function wildcard(host) {
    return host === '' || host === '::' || host === '0.0.0.0';
  }

  /** Whether the system would refuse this port on this host, next to what the process listens on. */
  function isTaken(port, host) {
    if (port === 0) return false;
    for (const seat of open) {
      if (seat.port !== port) continue;
      if (wildcard(host) || wildcard(seat.host) || sameHost(host, seat.host)) return true;
    }
    return false;
  }

  function sameHost(a, b) {
    const plain = function (h) {
      return h === 'localhost' ? '127.0.0.1' : h;
    };
    return plain(a) === plain(b);
  }

  function portOfEnvironment() {
    return Number(process.env.PORT) || 0;
  }

  /** Whether this is the oldest socket of the slot; the rule of a cluster's workers, who share their sockets. */
  function isOldest(seat) {
    const at = seat.path.lastIndexOf('/') + 1;
    const own = born(seat.path);
    const prefix = stem.slice(at) + '-';
    return fs.readdirSync(seat.path.slice(0, at) || '.').every(function (name) {
      const path = seat.path.slice(0, at) + name;
      if (path === seat.path || !name.endsWith('.sock')) return true;
      if (path !== settings.socket && !name.startsWith(prefix)) return true;
      return born(path) > own || !isLive(path);
    });
  }

  function born(path) {
    try {
      return fs.lstatSync(path).mtimeMs;
    } catch (_) {
      return Infinity;
    }
  }

  /** Says whether a server that just came up is the main one; one on another port than PORT may become it later. */
  function decideMain(seat) {
    const wanted = portOfEnvironment();
    seat.main = false;
    if (seat.port === null) {
      seat.main = true;
    } else if (wanted !== 0 && seat.port === wanted) {
      seat.main = !Array.from(open).some(function (s) {
        return s !== seat && s.main && s.port === wanted;
      });
    } else if (isClusterWorker() ? isOldest(seat) : seat.path === settings.socket) {
      if (wanted === 0) seat.main = true;
      else shared.timers.setTimeout(promote, MAIN_AFTER_MS, seat, wanted).unref();
    }
    if (seat.main) {
      for (const s of open) if (s !== seat) s.main = false;
    }
  }

  function promote(seat, wanted) {
    const other = Array.from(open).some(function (s) {
      return s.main;
    });
    const elsewhere = pathOf(wanted, 1);
    if (!seat.up || other || (fs.existsSync(elsewhere) && isLive(elsewhere))) return;
    seat.main = true;
    shared.channel.announce(seat);
  }

  function cameUp(seat) {
    if (seat.up) return;
    seat.up = true;
    try {
      fs.chmodSync(seat.path, settings.external ? SHARED_SOCKET_MODE : SOCKET_MODE);
      decideMain(seat);
    } catch (_) {
      // The file is gone again, or the directory can't be read: the proxy's probe will tell.
    }
    entitle(shared);
    if (shared.finishing) return;
    shared.channel.start();
    shared.channel.announce(seat);
  }

  function wentDown(seat) {
    if (!open.delete(seat)) return;
    if (seat.up) shared.channel.withdraw(seat);
    seat.up = false;
    seat.main = false;
  }

  let sweeps = false;
  /** Node leaves the file of a Unix socket behind when it exits. */
  function sweepAtExit() {
    if (sweeps || isClusterWorker()) return;
    sweeps = true;
    process.on('exit', function () {
      for (const seat of open) {
        try {
          if (seat.up) fs.unlinkSync(seat.path);
        } catch (_) {
          // Already gone.
        }
      }
    });
  }

  return { of: seats, open, stem, isClusterWorker, choosePath, isTaken, vacate, cameUp, wentDown, sweepAtExit };
}

/** Takes over `listen`, `address` and `close` of HTTP servers; every other server goes on as before. */
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

/** Meets Engine.IO as soon as it is loaded: a path is known only to who sees the call of `attach`. */
function watchLoads(shared) {
  const Module = require('module');
  const load = Module._load;
  replace(Module, '_load', function _load(request) {
    const exported = load.apply(this, arguments);
    if (typeof request === 'string' && /(^|[\\/])engine\.io([\\/]|$)/.test(request)) shared.engines.scan();
    return exported;
  });
}

/** Puts a function in another's place, hidden or shown as that one was. */
function replace(object, name, value) {
  const old = Object.getOwnPropertyDescriptor(object, name);
  const enumerable = old === undefined ? false : old.enumerable;
  Object.defineProperty(object, name, { value, enumerable, configurable: true, writable: true });
}

/**
 * What a call of `listen` asks for, if it is ours to serve: a TCP port that the world can reach, or the worker's own
 * socket by its path. Null for everything else, and for what Node is to refuse. Follows `normalizeArgs` of Node's net.
 */
function readWish(args, settings) {
  const first = args[0];
  const last = args[args.length - 1];
  const callback = typeof last === 'function' ? last : null;
  const number = function (x) {
    return typeof x !== 'function' && Number(x) > 0 ? Number(x) : 0;
  };
  let o;
  if (first !== null && typeof first === 'object') {
    if (first._handle || first.handle || (typeof first.fd === 'number' && first.fd >= 0)) return null;
    o = {
      port: first.port,
      host: first.host,
      backlog: first.backlog,
      exclusive: first.exclusive,
      signal: first.signal,
    };
    if (!('port' in first)) {
      if (first.path !== settings.socket) return null;
      o.path = first.path;
    }
  } else if (typeof first === 'string' && !(Number(first) >= 0)) {
    if (first !== settings.socket) return null;
    o = { path: first };
  } else {
    o = { port: typeof first === 'function' ? undefined : first };
    if (typeof args[1] === 'string') o.host = args[1];
  }
  const backlog = number(o.backlog) || number(args[1]) || number(args[2]);
  const wish = { port: null, host: '', backlog, exclusive: o.exclusive === true, signal: o.signal, callback };
  if (o.path !== undefined) return wish;
  const port = o.port === undefined || o.port === null ? 0 : o.port;
  const isPort = typeof port === 'number' || (typeof port === 'string' && port.trim() !== '');
  if (!isPort || !Number.isInteger(Number(port)) || Number(port) < 0 || Number(port) > 65535) return null;
  wish.port = Number(port);
  wish.host = o.host ? String(o.host) : '';
  // An ephemeral port on the loopback is a server for the app itself.
  if (wish.port === 0 && /^(localhost|127\.[\d.]+|::1|::ffff:127\.[\d.]+)$/i.test(wish.host)) return null;
  return wish;
}

/** The primary of a cluster binds the socket that its workers asked for: clear what a dead one left there. */
function vacateForCluster(server, args, shared) {
  const first = args[0];
  if (first === null || typeof first !== 'object' || typeof first.path !== 'string') return;
  if (first.path.startsWith(shared.seats.stem) && first.path.endsWith('.sock')) shared.seats.vacate(first.path);
}

/** `'http'`, `'https'`, `'http2'` or `'http2s'`, or null for a server that does not speak HTTP. */
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

function createSeat(server, shared) {
  const kind = kindOf(server);
  if (kind === null) return null;
  const seat = {
    server,
    kind,
    path: null,
    port: null,
    host: '',
    address: null,
    main: false,
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
  if (kind === 'https') servePlain(seat, shared);
  if (kind === 'http2' || kind === 'http2s') serveHttp1(seat, shared);
  if (kind === 'http' || kind === 'https') raiseTimeouts(server, seat, shared);
  return seat;
}

/** Listens on a Unix socket instead of the port that was asked for. */
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
        if (seat.up) dressSocket(first, seat);
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

// ------------------------------------------------------------------------------------- the client's address

const DRESSED = Symbol('pingora-unix-proxy.socket');

/** Gives a connection of the proxy the properties that a Unix socket lacks. Once per connection. */
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

/** Says who sent this request: the connection is the proxy's, and carries another client's request each time. */
function dressRequest(request, shared) {
  const socket = request.socket;
  if (!socket || socket[DRESSED] !== true) return;
  const headers = request.headers;
  const address = headers['x-real-ip'];
  socket.remoteAddress = address === undefined ? '127.0.0.1' : address;
  socket.encrypted = headers['x-forwarded-proto'] === 'https';
  if (shared.engines.none && request.url.indexOf('EIO=') > 0) shared.engines.scanAgain();
}

// ------------------------------------------------------------------------------------ https and http2 servers

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

/** An https server takes the proxy's plain connections as if their handshake were done. */
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

const HOP_BY_HOP = ['connection', 'host', 'keep-alive', 'proxy-connection', 'te', 'transfer-encoding', 'upgrade'];

/**
 * One request as the 'stream' event of an http2 server gives it. A session in memory would be the real thing, but
 * Node 16 to 20 stalls on HTTP/2 over anything but a socket. What HTTP/1.1 has no word for is left out: pushes are not
 * allowed, priorities and settings do nothing.
 */
function emitStream(server, request, response) {
  const Duplex = require('stream').Duplex;
  const headers = {
    ':method': request.method,
    ':path': request.url,
    ':scheme': request.socket.encrypted ? 'https' : 'http',
    ':authority': request.headers.host,
  };
  for (const name of Object.keys(request.headers)) {
    if (HOP_BY_HOP.indexOf(name) < 0) headers[name] = request.headers[name];
  }
  const stream = new Duplex({
    read() {
      request.resume();
    },
    write(chunk, encoding, done) {
      if (!response.headersSent) stream.respond();
      response.write(chunk, encoding, done);
    },
    final(done) {
      if (!response.headersSent) stream.respond();
      response.end(done);
    },
    destroy(error, done) {
      if (!response.writableEnded) response.destroy();
      done(error);
    },
  });
  request.on('data', function (chunk) {
    if (!stream.push(chunk)) request.pause();
  });
  request.on('end', () => stream.push(null));
  request.pause();
  response.on('close', function () {
    if (response.writableFinished) return;
    stream.aborted = true;
    stream.emit('aborted');
    stream.destroy();
  });
  Object.defineProperty(stream, 'headersSent', { get: () => response.headersSent });
  Object.assign(stream, {
    id: 1,
    aborted: false,
    pushAllowed: false,
    rstCode: 0,
    session: { socket: request.socket, encrypted: request.socket.encrypted, alpnProtocol: 'http/1.1' },
    respond(head, options) {
      const given = Object.assign({}, head);
      const status = given[':status'] || 200;
      for (const name of Object.keys(given)) if (name[0] === ':') delete given[name];
      stream.sentHeaders = Object.assign({ ':status': status }, given);
      response.writeHead(status, given);
      if (options && options.endStream) stream.end();
      else response.flushHeaders();
    },
    respondWithFD(fd, head) {
      stream.respond(head);
      require('fs')
        .createReadStream(null, { fd: fd.fd || fd, autoClose: false })
        .pipe(stream);
    },
    respondWithFile(path, head) {
      const file = require('fs').createReadStream(path);
      file.once('open', () => stream.respond(head));
      file.on('error', (error) => stream.destroy(error));
      file.pipe(stream);
    },
    additionalHeaders() {},
    priority() {},
    pushStream(_head, options, callback) {
      const done = typeof options === 'function' ? options : callback;
      process.nextTick(
        done,
        Object.assign(new Error('HTTP/2 client has disabled push'), { code: 'ERR_HTTP2_PUSH_DISABLED' }),
      );
    },
    setTimeout(ms, callback) {
      request.setTimeout(ms, callback);
      return stream;
    },
    close(_code, callback) {
      if (typeof callback === 'function') stream.once('close', callback);
      stream.end();
    },
  });
  server.emit('stream', stream, headers, request.complete ? 5 : 4, request.rawHeaders);
}

/**
 * Keeps a server from closing the proxy's idle connections before the proxy does, whatever the app sets later:
 * a request sent on a connection that closes just then would fail. Once the app has closed the server there will be
 * no other request, and it waits for the connections to end.
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

// ------------------------------------------------------------------------------------------------ Engine.IO

/**
 * Makes the session ids of every Engine.IO server (1 to 6) end in the worker's tag, counts its sessions, and knows the
 * paths that it serves.
 */
function createEngines(shared) {
  const settings = shared.settings;
  const cache = require('module')._cache;
  const met = new WeakSet();
  const live = new Set();
  const known = new WeakSet();
  /** What the targets of an engine's requests begin with. */
  const served = new WeakMap();
  const placed = new WeakSet();
  let lastScan = 0;
  let drains = false;
  const engines = { none: true, scan, scanAgain, sessions, paths, drain };

  function tagged(id) {
    const tag = settings.tag;
    if (tag === undefined || typeof id !== 'string' || id.length < 8) return id;
    return id.slice(0, -tag.length) + tag;
  }

  function remember(engine) {
    if (known.has(engine)) return;
    known.add(engine);
    live.add(new WeakRef(engine));
  }

  function meet(proto) {
    if (met.has(proto)) return;
    met.add(proto);
    const generateId = proto.generateId;
    // An app that has put a function of its own here means its ids to stay as they are.
    if (/base64id/.test(Function.prototype.toString.call(generateId))) {
      replace(proto, 'generateId', function () {
        const id = generateId.apply(this, arguments);
        return id !== null && typeof id === 'object' && typeof id.then === 'function' ? id.then(tagged) : tagged(id);
      });
    }
    const handshake = proto.handshake;
    if (typeof handshake === 'function') {
      replace(proto, 'handshake', function () {
        remember(this);
        return handshake.apply(this, arguments);
      });
    }
    engines.none = false;
  }

  /** Sees where the servers of a class serve. */
  function place(proto) {
    if (placed.has(proto)) return;
    placed.add(proto);
    const own = function (name) {
      return Object.prototype.hasOwnProperty.call(proto, name) && typeof proto[name] === 'function';
    };
    if (own('attach')) {
      const attach = proto.attach;
      replace(proto, 'attach', function (_server, options) {
        const result = attach.apply(this, arguments);
        serves(this, pathOf(this, options));
        return result;
      });
    }
    for (const name of ['handleRequest', 'handleUpgrade'].filter(own)) {
      const handle = proto[name];
      replace(proto, name, function (request) {
        if (request && typeof request.url === 'string') driven(this, request.url);
        return handle.apply(this, arguments);
      });
    }
  }

  /** The path that `attach` makes of these options; not with a slash at its end in version 6.3 and later if told so. */
  function pathOf(engine, options) {
    if (typeof engine._computePath === 'function') return engine._computePath(options || {});
    return String((options && options.path) || '/engine.io').replace(/\/$/, '') + '/';
  }

  function serves(engine, path) {
    // No request's target begins otherwise, nor holds characters that an URL must encode.
    if (path !== '' && path[0] !== '/') return;
    const start = /^[!-~]+/.exec(path || '/')[0].slice(0, LONGEST_PATH);
    remember(engine);
    if (!served.has(engine)) served.set(engine, new Set());
    served.get(engine).add(start);
    shared.channel.tellPaths();
  }

  /** A request has come to an engine: one to another path than it was attached to is somebody else's to choose. */
  function driven(engine, url) {
    for (const path of served.get(engine) || []) if (url.startsWith(path)) return;
    // It may have been attached before it was met.
    const given = engine.opts && typeof engine.opts.path === 'string' ? pathOf(engine, engine.opts) : '/';
    serves(engine, url.startsWith(given) ? given : '/');
  }

  /** What the targets of all requests of sessions begin with. */
  function paths() {
    const all = new Set();
    for (const reference of live) {
      const engine = reference.deref();
      for (const path of (engine && served.get(engine)) || []) all.add(path);
    }
    return all.has('/') || all.size > MOST_PATHS ? ['/'] : Array.from(all).sort();
  }

  /**
   * A request that is cut because the proxy has died is no sign that the client has left: it comes back through the
   * next proxy. So its session is kept until then, or until its ping times out.
   */
  function keepSessions(proto) {
    if (met.has(proto)) return;
    met.add(proto);
    keepWhenCut(proto, 'onPollRequest', 'req', 'res');
    keepWhenCut(proto, 'onDataRequest', 'dataReq', 'dataRes');
  }

  function keepWhenCut(proto, name, req, res) {
    const serve = proto[name];
    if (typeof serve !== 'function') return;
    replace(proto, name, function (request) {
      const before = request.listeners('close');
      const result = serve.apply(this, arguments);
      const leave = request.listeners('close').find(function (listener) {
        return !before.includes(listener);
      });
      if (leave === undefined || this[req] !== request) return result;
      request.removeListener('close', leave);
      request.on('close', () => {
        if (this[req] !== request) return; // Answered.
        this[req] = this[res] = null;
        // What the app sends now waits for the next poll.
        if (req === 'req') this.writable = false;
        shared.timers.setTimeout(function () {
          if (!shared.channel.isLost()) leave.call(request);
        }, CUT_WITHIN_MS);
      });
      return result;
    });
  }

  /** Looks through the loaded modules. ES modules find Engine.IO here too: all its versions are CommonJS inside. */
  function scan() {
    lastScan = process.uptime();
    for (const file of Object.keys(cache)) {
      if (!/[\\/]engine\.io[\\/](lib|build)[\\/](u?server|transports[\\/]polling)\.js$/.test(file)) continue;
      try {
        const exported = cache[file].exports;
        for (const value of [exported].concat(Object.values(exported))) {
          if (typeof value !== 'function') continue;
          for (let p = value.prototype; p; p = Object.getPrototypeOf(p)) {
            if (Object.prototype.hasOwnProperty.call(p, 'generateId')) meet(p);
            if (Object.prototype.hasOwnProperty.call(p, 'onPollRequest')) keepSessions(p);
            if (typeof p.handshake === 'function') place(p);
          }
        }
      } catch (_) {
        // Another thing under the same name.
      }
    }
  }

  /** For an app that loads it late: at most once a second. */
  function scanAgain() {
    if (process.uptime() - lastScan >= 1) scan();
  }

  function sessions() {
    let count = 0;
    for (const reference of live) {
      const engine = reference.deref();
      if (engine === undefined) live.delete(reference);
      else count += engine.clientsCount > 0 ? engine.clientsCount : 0;
    }
    return count;
  }

  function polling() {
    const found = [];
    for (const reference of live) {
      const engine = reference.deref();
      const clients = (engine && engine.clients) || {};
      for (const id of Object.keys(clients)) {
        const session = clients[id];
        // One that is about to upgrade will be a WebSocket, which the proxy closes; or it polls at the next look.
        if (session.readyState !== 'open' || session.upgrading) continue;
        if (session.transport && session.transport.name === 'polling') found.push(session);
      }
    }
    return found;
  }

  /**
   * Ends the sessions that poll, all within the window: the poll that waits, or else the next one, is answered with
   * Engine.IO's close packet, whereupon every client begins anew at once and, by the proxy, elsewhere.
   */
  function drain(windowMs) {
    if (drains) return;
    drains = true;
    const last = process.uptime() * 1000 + (windowMs >= 0 ? windowMs : 0);
    let left = [];
    const step = function () {
      if (left.length === 0) left = polling();
      const steps = Math.max((last - process.uptime() * 1000) / DRAIN_STEP_MS, 1);
      for (const session of left.splice(0, Math.max(1, Math.ceil(left.length / steps)))) {
        try {
          session.close();
        } catch (_) {
          // It ends with its worker.
        }
      }
      shared.timers.setTimeout(step, left.length > 0 ? DRAIN_STEP_MS : DRAIN_LOOK_MS).unref();
    };
    step();
  }

  return engines;
}

// ------------------------------------------------------------------------------------------ control channel

/** The connection to the proxy. Nothing in it ever throws into the app or keeps the process alive by itself. */
function createChannel(shared) {
  const settings = shared.settings;
  const timers = shared.timers;
  const channel = {
    start,
    announce,
    withdraw,
    tellPaths,
    sendReady,
    sendMessage,
    hold,
    /** Whether the connection is gone, or was a moment ago. */
    isLost,
    /** Takes over `message` lines for the app, where `process.send` is ours. */
    onMessage: null,
  };
  let socket = null;
  let started = false;
  let welcome = false;
  let ended = false;
  let ready = false;
  let held = false;
  let retry = null;
  let delay = REDIAL_FIRST_MS;
  let known = false; // Welcomed once.
  let awaySince = null;
  let welcomedAt = 0;
  let lostAt = -Infinity;
  let trouble = 'it hung up';
  let complainAt = 0;
  let refusedFor = 0;
  let told = null; // The paths of Engine.IO, on this connection.
  const queue = [];
  let queued = 0;

  function start() {
    // Who joins is a worker, which it is not before it listens.
    if (started || (settings.external && shared.seats.open.size === 0)) return;
    started = true;
    if (settings.external && /[0-9a-f]$/.test(process.env[JOIN_ID] || '')) process.env[JOIN_ID] += '.up';
    dial();
    createStats(shared, timers, function (stats) {
      if (!welcome || socket.writableLength >= MAX_UNWRITTEN) return;
      tellPaths();
      write(stats);
    });
  }

  function dial() {
    retry = null;
    const connection = require('net').connect({ path: settings.control });
    let input = '';
    socket = connection;
    keep(connection);
    const limit = timers.setTimeout(function () {
      if (!welcome) connection.destroy();
    }, WELCOME_WITHIN_MS);
    limit.unref();
    connection.setEncoding('utf8');
    connection.on('connect', function () {
      keep(connection);
      write(settings.external ? joining() : hello());
    });
    connection.on('data', function (text) {
      input += text;
      let from = 0;
      for (let at; !connection.destroyed && (at = input.indexOf('\n', from)) >= 0; from = at + 1)
        onLine(input.slice(from, at));
      input = input.slice(from);
      if (input.length > MAX_LINE) connection.destroy();
    });
    connection.on('drain', flush);
    connection.on('error', function (error) {
      trouble = error.message;
    });
    connection.on('end', function () {
      connection.destroy();
    });
    connection.on('close', function () {
      timers.clearTimeout(limit);
      onAway();
    });
  }

  function hello() {
    return {
      type: 'hello',
      protocol: 1,
      app: settings.app,
      slot: settings.slot,
      incarnation: settings.incarnation,
      token: settings.token,
      pid: process.pid,
      node: process.versions.node,
      tag: settings.tag,
      messages: channel.onMessage !== null,
    };
  }

  function joining() {
    return {
      type: 'join',
      protocol: 1,
      id: settings.token,
      socket: settings.socket.slice(settings.socket.lastIndexOf('/') + 1),
      pid: process.pid,
      node: process.versions.node,
      tag: settings.tag,
      messages: channel.onMessage !== null,
    };
  }

  /** What the proxy makes of a worker that joined. */
  function takePlace(place) {
    for (const key of ['app', 'slot', 'incarnation', 'port']) settings[key] = place[key];
    if (/^[A-Za-z0-9_-]{3}$/.test(place.tag)) settings.tag = place.tag;
    if (Number.isInteger(place.keep_alive_ms)) settings.keep_alive_ms = place.keep_alive_ms;
    for (const seat of shared.seats.open) {
      if (seat.port === 0 && seat.address !== null) seat.address.port = place.port;
    }
    entitle(shared);
  }

  /** Nobody takes this worker in, which its people should know: the app waits without a word. */
  function complainLater() {
    const now = process.uptime() * 1000;
    if (now < complainAt || now - awaySince < PATIENCE_MS) return;
    complainAt = now + COMPLAIN_EVERY_MS;
    complain('no proxy takes this worker in at ' + settings.control + ': ' + trouble + '; trying on');
  }

  function keep(object) {
    if (held && !shared.finishing) object.ref();
    else object.unref();
  }

  function onAway() {
    const now = process.uptime() * 1000;
    // The proxy hangs up when another takes its place, which is there already.
    if (welcome && now - welcomedAt > REDIAL_AT_ONCE_AFTER_MS) delay = 0;
    if (welcome) lostAt = now;
    socket = null;
    welcome = false;
    if (ended) return;
    if (awaySince === null) awaySince = now;
    if (settings.external) complainLater();
    const left = settings.orphan_ms - (now - awaySince);
    if (left <= 0) {
      endOrphan();
      return;
    }
    retry = timers.setTimeout(dial, Math.min(delay, left));
    keep(retry);
    delay = delay === 0 ? REDIAL_FIRST_MS : Math.min(delay * 2, Math.max(REDIAL_LAST_MS, refusedFor));
  }

  function isLost() {
    return known && !ended && (!welcome || process.uptime() * 1000 - lostAt < 10 * CUT_WITHIN_MS);
  }

  /** Nobody has come back for this worker: it must not serve a socket that nobody knows. */
  function endOrphan() {
    ended = true;
    const kill = function (pid, signal) {
      try {
        process.kill(pid, signal);
      } catch (_) {
        // Already gone.
      }
    };
    const last = timers.setTimeout(function () {
      if (shared.isMainThread) process.exit(0);
      else kill(process.pid, 'SIGKILL');
    }, EXIT_AFTER_MS);
    last.unref();
    // The primary of a cluster would only start another worker.
    if (require('cluster').isWorker && process.connected) kill(process.ppid, 'SIGTERM');
    kill(process.pid, 'SIGTERM');
  }

  function write(object) {
    if (socket !== null) socket.write(JSON.stringify(object) + '\n');
  }

  function onLine(line) {
    let said;
    try {
      said = parse(line);
    } catch (_) {
      return;
    }
    if (said === null || typeof said !== 'object') return;
    switch (said.type) {
      case 'welcome':
        if (settings.external && said.worker !== null && typeof said.worker === 'object') takePlace(said.worker);
        onWelcome();
        break;
      case 'refused':
        if (settings.external) {
          trouble = 'refused: ' + said.reason;
          refusedFor = Math.min(Math.max(refusedFor * 2, REFUSED_FIRST_MS), REFUSED_LAST_MS);
          delay = refusedFor;
          socket.destroy();
          break;
        }
        ended = true;
        socket.destroy();
        drop(queue.length);
        // A proxy that came after the one that started this worker does not know it and never will.
        if (known) endOrphan();
        break;
      case 'message':
        if (welcome && channel.onMessage !== null) channel.onMessage(said.data);
        break;
      case 'drain':
        if (welcome) shared.engines.drain(said.window_ms);
        break;
      case 'shutdown':
        if (welcome) finish(shared);
        if (socket !== null) keep(socket);
        break;
    }
  }

  function onWelcome() {
    welcome = true;
    known = true;
    awaySince = null;
    delay = REDIAL_FIRST_MS;
    welcomedAt = process.uptime() * 1000;
    refusedFor = 0;
    trouble = 'it hung up';
    told = null;
    tellPaths();
    for (const seat of shared.seats.open) if (seat.up) announce(seat);
    if (ready) write({ type: 'ready' });
    flush();
  }

  function announce(seat) {
    if (welcome) write({ type: 'path', path: seat.path, port: seat.port || null, main: seat.main });
  }

  function withdraw(seat) {
    if (welcome) write({ type: 'closed', path: seat.path });
  }

  /** Where Engine.IO serves, if that is news. */
  function tellPaths() {
    if (!welcome) return;
    const paths = shared.engines.paths();
    const text = paths.join();
    if (text === told) return;
    told = text;
    write({ type: 'engine', paths, sessions: shared.engines.sessions() });
  }

  function sendReady() {
    ready = true;
    start();
    if (welcome) write({ type: 'ready' });
  }

  /** Queues a message of the app; `done` gets an error if it is never sent. */
  function sendMessage(data, done) {
    let line;
    try {
      line = Buffer.from(stringify({ type: 'message', data }) + '\n');
    } catch (error) {
      done(error);
      return;
    }
    if (ended) {
      done(new Error('the proxy takes no messages from this process'));
      return;
    }
    if (line.length > MAX_LINE) {
      done(new Error('message of ' + line.length + ' bytes, at most ' + MAX_LINE + ' can be sent'));
      return;
    }
    start();
    queue.push({ line, done });
    queued += line.length;
    flush();
    while (queue.length > MAX_QUEUE || queued > MAX_QUEUE_BYTES) drop(1);
  }

  function drop(count) {
    for (const entry of queue.splice(0, count)) {
      queued -= entry.line.length;
      entry.done(new Error('dropped: the proxy is away and the queue of messages is full'));
    }
  }

  function flush() {
    let sent = 0;
    while (sent < queue.length && welcome && socket.writableLength < MAX_UNWRITTEN) {
      const entry = queue[sent++];
      queued -= entry.line.length;
      socket.write(entry.line);
      entry.done(null);
    }
    if (sent > 0) queue.splice(0, sent);
  }

  /** Whether the channel, once it is there, keeps the process alive: as Node's own, while someone listens. */
  function hold(on) {
    held = on;
    if (socket !== null) keep(socket);
    if (retry !== null) keep(retry);
  }

  return channel;
}

// Binary data survives the way as {"$buffer":"<base64>"}; an object that happens to look like that as {"$buffer":[..]}.

function stringify(value) {
  return JSON.stringify(value, function (key, coded) {
    // `coded` has been through toJSON already, and a Buffer with it.
    const raw = this[key];
    if (raw === null || typeof raw !== 'object') return coded;
    if (raw instanceof ArrayBuffer) return { $buffer: Buffer.from(raw).toString('base64') };
    if (ArrayBuffer.isView(raw)) {
      return { $buffer: Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength).toString('base64') };
    }
    return isMarked(coded) ? { $buffer: [coded.$buffer] } : coded;
  });
}

function parse(line) {
  if (line.indexOf('"$buffer"') < 0) return JSON.parse(line);
  return JSON.parse(line, function (_key, value) {
    if (!isMarked(value)) return value;
    const inside = value.$buffer;
    if (typeof inside === 'string') return Buffer.from(inside, 'base64');
    return Array.isArray(inside) && inside.length === 1 ? { $buffer: inside[0] } : value;
  });
}

function isMarked(value) {
  return value !== null && typeof value === 'object' && '$buffer' in value && Object.keys(value).length === 1;
}

/** Measures this process, and calls `report` with a `stats` line every second. */
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

// -------------------------------------------------------------------------------- process.send and shutdown

/** Gives the app what a parent's IPC channel would give it. */
function takeProcessSend(shared) {
  const channel = shared.channel;
  let listeners = 0;

  process.connected = true;
  process.send = function send(message, handle, options, callback) {
    const done = [handle, options, callback].find(function (x) {
      return typeof x === 'function';
    });
    const report = function (error) {
      if (done !== undefined) shared.nextTick.call(process, done, error);
    };
    if (!process.connected) {
      report(Object.assign(new Error('Channel closed'), { code: 'ERR_IPC_CHANNEL_CLOSED' }));
      return false;
    }
    if (message === undefined || typeof message === 'function' || typeof message === 'symbol') {
      report(new TypeError('a message is a value that JSON knows'));
    } else if (message === 'ready') {
      channel.sendReady();
      report(null);
    } else {
      channel.sendMessage(message, report);
    }
    return true;
  };
  process.disconnect = function disconnect() {
    if (!process.connected) return;
    process.connected = false;
    channel.hold(false);
    shared.nextTick.call(process, function () {
      process.emit('disconnect');
    });
  };
  channel.onMessage = function (data) {
    if (!process.connected) return;
    // On a tick of its own, so that an app's error is the app's and the next line is still read.
    shared.nextTick.call(process, function () {
      process.emit('message', data, undefined);
    });
  };

  const counts = function (step) {
    return function (event) {
      if (event !== 'message' && event !== 'disconnect') return;
      listeners += step;
      channel.hold(listeners > 0 && process.connected);
    };
  };
  process.on('newListener', counts(1));
  process.on('removeListener', counts(-1));
}

/** The proxy has sent its last request: tell the app, stop accepting, let idle connections go. */
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

function timersSoon(shared, run) {
  shared.timers.setTimeout(run, 1).unref();
}
