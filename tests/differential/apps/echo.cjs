// Says what it has read of each request, and keeps account of all of them. Runs on Node.js 18 and newer.

'use strict';

const http = require('node:http');
const { createHash } = require('node:crypto');

const SERVER = process.env.SERVER;
const MAX_COMPLAINTS = 2000;
/** The proxy ended the connection: no complaint. */
const ENDS = ['ECONNRESET', 'EPIPE', 'HPE_INVALID_EOF_STATE'];
let connections = 0;
/** By the request's own number: how often it began, and how often its body was whole. */
let seen = new Map();
/** What Node itself refused. */
let complaints = [];
let complained = 0;

const server = http.createServer((req, res) => {
  if (req.url === '/report' && req.headers['x-report'] === 'yes') return report(res);
  const socket = req.socket;
  socket.number ??= ++connections;
  socket.requests = (socket.requests ?? 0) + 1;
  const id = req.headers['x-case'] ?? 'none';
  socket.last = id;
  const count = seen.get(id) ?? { begun: 0, ended: 0 };
  seen.set(id, count);
  count.begun += 1;
  const hash = createHash('sha1');
  let length = 0;
  const mode = req.headers['x-mode'];
  const early = mode === 'early' || mode === 'soon';
  const say = () => echo(req, res, early ? {} : { length, sha1: hash.digest('hex'), trailers: req.rawTrailers });
  if (mode === 'early') say();
  else if (mode === 'soon') setTimeout(say, 3);
  if (early) return undefined;
  req.on('data', chunk => {
    length += chunk.length;
    hash.update(chunk);
  });
  req.on('end', () => {
    count.ended += 1;
    say();
  });
  req.on('error', () => {});
  return undefined;
});

function echo(req, res, body) {
  const read = {
    server: SERVER, id: req.headers['x-case'] ?? 'none', connection: req.socket.number, nth: req.socket.requests,
    method: req.method, target: req.url, version: req.httpVersion, fields: req.rawHeaders, ...body,
  };
  const text = JSON.stringify(read);
  // A HEAD's answer has no other place.
  const headers = { 'X-Echo': req.method === 'HEAD' ? encodeURIComponent(text) : '1' };
  res.writeHead(200, { ...headers, 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) });
  res.end(text);
}

function report(res) {
  const text = JSON.stringify({ seen: Object.fromEntries(seen), complaints, complained });
  seen = new Map();
  complaints = [];
  complained = 0;
  res.setHeader('X-Echo', '1');
  res.end(text);
}

// As Node does without a handler, but noted.
server.on('clientError', (error, socket) => {
  if (!ENDS.includes(error.code)) {
    complained += 1;
    if (complaints.length < MAX_COMPLAINTS) {
      const at = Math.max(0, (error.bytesParsed ?? 0) - 60);
      const near = error.rawPacket?.subarray(at, at + 300).toString('latin1');
      complaints.push({ code: error.code, last: socket.last ?? 'none', near });
    }
  }
  const status = { HPE_HEADER_OVERFLOW: '431 Request Header Fields Too Large', ERR_HTTP_REQUEST_TIMEOUT: '408 Request Timeout' };
  if (socket.writable && (!socket._httpMessage || !socket._httpMessage._headerSent)) {
    socket.write(`HTTP/1.1 ${status[error.code] ?? '400 Bad Request'}\r\nConnection: close\r\n\r\n`);
  }
  socket.destroy();
});

server.listen(3000);
