// Small requests, each of a kind that was once read in two ways, refused by a server, or that poisoned a connection for the next.

import { withChunks, withLength } from './bodies.mjs';
import { plain, written } from './request.mjs';

const SIZES = {
  'a space before the semicolon': '3 ;a=b', 'a tab before the semicolon': '3\t;a', 'a space behind the semicolon': '3; a=b',
  'spaces around =': '3;a = b',
  'an extension without a name': '3;', 'two semicolons': '3;;', 'a value without a name': '3;=b', 'a name without a value': '3;a=',
  'a quote alone': '3;"',
  'a quoted name': '3;"a"', 'an open quote': '3;a="b', 'text behind a quote': '3;a="b"c', 'two words': '3;a=b c', 'a quoted quote': '3;a="\\""',
  'a value of 8 bit': '3;a="\x80"', 'a bare CR in an extension': '3;a\rb', 'a bare LF in an extension': '3;a\nb', 'a sign': '+3', '0x': '0x3',
  'a space before': ' 3', 'a space behind': '3 ',
};
const TRAILERS = {
  'Content-Length': 'Content-Length: 5', 'Content-Length 0': 'Content-Length: 0', 'Content-Length that is no number': 'Content-Length: x',
  'Content-Length twice': 'Content-Length: 5\r\nContent-Length: 6', 'Transfer-Encoding': 'Transfer-Encoding: chunked',
  'Transfer-Encoding identity': 'Transfer-Encoding: identity',
  'Connection: close': 'Connection: close', 'Connection: upgrade': 'Connection: upgrade\r\nUpgrade: websocket',
  'Expect': 'Expect: 100-continue', 'Host': 'Host: evil.test',
  'X-Forwarded-For': 'X-Forwarded-For: 6.6.6.6', 'X_Real_IP': 'X_Real_IP: 6.6.6.6', 'Authorization': 'Authorization: x', '8 bit': 'X-Odd: \x80',
  'a NUL': 'X-Odd: a\0', 'a DEL': 'X-Odd: a\x7f',
  'a fold': 'X-Odd: a\r\n b', 'a bare LF': 'X-Odd: a\nb', 'a space before the colon': 'X-Odd : a', '5000 bytes': `X-Odd: ${'y'.repeat(5000)}`,
  '150 fields': Array.from({ length: 150 }, (_, i) => `X-${i}: a`).join('\r\n'),
};

/** The body `abc` in one chunk, and the last. */
const inChunks = ({ early, size = '3', last = '0', trailer }) => request => {
  if (early) request.add('X-Mode', 'soon');
  const parts = [{ size: `${size}\r\n`, data: Buffer.from('abc') }, { size: `${last}\r\n` }];
  return withChunks(request.odd(), { parts, tail: trailer === undefined ? '\r\n' : `${trailer}\r\n\r\n` });
};

/** Refused, or served and read alike. */
const chunked = Object.fromEntries([
  ...Object.entries(SIZES).flatMap(([name, line]) => [
    [`chunk size: ${name}`, inChunks({ size: line })],
    [`chunk size, answered early: ${name}`, inChunks({ early: true, size: line })],
    [`last chunk, answered early: ${name}`, inChunks({ early: true, last: line.replace('3', '0') })],
  ]),
  ...Object.entries(TRAILERS).flatMap(([name, line]) => [
    [`trailer: ${name}`, inChunks({ trailer: line })],
    [`trailer, answered early: ${name}`, inChunks({ early: true, trailer: line })],
  ]),
]);

/** [name, text, must]; `@` stands for the fields that lead to the server and number the request. */
const heads = [
  ['GET *', 'GET * HTTP/1.1\r\n@\r\n\r\n', 'refused'],
  ['a fragment', 'GET /a#b HTTP/1.1\r\n@\r\n\r\n', 'refused'],
  // h11 takes 20 digits.
  ['Content-Length of 23 digits', 'POST / HTTP/1.1\r\n@\r\nContent-Length: 00000000000000000000003\r\n\r\nabc', 'refused'],
  ['Content_Length', 'POST / HTTP/1.1\r\n@\r\nContent_Length: 3\r\n\r\nabc', 'refused'],
  ['Transfer_Encoding', 'POST / HTTP/1.1\r\n@\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n', 'refused'],
  ['a head of just 16 KiB', fill(16_384, 'GET / HTTP/1.1\r\n@\r\nX-Long: ~\r\n\r\n')],
  ['a head just over 16 KiB', fill(16_385, 'GET / HTTP/1.1\r\n@\r\nX-Long: ~\r\n\r\n'), 'refused'],
  ['100 fields', `GET / HTTP/1.1\r\n@\r\n${Array.from({ length: 98 }, (_, i) => `x-${i}: v\r\n`).join('')}\r\n`],
  ['a request line of just 8 KiB', fill(8192, 'GET /~ HTTP/1.1\r\n', '@\r\n\r\n')],
  ['HEAD with a body', 'HEAD / HTTP/1.1\r\n@\r\nContent-Length: 3\r\n\r\nabc'],
  ['Connection: close and keep-alive', 'GET / HTTP/1.1\r\n@\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n'],
  ['Expect twice', 'POST / HTTP/1.1\r\n@\r\nExpect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc'],
  ['Expect without a body', 'GET / HTTP/1.1\r\n@\r\nExpect: 100-continue\r\n\r\n'],
  ['an upgrade that the app does not know', 'GET / HTTP/1.1\r\n@\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n'],
  ['a small method', 'get / HTTP/1.1\r\n@\r\n\r\n'],
  ['a method of nobody', 'FROB / HTTP/1.1\r\n@\r\n\r\n'],
];

/** Such a text with `~` filled up, that the first part has `size` bytes; the numbers of requests and names of servers differ in length. */
function fill(size, first, rest = '') {
  return led => {
    const whole = first.replace('@', led);
    return whole.replace('~', 'l'.repeat(size - whole.length + 1)) + rest;
  };
}

/** Requests of which it is known what they mean; all must be served, and read so. */
const meant = {
  'two Connection': r => r.add('X-A', '1').add('X-B', '2').add('X-C', '3').add('Connection', 'x-a').add('Connection', 'x-b'),
  'an empty Connection before another': r => r.add('X-A', '1').add('Connection', '').add('Connection', 'x-a'),
  'a list in Connection': r => r.add('X-A', '1').add('X-B', '2').add('Connection', ',, x-b ,x-a,'),
  'an empty Host': r => set(r, 'Host', ''),
  'Host with an address': r => set(r, 'Host', '[::1]:80'),
  'absolute form without a path': r => target(r, `http://${r.host}`),
  'absolute form with a query alone': r => target(r, `HTTP://${r.host.toUpperCase()}?a`),
  'OPTIONS *': r => target(r, '*', 'OPTIONS'),
  'OPTIONS * and a body': r => withLength(target(r, '*', 'OPTIONS'), Buffer.from('abc')),
  'two slashes': r => target(r, '//'),
  'a broken address in the path': r => target(r, '//[x'),
  'all that is visible in a path': r => target(r, '/!"$%&\'()*+,-./09:;<=>@AZ[\\]^_`az{|}~'),
  'a value of 8 bit': r => r.add('X-A', '\x80\xff a'),
  'a tab in a value': r => r.add('X-A', 'a\tb'),
  'an odd name': r => r.add("!#$%&'*+-.^`|~", '1'),
  'Content-Length with zeros': r => {
    withLength(r, Buffer.from('abc')).fields.at(-1).value = '0000003';
    return r;
  },
  'chunks of one byte': r => withChunks(r, { parts: [...'abc'].map(c => ({ size: '1\r\n', data: Buffer.from(c) })).concat({ size: '0\r\n' }) }),
  'right extensions': r => withChunks(r, { parts: [{ size: '3;a=b;c="d e"\r\n', data: Buffer.from('abc') }, { size: '000;z\r\n' }] }),
  'harmless trailers': r => withChunks(r, { parts: [{ size: '3\r\n', data: Buffer.from('abc') }, { size: '0\r\n' }], tail: 'ETag: "x"\r\n\r\n' }),
  // gunicorn takes it for the proxy's word on where the app is mounted, and shortens the path.
  SCRIPT_NAME: r => r.add('SCRIPT_NAME', r.path),
  'HTTP/1.0 with keep-alive': r => {
    r.line.version = '1.0';
    return r.add('Connection', 'keep-alive');
  },
  ...Object.fromEntries([10_000, 100_000, 160_000, 300_000, 600_000, 2_000_000].flatMap(size => [
    [`${size} bytes, answered early`, r => withLength(r.add('X-Mode', 'early'), Buffer.alloc(size, 'x'))],
    [`${size} bytes, answered 3 ms later`, r => withLength(r.add('X-Mode', 'soon'), Buffer.alloc(size, 'x'))],
  ])),
  'chunks of 600000 bytes, answered early': r => {
    const parts = [{ size: `${(600_000).toString(16)}\r\n`, data: Buffer.alloc(600_000, 'x') }, { size: '0\r\n' }];
    return withChunks(r.add('X-Mode', 'early'), { parts });
  },
};
for (const name of [
  'X-Forwarded-For', 'X-Real-IP', 'X-Forwarded-Proto', 'X-Forwarded-Host', 'X-Forwarded-Port', 'Forwarded', 'X-Client-IP', 'True-Client-IP',
  'X-Forwarded-Ssl', 'X-Forwarded-Scheme',
  'X-Forwarded-Prefix', 'X-Forwarded-Protocol', 'X-Forwarded-Server', 'Front-End-Https', 'X-Cluster-Client-IP',
]) {
  const value = name === 'X-Forwarded-Ssl' || name === 'Front-End-Https' ? 'on' : 'ssl';
  meant[name] = r => r.add(name, value);
  meant[name.replaceAll('-', '_')] = r => r.add(name.replaceAll('-', '_'), value);
}

function set(request, name, value) {
  request.fields.find(field => field.name === name).value = value;
  return request;
}

function target(request, text, method = 'GET') {
  Object.assign(request.line, { target: text, method });
  return request;
}

/** `make(id, server)` makes one for a server. */
export const fixed = [
  ...heads.map(([name, text, must]) => ({
    name, make: (id, server) => written(id, server, typeof text === 'function' ? text(`Host: ${server}.test\r\nX-Case: ${id}`) : text, must),
  })),
  ...Object.entries({ ...chunked, ...meant }).map(([name, change]) => ({ name, make: (id, server) => change(plain(id, server, { method: 'POST' })) })),
].map(({ name, make }) => ({
  name,
  make(id, server) {
    const request = make(id, server);
    request.labels.push(name);
    return request;
  },
}));
