// Bodies: what they hold and how they are framed. Everything in `wire` means `payload`, as long as it can be read at all.

const NONE = { kind: 'none', payload: Buffer.alloc(0), wire: Buffer.alloc(0) };
const latin1 = text => Buffer.from(text, 'latin1');

/** A request that nobody sent, should it ever be read as one. */
export const smuggled = request => `GET ${request.path} HTTP/1.1\r\nHost: ${request.host}\r\nX-Case: s${request.id}\r\n\r\n`;

function payload(random, request) {
  const kind = random.weighted({ small: 10, request: 8, chunks: 3, empty: 2, big: 2, huge: 1 });
  switch (kind) {
    case 'request': return latin1(smuggled(request).repeat(random.between(1, 2)));
    case 'chunks': return latin1(`0\r\n\r\n${smuggled(request)}`);
    case 'empty': return Buffer.alloc(0);
    case 'big': return noise(random, random.between(1000, 40_000));
    case 'huge': return noise(random, random.between(60_000, 200_000));
    default: return noise(random, random.between(1, 200));
  }
}

function noise(random, length) {
  const bytes = Buffer.allocUnsafe(length);
  const step = Math.min(length, 64);
  for (let i = 0; i < step; i++) bytes[i] = random.int(256);
  for (let i = step; i < length; i++) bytes[i] = bytes[i - step] + 1;
  return bytes;
}

/** Gives the request a body that every server must read. */
export function body(random, request) {
  const kind = random.weighted({ none: 10, length: 10, chunked: request.line.version === '1.1' ? 10 : 0 });
  if (kind === 'none') return request;
  const content = payload(random, request);
  if (kind === 'length') return withLength(request, content, random);
  return withChunks(request, chunks(random, content), random);
}

export function withLength(request, content, random) {
  const zeros = random?.chance(0.1) ? '0'.repeat(random.between(1, 5)) : '';
  request.body = { kind: 'length', payload: content, wire: content };
  return request.add(random ? random.casing('Content-Length') : 'Content-Length', zeros + content.length);
}

export function withChunks(request, chunks, random) {
  frame(request, chunks);
  const casing = text => (random?.chance(0.2) ? random.casing(text) : text);
  return request.add(casing('Transfer-Encoding'), casing('chunked'));
}

/** `parts`: [{size, data, end}], the last without data; `tail` is what follows the last size line. */
export function frame(request, { parts, tail = '\r\n' }) {
  const data = parts.map(part => part.data ?? NONE.payload);
  const wire = parts.flatMap((part, i) => [latin1(part.size), data[i], latin1(part.data ? part.end ?? '\r\n' : '')]);
  request.body = { kind: 'chunked', payload: Buffer.concat(data), wire: Buffer.concat([...wire, latin1(tail)]) };
  request.chunks = { parts, tail };
  return request;
}

const EXTENSIONS = [';a', ';a=b', ';a=b;c=d', ';a="b"', ';a="b c"', ';a="b;c"', ';name=v%20', ';x-y_z=!'];

/** Content in chunks, as RFC 9112 has them. */
export function chunks(random, content) {
  const parts = [];
  let at = 0;
  const most = content.length > 2000 ? 8 : 4;
  while (at < content.length) {
    const last = parts.length === most;
    const length = last ? content.length - at : random.between(1, Math.max(1, Math.min(content.length - at, content.length >> 1)));
    parts.push({ size: size(random, length), data: content.subarray(at, at + length) });
    at += length;
  }
  parts.push({ size: size(random, 0) });
  return { parts, tail: random.chance(0.2) ? trailers(random) : '\r\n' };
}

function size(random, length) {
  const digits = length.toString(16);
  const zeros = random.chance(0.1) ? '0'.repeat(random.between(1, 6)) : '';
  const extension = random.chance(0.15) ? random.pick(EXTENSIONS) : '';
  return `${zeros}${random.chance(0.5) ? digits : digits.toUpperCase()}${extension}\r\n`;
}

const TRAILERS = ['X-Sum: 1', 'X-Sum:', 'x-sum:   1 ', 'Digest: sha-256=abc', 'Server-Timing: a;dur=1', 'ETag: "x"', 'X-A: b, c'];

function trailers(random) {
  let text = '';
  for (let i = random.between(1, 3); i > 0; i--) text += `${random.pick(TRAILERS)}\r\n`;
  return `${text}\r\n`;
}
