// HTTP/2 clients: Node's own session, and what one stream of it came to.

import http2 from 'node:http2';
import { within } from './wait.mjs';

const CODES = ['NO_ERROR', 'PROTOCOL_ERROR', 'INTERNAL_ERROR', 'FLOW_CONTROL_ERROR', 'SETTINGS_TIMEOUT', 'STREAM_CLOSED', 'FRAME_SIZE_ERROR', 'REFUSED_STREAM',
  'CANCEL', 'COMPRESSION_ERROR', 'CONNECT_ERROR', 'ENHANCE_YOUR_CALM'];

export const codeName = code => CODES[code] ?? String(code);

/** Runs `body` with a session of its own. Errors of the session are kept in `session.trouble`. */
export async function withSession(port, body, options = {}) {
  const session = connect(port, options);
  try {
    return await body(session);
  } finally {
    session.destroy();
  }
}

export function connect(port, options = {}) {
  const session = http2.connect(`http://127.0.0.1:${port}`, options);
  session.trouble = [];
  session.on('error', error => session.trouble.push(error.message));
  session.on('goaway', code => (session.goawayCode ??= code));
  return session;
}

/**
 * One request to its end, however it ends: {status, head, text, body, trailers, informational, code}; `code` is that of RST_STREAM by name.
 * `send` is a function of the stream that sends the body; else `body` is sent in one piece.
 */
export function ask(session, headers = {}, { body, send, trailers, timeout = 20_000, read = true } = {}) {
  const done = new Promise(resolve => {
    const ends = !send && body === undefined && !trailers;
    const stream = session.request({ ':path': '/pid', ...headers }, { endStream: ends, waitForTrailers: Boolean(trailers) });
    const outcome = { stream, informational: [] };
    const chunks = [];
    stream.on('headers', head => outcome.informational.push(head));
    stream.on('response', head => Object.assign(outcome, { head, status: head[':status'] }));
    stream.on('trailers', fields => (outcome.trailers = { ...fields }));
    if (read) stream.on('data', chunk => chunks.push(chunk));
    stream.on('end', () => (outcome.ended = true));
    stream.on('error', error => (outcome.error = error.message));
    stream.on('close', () => {
      const all = Buffer.concat(chunks);
      resolve({ ...outcome, body: all, text: all.toString(), code: codeName(stream.rstCode) });
    });
    if (trailers) stream.on('wantTrailers', () => stream.sendTrailers(trailers));
    if (send) send(stream);
    else if (!ends) stream.end(body);
  });
  return within(timeout, `the end of ${headers[':path'] ?? '/pid'}`, done);
}

/** The other side has said that it did nothing of this request (RFC 9113, sections 6.8 and 8.7), or the request never left. */
export function isUntouched(session, { stream, code }) {
  return code === 'REFUSED_STREAM' || !stream?.id || (session.last !== undefined && stream.id > session.last);
}
