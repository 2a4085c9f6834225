'use strict';
/** What a call of `listen` asks for. */

/**
 * What a call of `listen` asks for, if it is ours to serve: a TCP port that the world can reach, or the worker's own
 * socket by its path. Null for everything else, and for what Node is to refuse. Follows `normalizeArgs` of Node's net.
 * @param {any} args
 * @param {import('./types').Settings} settings
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

module.exports = { readWish };
