// What a request meant, against what the server has read.

const HOP_BY_HOP = ['connection', 'keep-alive', 'proxy-connection', 'upgrade', 'te'];
/** Only the proxy may say these; a client's own words never pass. */
const FORWARDED = [
  'x-forwarded-for', 'x-real-ip', 'x-forwarded-proto', 'x-forwarded-host', 'x-forwarded-port', 'forwarded', 'x-client-ip', 'true-client-ip',
  'x-forwarded-ssl', 'x-forwarded-scheme', 'x-forwarded-prefix', 'x-forwarded-protocol', 'x-forwarded-server', 'front-end-https',
  'x-cluster-client-ip',
];
/** The proxy may answer or write these itself, or may leave them out. */
const FREE = ['content-length', 'transfer-encoding', 'expect', 'trailer'];
const TRAILERS = /^(content-length|transfer-encoding|host|connection|upgrade|expect|forwarded|x-forwarded-.*|x-real-ip|authorization|cookie)$/i;

const lower = text => text.toLowerCase();
const fold = text => lower(text).replaceAll('_', '-');
const trim = text => text.replace(/^[ \t]+|[ \t]+$/g, '');

/** The differences, each a short text; none when the server has read what was meant. */
export function differences(request, echo) {
  return [...head(request, echo), ...body(request, echo), ...trailers(echo)];
}

function head(request, { method, target, version, fields, server, scheme, mount }) {
  const found = [];
  const differ = (what, meant, read) => meant !== read && found.push(`${what}: ${JSON.stringify(read)} for ${JSON.stringify(meant)}`);
  differ('method', request.line.method, method);
  differ('target', queried(targetOf(request), server), queried(target, server));
  differ('version', request.line.version, version);
  if (server === 'gunicorn') differ('what WSGI believes', 'http, mounted at ""', `${scheme}, mounted at ${JSON.stringify(mount)}`);
  const read = [];
  let passes = 0;
  let ids = 0;
  for (let i = 0; i < fields.length; i += 2) {
    // The proxy's own name, against loops (RFC 8586).
    if (fold(lower(fields[i])) === 'cdn-loop' && /^pingora-unix-proxy-[0-9a-f]{8}$/.test(fields[i + 1])) passes++;
    else if (fold(lower(fields[i])) === 'x-request-id' && /^[0-9a-f]{32}$/.test(fields[i + 1])) ids++;
    else read.push([lower(fields[i]), fields[i + 1]]);
  }
  differ('names of the proxy in CDN-Loop', 1, passes);
  differ('ids of the request', 1, ids);
  const wsgi = server === 'gunicorn';
  found.push(...forwarded(request, read, wsgi));
  const given = read.filter(([name]) => !FREE.includes(fold(name)) && !FORWARDED.includes(fold(name)));
  const meant = meantFields(request);
  if (server === 'httptools') dropTrailers(request, given);
  const [a, b] = [listed(meant, wsgi), listed(given, wsgi)];
  for (let i = 0; i < Math.max(a.length, b.length); i++) {
    if (a[i] !== b[i]) {
      found.push(`field: ${JSON.stringify(b[i])} for ${JSON.stringify(a[i])}`);
      break;
    }
  }
  return found;
}

/** ASGI does not tell a query that is empty from none. */
const queried = (target, server) => (server === 'h11' || server === 'httptools' ? target.replace(/\?$/, '') : target);

function targetOf(request) {
  const absolute = /^https?:\/\/[^/?]*(.*)$/i.exec(request.line.target);
  if (!absolute) return request.line.target;
  return absolute[1].startsWith('/') ? absolute[1] : `/${absolute[1]}`;
}

/** Names with `_` are dropped: servers may read them as others, WSGI ones on Unix sockets even as the path (`PATH_INFO`). */
function meantFields(request) {
  const named = request.fields.filter(field => lower(field.name) === 'connection').flatMap(field => field.value.split(',').map(one => lower(trim(one))));
  return request.fields
    .map(field => [lower(field.name), trim(String(field.value))])
    .filter(([name]) => !HOP_BY_HOP.includes(name) && !named.includes(name) && !FORWARDED.includes(fold(name)) && !FREE.includes(fold(name)) && !name.includes('_'));
}

/** uvicorn adds trailers that come early to the fields. That is its own affair as long as they are harmless. */
function dropTrailers(request, given) {
  const lines = (request.chunks?.tail ?? '').split('\r\n').filter(Boolean).reverse();
  for (const line of lines) {
    const at = line.indexOf(':');
    const [name, value] = given.at(-1) ?? [];
    if (!TRAILERS.test(fold(line.slice(0, at))) && name === lower(line.slice(0, at)) && trim(value) === trim(line.slice(at + 1))) given.pop();
  }
}

/** WSGI joins what has one name when folded. */
function listed(fields, wsgi) {
  if (!wsgi) return fields.map(([name, value]) => `${name}: ${value}`);
  const joined = new Map();
  for (const [name, value] of fields) joined.set(fold(name), [...(joined.get(fold(name)) ?? []), value]);
  return [...joined].map(([name, values]) => `${name}: ${values.join(',')}`.replace(/[,;] ?/g, ',')).sort();
}

/** The port that a host names, else that of the scheme. */
function portOf(host) {
  const port = Number(/:(\d{1,5})$/.exec(host)?.[1] ?? 0);
  return String(port > 0 && port < 65_536 ? port : 80);
}

/** The proxy's own words: one of each, and nothing of the client's. */
function forwarded(request, read, wsgi) {
  const host = request.fields.find(({ name }) => lower(name) === 'host')?.value ?? /^https?:\/\/([^/?]*)/i.exec(request.line.target)?.[1] ?? '';
  const own = { 'x-forwarded-for': '127.0.0.1', 'x-real-ip': '127.0.0.1', 'x-forwarded-proto': 'http', 'x-forwarded-port': portOf(host), ...(host && { 'x-forwarded-host': lower(host) }) };
  const found = [];
  for (const name of FORWARDED) {
    const values = read.filter(([one]) => fold(one) === name).map(([one, value]) => `${wsgi ? fold(one) : one}: ${lower(value)}`);
    const wanted = own[name] === undefined ? [] : [`${name}: ${own[name]}`];
    if (values.join('\n') !== wanted.join('\n')) found.push(`forwarded ${name}: ${JSON.stringify(values)} for ${JSON.stringify(wanted)}`);
  }
  return found;
}

function body(request, { length, sha1 }) {
  // It answered without reading it.
  if (length === undefined) return [];
  const { payload } = request.body;
  if (length !== payload.length) return [`body: ${length} bytes for ${payload.length}`];
  return sha1 === request.sha1 ? [] : ['body: other bytes'];
}

/** Trailers that say something about the message, or for the proxy, must not come through. */
export function trailers({ trailers: fields = [] }) {
  return fields.filter((name, i) => i % 2 === 0 && (TRAILERS.test(fold(name)) || name.includes('_'))).map(name => `trailer: ${lower(name)}`);
}
