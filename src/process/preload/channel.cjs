'use strict';
/** The control channel. */

const { JOIN_ID, complain, entitle } = require('./settings.cjs');
const { parse, stringify } = require('./codec.cjs');
const { createStats } = require('./stats.cjs');
const { finish } = require('./shutdown.cjs');

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
/** How long a worker that joins waits in silence, and then between two complaints. */
const PATIENCE_MS = 10000;
const COMPLAIN_EVERY_MS = 60000;
/** From one refusal to the next try, doubled each time. */
const REFUSED_FIRST_MS = 2000;
const REFUSED_LAST_MS = 30000;

/**
 * The connection to the proxy. Nothing in it ever throws into the app or keeps the process alive by itself.
 * @param {import('./types').Shared} shared
 */
function createChannel(shared) {
  const settings = shared.settings;
  const timers = shared.timers;
  const channel = {
    start,
    announce,
    withdraw,
    tellPort,
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
      thread: require('worker_threads').threadId,
      settled: settings.settled_port || 0,
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
      thread: require('worker_threads').threadId,
      settled: settings.settled_port || 0,
    };
  }

  /** What the proxy makes of a worker that joined. */
  function takePlace(place) {
    for (const key of ['app', 'slot', 'incarnation', 'port', 'main_port', 'settled_port', 'ports'])
      settings[key] = place[key];
    if (/^[A-Za-z0-9_-]{3}$/.test(place.tag)) settings.tag = place.tag;
    if (Number.isInteger(place.keep_alive_ms)) settings.keep_alive_ms = place.keep_alive_ms;
    for (const seat of shared.seats.open) {
      if (seat.port === 0 && seat.address !== null) seat.address.port = place.port;
    }
    if (settings.main_port || settings.settled_port) shared.seats.decideAgain();
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
      case 'settled':
        settings.settled_port = said.port;
        if (welcome) shared.seats.decideAgain();
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
    for (const seat of shared.seats.open) {
      if (seat.up) announce(seat);
      if (seat.said !== null) tellPort(seat);
    }
    if (ready) write({ type: 'ready' });
    flush();
  }

  function announce(seat) {
    if (!welcome) return;
    const line = { type: 'path', path: seat.path, port: seat.port || null, main: seat.main };
    write(seat.main ? Object.assign(line, { why: seat.why }) : line);
  }

  /** What became of a port that is not the main server's. */
  function tellPort(seat) {
    if (!welcome) return;
    const at = seat.tcp === null ? null : seat.tcp.at;
    write({ type: 'port', port: seat.port, at, state: seat.said });
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

module.exports = { CUT_WITHIN_MS, createChannel };
