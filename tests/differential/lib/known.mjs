// What a server refuses by a rule of its own, though the request is right and was passed on rightly.

import { METHODS } from 'node:http';

const IDEMPOTENT = ['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE'];

/** Node's parser has a list of methods, gunicorn a form for them; h11 takes every token. */
const takesMethod = {
  node: method => METHODS.includes(method),
  httptools: method => METHODS.includes(method),
  gunicorn: method => /^[A-Z0-9$\-_.]{3,20}$/.test(method),
  h11: () => true,
};

function methodOf(request) {
  return /^(?:\r\n)*(\S*)/.exec(request.bytes().toString('latin1', 0, 100))[1];
}

/** Node has the proxy's limit for a head, 16 KiB, and the proxy adds fields of its own. */
const isNearLimit = request => request.bytes().indexOf('\r\n\r\n') > 16_384 - 300;

/** Whether Node complains by such a rule. */
export function complainsRightly({ code, near }) {
  if (code === 'HPE_HEADER_OVERFLOW') return true;
  const [, method] = /([^\s\0-\x1f]+) [/*]/.exec(near) ?? [];
  return code === 'HPE_INVALID_METHOD' && method !== undefined && !takesMethod.node(method);
}

/** Whether a server's answer is by a rule of its own. */
export function refusesRightly(request, { by, server, status }) {
  if (by === 'server' && status === 431) return isNearLimit(request);
  // It closes a kept connection without a word when much of the last body was left unread.
  // What may not be done twice is not sent again then.
  if (by === 'proxy' && status === 502) return server === 'gunicorn' && !IDEMPOTENT.includes(methodOf(request));
  if (by !== 'server' || status !== 400) return false;
  const refuses = kind => !takesMethod[kind](methodOf(request));
  // Whose bytes were changed may have gone to the first app, which is Node's.
  return refuses(/^n\d/.test(server) ? 'node' : server) || (!request.meaning && refuses('node'));
}
