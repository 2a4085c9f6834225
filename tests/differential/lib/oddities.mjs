// What no two readers need to agree on. `refused`: must not pass. `either`: refused by the proxy, or served and read alike.

import { chunks, frame, withChunks, withLength } from './bodies.mjs';

const insertAfterLine = text => head => head.replace('\r\n', () => `\r\n${text}`);
const field = line => insertAfterLine(`${line}\r\n`);
const requestLine = change => head => head.replace(/^[^\r\n]*/, line => change(line));
const remove = name => request => (request.fields = request.fields.filter(f => f.name.toLowerCase() !== name));

const FIELDS = {
  'folded line': ['refused', 'X-Odd: a\r\n b'],
  'folded line, tab': ['refused', 'X-Odd: a\r\n\tb'],
  'fold alone': ['refused', 'X-Odd: a\r\n \r\nX-B: c'],
  'line begins with a space': ['refused', ' X-Odd: a'],
  'space before the colon': ['refused', 'X-Odd : a'],
  'tab before the colon': ['refused', 'X-Odd\t: a'],
  'space in a name': ['refused', 'X Odd: a'],
  'line without a colon': ['refused', 'X-Odd'],
  'line without a name': ['refused', ': a'],
  'line ends in LF': ['refused', 'X-Odd: a\nX-B: c'],
  'bare CR in a value': ['refused', 'X-Odd: a\rX-B: c'],
  'CR CR LF': ['refused', 'X-Odd: a\r\r\nX-B: c'],
  'LF CR': ['refused', 'X-Odd: a\n\rX-B: c'],
  'NUL in a value': ['refused', 'X-Odd: a\0b'],
  'control character in a value': ['refused', 'X-Odd: a\x0bb'],
  'DEL in a value': ['refused', 'X-Odd: a\x7fb'],
  'NUL in a name': ['refused', 'X-O\0dd: a'],
  '8 bit in a name': ['refused', 'X-O\xe9: a'],
  'separator in a name': ['refused', 'X-(O): a'],
  'quote in a name': ['refused', 'X"O: a'],
  'two Host': ['refused', 'Host: other.test'],
  'Host with a path': ['refused', 'Host: a/b', 'host'],
  'Host with user information': ['refused', 'Host: u@x.test', 'host'],
  'Host list': ['refused', 'Host: a, b', 'host'],
  'Host with a space': ['refused', 'Host: a b', 'host'],
  'Host with two ports': ['refused', 'Host: a:1:2', 'host'],
  'Host with a long port': ['refused', 'Host: a:123456', 'host'],
  'Host with a broken address': ['refused', 'Host: [::1', 'host'],
  'Host with a zone': ['refused', 'Host: [fe80::1%25eth0]', 'host'],
  'Content_Length': ['refused', 'Content_Length: 3'],
  'Transfer_Encoding': ['refused', 'Transfer_Encoding: chunked'],
  'Connection names Host': ['refused', 'Connection: host'],
  'Connection names Content-Length': ['refused', 'Connection: close, Content-Length'],
  'Connection names Transfer-Encoding': ['refused', 'Connection: transfer-encoding'],
  'Expect of something else': ['refused', 'Expect: 200-ok', 'expect'],
  'Expect list': ['refused', 'Expect: 100-continue, x', 'expect'],
  'Expect twice': ['either', 'Expect: 100-continue\r\nExpect: 100-continue'],
  'two Connection, close and keep-alive': ['either', 'Connection: keep-alive\r\nConnection: close'],
  'upgrade to websocket': ['either', 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='],
  'upgrade to h2c': ['either', 'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA'],
  'X-Forwarded_Proto with ssl': ['either', 'X_Forwarded_Proto: https\r\nX_Forwarded_Ssl: on'],
  'Trailer of a framing field': ['either', 'Trailer: Content-Length'],
};

const LINES = {
  'two spaces before the target': ['refused', line => line.replace(' ', '  ')],
  'two spaces before the version': ['refused', line => line.replace(/ (?=HTTP)/, '  ')],
  'tab for a space': ['refused', line => line.replace(' ', '\t')],
  'space after the version': ['refused', line => `${line} `],
  'space in the target': ['refused', line => line.replace(/ (?=HTTP)/, '/a b ')],
  'fragment': ['refused', line => line.replace(/ (?=HTTP)/, '#x ')],
  '8 bit in the target': ['refused', line => line.replace(/ (?=HTTP)/, '/\xe9 ')],
  'control character in the target': ['refused', line => line.replace(/ (?=HTTP)/, '/\x01 ')],
  'target without a slash': ['refused', line => line.replace(' /', ' ')],
  'asterisk without OPTIONS': ['refused', line => line.replace(/ \S+/, ' *').replace('OPTIONS', 'GET')],
  'CONNECT': ['refused', line => line.replace(/^\S+ \S+/, 'CONNECT x.test:80')],
  'another host in the target': ['refused', line => line.replace(/ \S+/, ' http://other.test/')],
  'user information in the target': ['refused', line => line.replace(/ \S+/, ' http://u@x.test/')],
  'no host in the target': ['refused', line => line.replace(/ \S+/, ' http:///x')],
  'another scheme': ['refused', line => line.replace(/ \S+/, ' ftp://x.test/')],
  'no version': ['refused', line => line.replace(/ HTTP.*/, '')],
  'small version': ['refused', line => line.replace('HTTP', 'http')],
  'version 0.9': ['refused', line => line.replace(/[\d.]+$/, '0.9')],
  'version 1.2': ['refused', line => line.replace(/[\d.]+$/, '1.2')],
  'version 2.0': ['refused', line => line.replace(/[\d.]+$/, '2.0')],
  'version 1.10': ['refused', line => line.replace(/[\d.]+$/, '1.10')],
  'version 01.1': ['refused', line => line.replace(/[\d.]+$/, '01.1')],
  'version 1,1': ['refused', line => line.replace(/[\d.]+$/, '1,1')],
  'version ends in CR': ['refused', line => `${line}\r`],
  'separator in the method': ['refused', line => `G(T${line.slice(line.indexOf(' '))}`],
  'long method': ['refused', line => `${'M'.repeat(40)}${line.slice(line.indexOf(' '))}`],
  'small method': ['either', line => line.replace(/^\S+/, method => method.toLowerCase())],
  'unknown method': ['either', line => line.replace(/^\S+/, 'FROB')],
  'method with odd letters': ['either', line => line.replace(/^\S+/, "G!T'x")],
};

const LENGTHS = [
  '+5', '-5', '0x5', '5 5', '5,5', '5, 5', '5;', '"5"', '5.0', '5e0', '', ' ', '5_0', '٥', '18446744073709551621', '9223372036854775808',
  '00000000000000000000000',
];
const CODINGS = [
  'chunked, chunked', 'chunked,', ',chunked', 'chunked;q=1', '"chunked"', 'xchunked', 'chunked x', 'identity', 'identity, chunked', 'gzip, chunked',
  'chunked, identity', '\x0bchunked', 'chunked\x0c', 'chunked\0', '\xa0chunked', 'chun\tked', '', 'cow', "'chunked'", 'Chunked\r\n ', '\r\n chunked',
];
const SIZES = [
  s => `+${s}`, s => `-${s}`, s => `0x${s}`, s => ` ${s}`, s => `\t${s}`, s => `${s} `, s => `${s}\t`, s => `${s} ;a=b`, s => `${s}\t;a`,
  s => `${s}; a=b`,
  s => `${s};a =b`, s => `${s};a= b`, s => `${s};`, s => `${s};;`, s => `${s};=`, s => `${s};=b`, s => `${s};a=`, s => `${s};a=b c`, s => `${s};"`,
  s => `${s};"a"`, s => `${s};a="`, s => `${s};a="b`, s => `${s};a="b"c`, s => `${s};a="\\""`, s => `${s};a="\t"`, s => `${s};a="\x80"`,
  s => `${s};\x80`, s => `${s};a=\xff`,
  s => `${s};a\0`, s => `${s};a\x01`, s => `${s};a\nb`, s => `${s};a\rb`, s => `${s};a\n`, s => `${s}\n`, s => `${s}\r`, s => `${s},a`,
  s => `${s}_0`, s => `${s}.0`,
  s => `${s}g`, s => `${s}h`, s => `${s}L`, s => `${s}:`, s => `${s}"`, s => `${s}\x0b`, s => `${s}\0`, s => `"${s}"`, s => s.padStart(16, '0'),
  s => s.padStart(17, '0'), s => s.padStart(40, '0'),
  s => `1${s.padStart(16, '0')}`, s => `f${s.padStart(15, '0')}`, s => `8${s.padStart(15, '0')}`, s => `${s};${'x'.repeat(250)}`,
  s => `${s};${'x'.repeat(300)}`, s => `${s};a;b;c=d;e="f"`,
  () => '', () => '\n', () => 'zz', () => '-0', () => 'ffffffffffffffff',
];
const TRAILERS = [
  'Content-Length: 5', 'content-length: 0', 'Transfer-Encoding: chunked', 'Transfer-Encoding: identity', 'Host: evil.test',
  'X-Forwarded-For: 6.6.6.6', 'X_Real_IP: 6.6.6.6',
  'Connection: close', 'Connection: upgrade', 'Upgrade: websocket', 'Expect: 100-continue', 'Trailer: x', 'Content-Type: x/y',
  'Authorization: x', 'Cookie: a=b', 'Cache-Control: no', 'Content_Length: 5',
  'X-Odd: a\x80b', 'X-Odd: \xff', 'X-Odd: a\tb', 'X-Odd: a\0b', 'X-Odd: a\x01b', 'X-Odd: a\x7fb', 'X-Odd: a\rb', 'X-Odd: a\nb',
  'X-Odd: a\r\n b', 'X-Odd : a', ' X-Odd: a', 'X-Odd', ': a', 'X Odd: a',
  'X-\xe9: a', 'X-Case: 1', 'GET / HTTP/1.1', `X-Odd: ${'y'.repeat(5000)}`, `X-Odd: ${'y'.repeat(9000)}`,
  Array.from({ length: 150 }, (_, i) => `X-${i}: a`).join('\r\n'), 'a=b: c', 'X-{: a', '\0: a', 'Content-Length: x',
  'Content-Length: 5\r\nContent-Length: 6',
];
const TAILS = ['\n', '\r\r\n', '\n\r\n', '\r\n\r\n', '', 'x\r\n', ' \r\n', '\0\r\n', '\r\n\n', '0\r\n\r\n'];
const ENDS = ['\n', '', '\r', 'x\r\n', '\r\n\r\n', '\r\n ', '\n\r', ' \r\n'];

/** A request that must have a body in chunks. */
function chunked(random, request) {
  if (request.body.kind === 'chunked') return request;
  withoutBody(request);
  request.line.version = '1.1';
  return withChunks(request, chunks(random, Buffer.from(random.text(random.between(1, 30), 'abc\r\n0'))), random);
}

function withoutBody(request) {
  request.fields = request.fields.filter(({ name }) => !/^(content-length|transfer-encoding)$/i.test(name));
  request.body = { kind: 'none', payload: Buffer.alloc(0), wire: Buffer.alloc(0) };
  return request;
}

const show = text => JSON.stringify(text.length > 40 ? `${text.slice(0, 37)}...` : text);

const kinds = {
  field(random, request) {
    request.line.version = '1.1';
    if (!request.fields.some(({ name }) => /^host$/i.test(name))) request.add('Host', request.host);
    const [label, [must, line, instead]] = random.pick(Object.entries(FIELDS));
    if (instead) remove(instead)(request);
    request.odd(label, must, false).rewrites.push(field(line));
  },
  line(random, request) {
    const [label, [must, change]] = random.pick(Object.entries(LINES));
    Object.assign(request.line, { target: request.path, version: '1.1' });
    request.odd(label, must, false).rewrites.push(requestLine(change));
  },
  limits(random, request) {
    const [label, must, line] = random.pick([
      ['101 fields', 'refused', Array.from({ length: 101 }, (_, i) => `x-${i}: v`).join('\r\n')],
      ['head over 16 KiB', 'refused', `X-Long: ${'l'.repeat(17_000)}`],
      ['head near 16 KiB', 'either', `X-Long: ${'l'.repeat(random.between(15_000, 16_384))}`],
      ['many short fields near 100', 'either', Array.from({ length: random.between(85, 100) }, (_, i) => `x-${i}: v`).join('\r\n')],
    ]);
    request.odd(label, must, false).rewrites.push(field(line));
  },
  lead(random, request) {
    request.lead = random.pick(['\n', '\r\n\r\n\r\n', '\r', ' ', '\0', '\r\n \r\n', '\x16\x03\x01']);
    request.odd(`starts with ${show(request.lead)}`, 'refused', false);
  },
  noHost(random, request) {
    request.line.version = '1.1';
    remove('host')(request);
    request.odd('no Host', 'refused', false);
  },
  length(random, request) {
    const value = random.pick(LENGTHS);
    withoutBody(request).add('Content-Length', value, { before: random.pick([' ', '']) });
    request.body = { ...request.body, wire: Buffer.from('abcde') };
    request.odd(`Content-Length ${show(value)}`, /^0+$/.test(value) ? 'either' : 'refused', false);
  },
  lengthWrong(random, request) {
    withLength(withoutBody(request), Buffer.from('abcdefghij'));
    const field = request.fields.at(-1);
    field.value = random.pick([3, 9, 11, 300]);
    request.odd(`Content-Length wrong by ${field.value - 10}`, 'either', false);
  },
  lengths(random, request) {
    const [one, two] = random.pick([[5, 5], [5, 6], [0, 5], [5, 0]]);
    withoutBody(request).add('Content-Length', one).add(random.casing('Content-Length'), two);
    request.body = { ...request.body, wire: Buffer.from('abcde') };
    request.odd(`two Content-Length, ${one === two ? 'equal' : 'different'}`, 'refused', false);
  },
  both(random, request) {
    chunked(random, request).add('Content-Length', random.pick([0, 5, request.body.wire.length]));
    if (random.chance(0.5)) request.fields.unshift(request.fields.pop());
    request.odd('Content-Length and Transfer-Encoding', 'refused', false);
  },
  coding(random, request) {
    const value = random.pick(CODINGS);
    const name = random.pick(['Transfer-Encoding', 'transfer-encoding']);
    chunked(random, request).fields.find(f => /^transfer-encoding$/i.test(f.name)).value = value;
    if (random.chance(0.2)) request.add(name, 'chunked');
    request.odd(`Transfer-Encoding ${show(value)}`, 'refused', false);
  },
  oldChunks(random, request) {
    chunked(random, request).line.version = '1.0';
    request.odd('Transfer-Encoding in HTTP/1.0', 'refused', false);
  },
  size(random, request) {
    const { parts } = chunked(random, request).chunks;
    const part = random.chance(0.3) ? parts.at(-1) : random.pick(parts);
    const [digits] = /^[\da-f]*/i.exec(part.size);
    const change = random.pick(SIZES);
    part.size = `${change(digits)}\r\n`;
    frame(request, request.chunks);
    request.odd(`chunk size ${show(change(part === parts.at(-1) ? '0' : 'N'))}`);
  },
  end(random, request) {
    const { parts } = chunked(random, request).chunks;
    const part = random.pick(parts.slice(0, -1).length ? parts.slice(0, -1) : parts);
    part.end = random.pick(ENDS);
    frame(request, request.chunks);
    request.odd(`chunk ends in ${show(part.end)}`);
  },
  sizeLine(random, request) {
    const { parts } = chunked(random, request).chunks;
    const part = random.pick(parts);
    const end = random.pick(['\n', '\r', '', '\r\r\n', '\n\r\n', ' \r\n']);
    part.size = part.size.replace('\r\n', end);
    frame(request, request.chunks);
    request.odd(`size line ends in ${show(end)}`, 'either', false);
  },
  trailer(random, request) {
    const line = random.pick(TRAILERS);
    chunked(random, request).chunks.tail = `${random.chance(0.3) ? 'X-Sum: 1\r\n' : ''}${line}\r\n\r\n`;
    frame(request, request.chunks);
    request.odd(`trailer ${show(line)}`);
  },
  tail(random, request) {
    const tail = random.pick(TAILS);
    chunked(random, request).chunks.tail = tail;
    frame(request, request.chunks);
    request.odd(`body ends in ${show(tail)}`, 'either', false);
  },
  bytes(random, request) {
    request.odd('bytes changed', 'either', false).distortions.push(all => distort(random, all, request.id));
  },
  halved(random, request) {
    request.odd('cut short', 'either', false).distortions.push(all => all.subarray(0, random.int(all.length)));
  },
};

const PALETTE = [
  '\r', '\n', '\r\n', ' ', '\t', '\0', ':', ',', ';', '0', '5', '"', '\x80', '\xff', '\x0b', '\x7f', '_', '-', 'a', '/', '#', '\r\n\r\n',
  '\r\n ',
];

/** One to three changes of single bytes, anywhere but in the request's number. */
function distort(random, all, id) {
  let text = all.toString('latin1');
  for (let i = random.between(1, 3); i > 0; i--) {
    // Most in the head and in the first chunks: a body's bytes say nothing.
    const at = random.int(Math.min(text.length, 700));
    const number = text.indexOf(id);
    if (number >= 0 && at >= number && at < number + id.length) continue;
    const rest = text.slice(at);
    text = text.slice(0, at) + random.pick([
      () => random.pick(PALETTE) + rest, () => random.pick(PALETTE) + rest.slice(1), () => rest.slice(1), () => rest[0] + rest,
      () => rest.slice(1, 2) + rest[0] + rest.slice(2),
    ])();
  }
  return Buffer.from(text, 'latin1');
}

const WEIGHTS = {
  field: 8, line: 6, limits: 1, lead: 1, noHost: 1, length: 3, lengthWrong: 1, lengths: 1, both: 2, coding: 4, oldChunks: 1, size: 14, end: 2,
  sizeLine: 2,
  trailer: 14, tail: 3, bytes: 12, halved: 1,
};

/** One thing that is odd; sometimes two. */
export function distortRequest(random, request) {
  const kind = random.weighted(WEIGHTS);
  kinds[kind](random, request);
  if (random.chance(0.1) && ['size', 'trailer', 'end'].includes(kind)) {
    request.meaning = false;
    kinds[random.pick(['size', 'trailer', 'bytes'])](random, request);
  }
  return request;
}
