// What a server refuses by a rule of its own, though the request is right and was passed on rightly.

import { METHODS } from 'node:http';

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

/** Whether Node complains about the method alone. */
export function complainsRightly({ code, near }) {
  const [, method] = /(\S+) \S+ HTTP\/1\.[01]\r\n/.exec(near) ?? [];
  return code === 'HPE_INVALID_METHOD' && method !== undefined && !takesMethod.node(method);
}

/** Whether a server's answer is by a rule of its own. */
export function refusesRightly(request, { by, server, status = 400 }) {
  if (!request || by !== 'server' || status !== 400) return false;
  return !takesMethod[/^n\d/.test(server) ? 'node' : server](methodOf(request));
}
