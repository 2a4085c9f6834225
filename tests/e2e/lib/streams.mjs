// HTTP/2 without TLS, by Node's own client.

import http2 from 'node:http2';
import { within } from './wait.mjs';

/** Opens a session, runs `body` with it, ends it. */
export async function withSession(port, body, options = {}) {
  const session = http2.connect(`http://127.0.0.1:${port}`, options);
  session.on('error', () => {});
  try {
    return await body(session);
  } finally {
    session.destroy();
  }
}

/**
 * One stream: its status, fields, body, trailers, and how it ended. It never throws for what the other side does:
 * `code` is that of RST_STREAM, `error` what Node says. `send(stream)` writes the request's body.
 */
export function ask(session, headers = {}, { body, send, timeout = 20_000 } = {}) {
  const asked = new Promise(resolve => {
    const outcome = {
      status: undefined,
      headers: {},
      informational: [],
      trailers: {},
      text: '',
      code: undefined,
      error: undefined,
    };
    const end = why => resolve(Object.assign(outcome, why));
    let stream;
    try {
      stream = session.request({ ':path': '/pid', ...headers }, { endStream: !send && body === undefined });
    } catch (error) {
      return end({ error });
    }
    outcome.stream = stream;
    const chunks = [];
    stream.on('headers', fields => outcome.informational.push(fields));
    stream.on('response', fields => Object.assign(outcome, { status: fields[':status'], headers: fields }));
    stream.on('trailers', fields => (outcome.trailers = fields));
    stream.on('data', chunk => chunks.push(chunk));
    stream.on('error', error => (outcome.error = error));
    stream.on('close', () => end({ code: stream.rstCode, text: Buffer.concat(chunks).toString('latin1') }));
    if (send) send(stream);
    else if (body !== undefined) stream.end(body);
  });
  return within(timeout, () => `the end of a stream for ${JSON.stringify(headers)}`, asked);
}
