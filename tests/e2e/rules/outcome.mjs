// What came of a request, told alike for every path.

/**
 * `status`: of the answer; an upgrade's 101 is told as 200. null when the path ended without an answer.
 * `headers`: by lower-case name; several values are joined by ", ", those of Set-Cookie by a line feed.
 * `body`: the answer's, or what came through the tunnel.
 * `cut`: true when the answer can be told to be incomplete, false when it is whole; else words for what is neither.
 * `trailers`: the fields behind the body.
 * `hints`: the informational answers before it, each {status, headers}.
 * `ended`: whether the connection ended with it (HTTP/1), or that the answer says so.
 * `ms`: from the request to the whole answer.
 * `told`: how a path said it that has other words than HTTP/1.
 */
export const outcome = (from, more) => ({
  status: null, headers: {}, body: Buffer.alloc(0), cut: false, trailers: {}, hints: [], ended: false, ms: Math.round(performance.now() - from), ...more,
});

export function add(headers, name, value) {
  const key = name.toLowerCase();
  const joint = key === 'set-cookie' ? '\n' : ', ';
  headers[key] = headers[key] === undefined ? value : `${headers[key]}${joint}${value}`;
}

export const text = result => result.body.toString();
export const json = result => JSON.parse(text(result));

/** For messages. */
export const shown = result => JSON.stringify({ ...result, body: result.body?.toString('latin1', 0, 200) });
