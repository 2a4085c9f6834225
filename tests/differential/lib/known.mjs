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

/** `answer`: {by, server, status} of an answer, or {by, server, code} of Node's complaint. */
export function refusesRightly(request, { by, server, status = 400 }) {
  if (!request || by !== 'server' || status !== 400) return false;
  return !takesMethod[/^n\d/.test(server) ? 'node' : server](methodOf(request));
}
