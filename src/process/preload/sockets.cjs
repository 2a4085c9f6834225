'use strict';
/** The slot's sockets: their paths, who listens there, and which server is the main one. */

const { entitle } = require('./settings.cjs');

/** How long a first server on another port than PORT waits for the one on PORT before it is the main one. */
const MAIN_AFTER_MS = 1000;
const SOCKET_MODE = 0o660;
/** The proxy is another user; who may come near is for the directory to say. */
const SHARED_SOCKET_MODE = 0o666;

/**
 * What this process knows of the slot's sockets: one seat per HTTP server that was ever taken over.
 * @param {import('./types').Shared} shared
 */
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

module.exports = { createSeats };
