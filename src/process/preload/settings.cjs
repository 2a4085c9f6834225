'use strict';
/** What the environment says of this worker. */

const VARIABLE = 'PINGORA_UNIX_PROXY_WORKER';
/** The process of the app that has started this one. */
const PARENT = 'PINGORA_UNIX_PROXY_PARENT';
/** The directory that a worker shares with a proxy that did not start it. */
const JOIN = 'PINGORA_UNIX_PROXY_JOIN';
/** Who such a worker is, for its threads and the workers of its cluster: 'TOKEN.NAME', with '.up' once it listens. */
const JOIN_ID = 'PINGORA_UNIX_PROXY_JOIN_ID';

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
  if (joins) {
    const joined = joinSettings(process.env[JOIN], wrong);
    return joined === null ? null : fromTrustedFile(joined, wrong);
  }
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
  for (const key of ['main_port', 'settled_port']) if (!isCount(s[key]) || s[key] > 65535) s[key] = 0;
  if (!isCount(s.keep_alive_ms)) s.keep_alive_ms = 75000;
  if (!isCount(s.orphan_ms)) s.orphan_ms = 30000;
  return fromTrustedFile(s, wrong);
}

/**
 * The settings, unless somebody else can put other code into this file: it runs in the app's place. Node has followed
 * all links to it. That many may write to its directory is for the proxy to say, who knows whom it shares it with.
 */
function fromTrustedFile(settings, wrong) {
  const fs = require('fs');
  const own = process.getuid === undefined ? 0 : process.getuid();
  const owners = [0, own];
  try {
    owners.push(fs.lstatSync(settings.control).uid);
  } catch (_) {
    // Without a proxy nobody knows whose the file is to be.
    return settings;
  }
  const directory = __filename.slice(0, __filename.lastIndexOf('/')) || '/';
  for (const path of [__filename, directory]) {
    let stat;
    try {
      stat = fs.lstatSync(path);
    } catch (_) {
      // Replaced just now, or Node's permissions forbid to look.
      continue;
    }
    const isOwnGroup = stat.uid === own && process.getgid !== undefined && stat.gid === process.getgid();
    const byOthers = (stat.mode & 0o002) !== 0 || ((stat.mode & 0o020) !== 0 && !isOwnGroup);
    let why = null;
    if (!owners.includes(stat.uid)) why = 'belongs to user ' + stat.uid + ", not to root, the proxy's user or its own";
    else if (path === __filename && !stat.isFile()) why = 'is no file';
    else if (path === __filename && byOthers) why = 'can be written by others';
    if (why !== null)
      return wrong('is not followed: the script ' + __filename + ' is not to be trusted, ' + path + ' ' + why);
  }
  return settings;
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

/**
 * Known only once a proxy has taken the worker in, where none started it.
 * @param {import('./types').Shared} shared
 */
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

module.exports = { JOIN_ID, PARENT, readSettings, entitle, complain };
