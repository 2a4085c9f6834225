// The same requests to the app alone and behind the proxy: status, fields and body, but for what no two answers share.

import assert from 'node:assert/strict';

/** Fields of one connection or one moment; `date` is only seen to be there. */
const NEVER = ['connection', 'keep-alive', 'date'];

export const nameOf = request => request.name ?? `${request.method ?? 'GET'} ${request.path ?? '/'}`;

/** Asks for all of them, one after the other, and looks at what each must have: `[{request, answer}]`. */
export async function ask(target, app) {
  const asked = [];
  for (const request of app.requests) {
    const answer = await target.request(request);
    check(answer, request, target);
    asked.push({ request, answer });
  }
  return asked;
}

/** Hides what no two answers share: the port, and what the app or the request names. */
const masking = (target, ...users) => text => {
  let masked = text.replaceAll(String(target.port), 'PORT');
  for (const pattern of users.flatMap(({ mask = [] }) => mask)) masked = masked.replaceAll(pattern, 'MASKED');
  return masked;
};

/** What else a browser asks of a page: by HEAD, compressed, and again with its entity tag. Only compared. */
export function derived(asked, app, target) {
  return asked.flatMap(({ request, answer }) => {
    const { method = 'GET', headers = {}, derive = true } = request;
    if (method !== 'GET' || !derive) return [];
    const like = (what, more) => ({ ...request, expect: null, name: `${nameOf(request)}, ${what}`, ...more });
    const list = [like('compressed', { headers: { ...headers, 'accept-encoding': 'gzip' } })];
    // Else its length and entity tag are of one moment.
    if (masking(target, app, request)(answer.text) !== answer.text) return list;
    list.push(like('by HEAD', { method: 'HEAD' }));
    if (answer.headers.etag) list.push(like('unless it changed', { headers: { ...headers, 'if-none-match': answer.headers.etag } }));
    return list;
  });
}

/** What a request of the app says of its answer, whoever gave it. */
export function check(answer, { expect = {}, ...request }, target) {
  if (expect === null) return;
  const where = `${nameOf(request)} ${target.alone ? 'alone' : 'behind the proxy'}`;
  const seen = () => `${where}: ${answer.status} ${JSON.stringify(answer.headers)} ${answer.text.slice(0, 600)}`;
  assert.equal(answer.status, expect.status ?? 200, seen());
  for (const mark of [expect.contains ?? []].flat()) assert.ok(answer.text.includes(mark), `no "${mark}" in ${seen()}`);
  for (const [name, value] of Object.entries(expect.headers ?? {})) {
    const got = String(answer.headers[name]);
    assert.ok(value instanceof RegExp ? value.test(got) : got === value, `${name} is ${got}, not ${value}: ${seen()}`);
  }
}

function essence(answer, target, { app, request, targets }) {
  const unlike = new Set([...NEVER, ...(app.ignore ?? []), ...(request.ignore ?? [])]);
  // RFC 9110 8.6 forbids it there; the proxy drops it.
  if (answer.status === 204) unlike.add('content-length');
  const mask = masking(target, app, request);
  // A body that has something masked has a length and an entity tag of its own.
  const masked = answer.text !== mask(answer.text);
  const own = name => masked && (name === 'etag' || (name === 'content-length' && answer.headers[name] === String(answer.body.length)));
  // How well a compressor works is a matter of when it was fed.
  if (answer.headers['content-encoding']) unlike.add('content-length');
  // HTTP/2 frames bodies by itself.
  if (['http2', 'h2c'].includes(targets.alone.scheme)) unlike.add('transfer-encoding').add('content-length');
  const headers = Object.entries(answer.headers).filter(([name]) => !unlike.has(name) && !own(name));
  return {
    status: answer.status,
    headers: Object.fromEntries(headers.map(([name, value]) => [name, mask(String(value))]).sort()),
    body: request.compareBody === false ? undefined : mask(answer.text),
  };
}

/** Every difference between the two, as text. */
export function differences(app, alone, behind, targets) {
  return alone.flatMap(({ request, answer }, i) => {
    const about = { app, request, targets };
    const [one, other] = [essence(answer, targets.alone, about), essence(behind[i].answer, targets.behind, about)];
    try {
      assert.deepEqual(other, one);
      return [];
    } catch {
      return [{ request: nameOf(request), text: describe(one, other) }];
    }
  });
}

function describe(one, other) {
  const parts = [];
  if (one.status !== other.status) parts.push(`status ${one.status} alone, ${other.status} behind the proxy`);
  for (const name of new Set([...Object.keys(one.headers), ...Object.keys(other.headers)])) {
    const [a, b] = [one.headers[name], other.headers[name]];
    if (a !== b) parts.push(`${name}: ${JSON.stringify(a)} alone, ${JSON.stringify(b)} behind the proxy`);
  }
  if (one.body !== other.body) parts.push(`body: ${excerpt(one.body, other.body)}`);
  return parts.join('; ');
}

function excerpt(a = '', b = '') {
  let at = 0;
  while (at < a.length && a[at] === b[at]) at++;
  const part = text => JSON.stringify(text.slice(Math.max(0, at - 60), at + 160));
  return `from byte ${at} of ${a.length} and ${b.length}: ${part(a)} alone, ${part(b)} behind the proxy`;
}
