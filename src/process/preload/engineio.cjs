'use strict';
/** Engine.IO: session ids with the worker's tag, the paths that it serves, and the end of sessions. */

const { CUT_WITHIN_MS } = require('./channel.cjs');
const { replace } = require('./replace.cjs');

/** Between two sessions that a drain ends, where it need not hurry; and between two looks for more of them. */
const DRAIN_STEP_MS = 10;
const DRAIN_LOOK_MS = 100;
/** Most paths of Engine.IO that the proxy is told, and most characters of each. */
const MOST_PATHS = 64;
const LONGEST_PATH = 1024;

/**
 * Makes the session ids of every Engine.IO server (1 to 6) end in the worker's tag, counts its sessions, and knows the
 * paths that it serves.
 * @param {import('./types').Shared} shared
 */
function createEngines(shared) {
  const settings = shared.settings;
  /** @type {any} */
  const Module = require('module');
  const cache = Module._cache;
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
    // The primary of such a cluster listens and hands the connections on (@socket.io/sticky): no server of this process
    // ever does, and its sessions must hear of a drain all the same.
    if (shared.seats.isClusterWorker()) shared.channel.start();
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

/**
 * Meets Engine.IO as soon as it is loaded: a path is known only to who sees the call of `attach`.
 * @param {import('./types').Shared} shared
 */
function watchLoads(shared) {
  /** @type {any} */
  const Module = require('module');
  const load = Module._load;
  replace(Module, '_load', function _load(request) {
    const exported = load.apply(this, arguments);
    if (typeof request === 'string' && /(^|[\\/])engine\.io([\\/]|$)/.test(request)) shared.engines.scan();
    return exported;
  });
}

module.exports = { createEngines, watchLoads };
