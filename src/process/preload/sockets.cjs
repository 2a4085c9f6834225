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
    // The workers of a cluster must agree on a path without talking: theirs always follow the port. And a helper
    // that asks for any port must not take the path from the app that comes after it.
    if (!inCluster && port !== 0 && !isHeldHere(settings.socket) && vacate(settings.socket)) return settings.socket;
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

  /** Whether some process of the slot listens for the proxy. */
  function isSlotInUse() {
    const at = stem.lastIndexOf('/') + 1;
    return open.size > 0 || liveNames(stem.slice(0, at)).length > 0;
  }

  /** The slot's sockets on which somebody listens, as paths. */
  function liveNames(directory) {
    const own = stem.slice(directory.length);
    return fs
      .readdirSync(directory || '.')
      .filter((name) => name.endsWith('.sock') && (name === own + '.sock' || name.startsWith(own + '-')))
      .map((name) => directory + name)
      .filter(isLive);
  }

  /** The port of the main server, as far as anybody has said: the configuration, PORT, or the app's first worker. */
  function wantedPort() {
    return settings.main_port || Number(process.env.PORT) || settings.settled_port || 0;
  }

  /** Whether this is the oldest socket of the slot; the rule of a cluster's workers, who share their sockets. */
  function isOldest(seat) {
    const own = born(seat.path);
    const directory = seat.path.slice(0, seat.path.lastIndexOf('/') + 1);
    return liveNames(directory).every((path) => path === seat.path || born(path) > own);
  }

  function born(path) {
    try {
      return fs.lstatSync(path).mtimeMs;
    } catch (_) {
      return Infinity;
    }
  }

  /**
   * Says whether a server that just came up is the main one. One on another port than the wanted one, or on any port,
   * may become it later; until then nobody knows what it is.
   */
  function decideMain(seat) {
    const wanted = wantedPort();
    seat.main = false;
    seat.pending = false;
    if (seat.port === null) {
      seat.main = true;
      seat.why = 'port';
    } else if (wanted !== 0 && seat.port === wanted) {
      seat.main = !Array.from(open).some(function (s) {
        return s !== seat && s.main && s.port === wanted;
      });
      seat.why = 'port';
    } else if (settings.main_port) {
      // What else there is was said not to be it.
    } else if (seat.port === 0 || (isClusterWorker() ? isOldest(seat) : seat.path === settings.socket)) {
      seat.why = seat.port === 0 ? 'only' : 'first';
      if (wanted === 0 && (seat.port !== 0 || isClusterWorker())) seat.main = true;
      else {
        seat.pending = true;
        shared.timers.setTimeout(promote, MAIN_AFTER_MS, seat, wanted).unref();
      }
    }
    if (seat.main) {
      for (const s of open) if (s !== seat) s.main = false;
    }
  }

  function promote(seat, wanted) {
    seat.pending = false;
    if (!seat.up) return;
    const others = [settings.socket]
      .concat(wanted === 0 ? [] : [pathOf(wanted, 1)])
      .filter((path) => path !== seat.path);
    const isOther = Array.from(open).some((s) => s.main) || others.some((path) => fs.existsSync(path) && isLive(path));
    if (!isOther) {
      seat.main = true;
      shared.channel.announce(seat);
    }
    shared.ports.settle(seat);
  }

  function cameUp(seat) {
    if (seat.up) return;
    seat.up = true;
    const attempt = function (step) {
      try {
        step();
      } catch (_) {
        // The file is gone again, or Node's permissions forbid it: the proxy's probe will tell.
      }
    };
    attempt(() => fs.chmodSync(seat.path, settings.external ? SHARED_SOCKET_MODE : SOCKET_MODE));
    attempt(() => decideMain(seat));
    entitle(shared);
    if (shared.finishing) return;
    shared.channel.start();
    shared.channel.announce(seat);
    shared.ports.settle(seat);
  }

  function wentDown(seat) {
    if (!open.delete(seat)) return;
    if (seat.up) shared.channel.withdraw(seat);
    seat.up = false;
    seat.main = false;
    shared.ports.leave(seat);
  }

  /** More is known of which port is the main server's. */
  function decideAgain() {
    for (const seat of open) {
      if (!seat.up) continue;
      const before = seat.main;
      decideMain(seat);
      if (before || seat.main) shared.channel.announce(seat);
      shared.ports.settle(seat);
    }
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

  return {
    of: seats,
    open,
    stem,
    isClusterWorker,
    isSlotInUse,
    choosePath,
    isTaken,
    vacate,
    cameUp,
    decideAgain,
    wentDown,
    sweepAtExit,
  };
}

module.exports = { createSeats };
