// Heads that are unusual and right: each must be served, and read as it was meant.

import { withLength } from './bodies.mjs';

const TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const VISIBLE = Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i)).join('');
const VALUE = `${VISIBLE}  \t${Array.from({ length: 128 }, (_, i) => String.fromCharCode(128 + i)).join('')}`;
const PATH = VISIBLE.replace('#', '').replace('?', '');
const TARGETS = [
  '', '/', '//', '/.', '/..', '/../..', '/%00', '/%2e%2e/', '/a;b=c', '/a:b', '/*', '/a//b', '?', '??', '?a=b&c', '?a?b/c', '/%',
  '/%zz', '/"<>', '/\\', '/^`{|}', "/'()", '?[]', '/@', '/a=1;b', '?a=%0d%0aX:%20y', '/~', '/;', '/http://other.test/',
];
const HOSTS = [
  '', 'localhost', '127.0.0.1', '127.0.0.1:80', '[::1]', '[::1]:8080', '[::ffff:1.2.3.4]', 'A_b.Example', 'x:', 'x.test.', "a!$&'()*+,;=b",
  'a%41', 'x:00080',
];
const FORWARDED = [
  'X-Forwarded-For', 'X-Real-IP', 'X-Forwarded-Proto', 'X-Forwarded-Host', 'X-Forwarded-Port', 'Forwarded', 'X-Client-IP', 'True-Client-IP',
  'X-Forwarded-Ssl', 'X-Forwarded-Scheme', 'X-Forwarded-Prefix', 'X-Forwarded-Protocol', 'X-Forwarded-Server',
  'Front-End-Https', 'X-Cluster-Client-IP',
];
const FORWARDED_VALUES = ['6.6.6.6', 'https', 'on', 'for=6.6.6.6;proto=https', 'evil.test', '/evil', 'ssl', '443'];
const REPEATED = ['X-A', 'x-a', 'Accept', 'Cookie', 'Referer', 'Via', 'From'];
const UNDERSCORED = [
  'x_a', 'X_Case_', '_', 'a_b-c', ...FORWARDED.map(name => name.replaceAll('-', '_')), 'X-Forwarded_For', 'x_real-ip', 'Host_', 'User_Agent', 'SCRIPT_NAME',
  'PATH_INFO',
];
const CONNECTIONS = [
  'x-named', 'X-Other', 'x-named, x-other', ',, x-third ,', 'keep-alive', 'x-absent', 'X-Named,keep-alive', '', ' ,',
];
const HOP_BY_HOP = [['Keep-Alive', 'timeout=5'], ['Proxy-Connection', 'keep-alive'], ['TE', 'trailers'], ['Upgrade', 'h2c'], ['Upgrade', 'foo/1']];

const variations = {
  casing(random, request) {
    for (const field of request.fields) field.name = random.casing(field.name);
  },
  blanks(random, request) {
    for (const field of request.fields) {
      field.before = random.pick(['', ' ', '\t', '   ', ' \t ']);
      field.after = random.pick(['', '', ' ', '\t', '  \t']);
    }
  },
  names(random, request) {
    for (let i = random.between(1, 4); i > 0; i--) request.add(`x${random.text(random.between(1, 12), TOKEN.replace('_', ''))}`, 'v');
  },
  values(random, request) {
    for (let i = random.between(1, 4); i > 0; i--) request.add(random.pick(['X-A', 'X-B', 'x-a']), random.text(random.between(0, 40), VALUE).trim());
  },
  repeated(random, request) {
    for (let i = random.between(2, 5); i > 0; i--) request.add(random.pick(REPEATED), random.pick(['1', '2', 'a, b', '']));
  },
  many(random, request) {
    while (request.fields.length < random.between(60, 95)) request.add(`x-${request.fields.length}`, 'v');
  },
  long(random, request) {
    request.add('X-Long', 'l'.repeat(random.between(1000, 11_000)));
  },
  underscores(random, request) {
    for (let i = random.between(1, 3); i > 0; i--) {
      request.add(random.pick(UNDERSCORED), random.pick(FORWARDED_VALUES));
    }
  },
  forwarded(random, request) {
    for (let i = random.between(1, 3); i > 0; i--) request.add(random.casing(random.pick(FORWARDED)), random.pick(FORWARDED_VALUES));
  },
  connection(random, request) {
    request.add('X-Named', '1').add('X-Other', '2').add('X-Third', '3');
    for (let i = random.between(1, 2); i > 0; i--) {
      request.add('Connection', random.pick(CONNECTIONS));
    }
  },
  hop(random, request) {
    for (let i = random.between(1, 3); i > 0; i--) request.add(...random.pick(HOP_BY_HOP));
  },
  close(random, request) {
    request.add('Connection', random.pick(['close', 'Close', 'x, close', 'close, keep-alive']));
  },
  emptyLines(random, request) {
    request.lead = '\r\n'.repeat(random.between(1, 2));
  },
  expect(random, request) {
    request.add('Expect', random.casing('100-continue'));
  },
  target(random, request) {
    const chance = () => `/${random.text(random.between(1, 20), PATH)}?${random.text(random.between(0, 9), VISIBLE.replace('#', ''))}`;
    const odd = random.chance(0.5) ? random.pick(TARGETS) : chance();
    request.line.target = random.chance(0.5) ? `${request.path}${odd}` : odd.startsWith('/') ? odd : `/${odd}`;
  },
  longTarget(random, request) {
    request.line.target += `?${'q'.repeat(random.between(1000, 7500))}`;
  },
  absolute(random, request) {
    const rest = random.pick(['', '/', '?', '?a', '/a?b', '//', `${request.path}/x`]);
    request.line.target = `${random.casing('http')}://${random.casing(request.host)}${rest}`;
  },
  host(random, request) {
    request.fields.find(({ name }) => /^host$/i.test(name)).value = random.pick(HOSTS);
    request.line.target = `${request.path}${random.pick(['', '/x', '?y'])}`;
  },
  asterisk(random, request) {
    request.line.method = 'OPTIONS';
    request.line.target = '*';
  },
  method(random, request) {
    request.line.method = random.pick(['PROPFIND', 'SEARCH', 'M-SEARCH', 'LINK', 'REPORT', 'MKCOL', 'TRACE', 'PURGE', 'SUBSCRIBE']);
  },
  old(random, request) {
    request.line.version = '1.0';
    if (random.chance(0.3)) request.fields = request.fields.filter(({ name }) => !/^host$/i.test(name));
    if (random.chance(0.5)) request.add('Connection', 'keep-alive');
  },
  zero(random, request) {
    withLength(request, Buffer.alloc(0), random);
  },
};

// Not together with another of the same kind.
const LINES = ['target', 'longTarget', 'absolute', 'host', 'asterisk'];
const WEIGHTS = {
  casing: 4, blanks: 4, names: 3, values: 4, repeated: 3, many: 1, long: 1, underscores: 3, forwarded: 3, connection: 3, hop: 2, close: 1,
  emptyLines: 2, expect: 1, target: 5, longTarget: 1, absolute: 3, host: 3, asterisk: 1, method: 1, old: 2,
};

/** None to three unusual things. The body is given afterwards. */
export function vary(random, request) {
  const chosen = new Set();
  for (let i = random.weighted({ 0: 3, 1: 5, 2: 3, 3: 1 }); i > 0; i--) chosen.add(random.weighted(WEIGHTS));
  const lines = LINES.filter(name => chosen.has(name));
  for (const name of lines.slice(1)) chosen.delete(name);
  if (lines.length > 0) chosen.delete('old');
  if (chosen.has('asterisk')) chosen.delete('method');
  // Together they would go beyond the limit of a head.
  if (chosen.has('longTarget')) chosen.delete('long');
  // First what names fields of its own, then what changes all of them.
  for (const name of [...chosen].sort((a, b) => (a === 'casing' || a === 'blanks') - (b === 'casing' || b === 'blanks'))) {
    variations[name](random, request);
    request.labels.push(name);
  }
  return request;
}
