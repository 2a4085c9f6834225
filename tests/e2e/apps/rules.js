// The app of the table of rules: each route answers a request and an upgrade alike, so that one rule can be asked on
// every path. What an upgrade gets instead of a body goes through its tunnel; `x-tunnel` says how long it is.
const fs = require('node:fs');
const http = require('node:http');
const http2 = require('node:http2');
const answerPid = require('./pid.js');

const LIFE = 60_000;
/** It speaks HTTP/2, and nothing else. */
const TWO = process.env.PROTOCOL === 'http2';
const waiting = new Map();
const states = new Map();
const held = { now: 0, most: 0 };

/** A request or an upgrade, and the ways to answer it. */
class Asked {
  constructor(req, socket, res) {
    Object.assign(this, { req, socket, res });
    this.query = new URL(req.url, 'http://x').searchParams;
    this.hints = '';
  }

  get name() {
    return this.query.get('name');
  }

  /** 200 is a 101 for an upgrade. */
  answer(status, headers = {}, body = '') {
    if (this.res) {
      this.res.writeHead(status, headers);
      return this.res.end(body);
    }
    const length = Buffer.byteLength(body);
    const all = status === 200
      ? { Upgrade: 'websocket', Connection: 'Upgrade', 'X-Tunnel': length, ...headers }
      : { 'Content-Length': length, Connection: 'close', ...headers };
    this.socket.end(`${this.hints}${head(status === 200 ? 101 : status, all)}${body}`);
  }

  json(value) {
    this.answer(200, { 'Content-Type': 'application/json' }, JSON.stringify(value));
  }

  /** Bytes as they are, then the end of the connection. */
  raw(text) {
    this.socket.end(text);
  }

  /** Begins an answer, with a length or without, and ends the connection. */
  cut(headers) {
    if (!TWO) return this.raw(`${head(this.res ? 200 : 403, headers)}${headers['Content-Length'] ? '' : '3e8\r\n'}half of it`);
    this.res.writeHead(200, headers['Content-Length'] ? headers : {});
    this.res.write('half of it', () => setTimeout(() => this.leave(), 50));
  }

  /** Ends the connection. */
  leave() {
    if (TWO) this.req.stream.session.destroy();
    else this.socket.destroy();
  }

  /** The fields of the head as they came, those of HTTP/2 as HTTP/1 has them. */
  get fields() {
    if (!TWO) return this.req.rawHeaders;
    return this.req.rawHeaders.flatMap((name, i, raw) => (i % 2 || (name.startsWith(':') && name !== ':authority') ? [] : [name === ':authority' ? 'host' : name, raw[i + 1]]));
  }

  /** Writes down that this worker has it; returns how often it was written so far. */
  note() {
    fs.appendFileSync(process.env.NOTES, `${this.name} ${process.pid}\n`);
    return fs.readFileSync(process.env.NOTES, 'utf8').split('\n').filter(line => line.startsWith(`${this.name} `)).length;
  }
}

function head(status, headers) {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 ${status} ${http.STATUS_CODES[status]}\r\n${lines.join('')}\r\n`;
}

const routes = {
  '/ok': it => it.answer(200, { 'x-pid': process.pid }, 'fine'),
  // An upgrade's tunnel stays open.
  '/tunnel': it => (it.res ? it.answer(200, {}, 'fine') : it.socket.write(head(101, { Upgrade: 'websocket', Connection: 'Upgrade' }))),
  '/head': it => it.json({ method: it.req.method, url: it.req.url, raw: it.fields, pid: process.pid }),

  '/upload': it => {
    let bytes = 0;
    it.req.on('data', chunk => (bytes += chunk.length));
    it.req.on('end', () => it.json({ bytes, encoding: it.req.headers['transfer-encoding'] ?? null, trailers: it.req.trailers }));
  },

  '/status': it => it.answer(Number(it.query.get('code')), { 'x-pid': process.pid }, 'as asked'),
  '/big': it => it.answer(200, { 'content-length': it.query.get('bytes') }, Buffer.alloc(Number(it.query.get('bytes')), 'b')),
  '/cookies': it => {
    if (!it.res) return it.raw('HTTP/1.1 403 Forbidden\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nno');
    it.answer(200, { 'set-cookie': ['a=1', 'b=2'] }, 'cookies');
  },

  // Begins its answer, and ends it later.
  '/pause': it => {
    const rest = () => (it.res ?? it.socket).end('the rest');
    if (it.res) it.res.writeHead(200).flushHeaders();
    else it.socket.write(head(101, { Upgrade: 'websocket', Connection: 'Upgrade', 'X-Tunnel': 8 }));
    setTimeout(rest, Number(it.query.get('ms')));
  },
  '/trailers': it => {
    it.res.writeHead(200, { Trailer: 'X-Sum' });
    it.res.write('body');
    it.res.addTrailers({ 'X-Sum': '4' });
    it.res.end();
  },
  // Fields that are for the proxy alone.
  '/hop': it => {
    const fields = { 'X-Secret': '1', 'Keep-Alive': 'timeout=77', 'Proxy-Connection': 'keep-alive' };
    it.answer(200, { ...fields, Connection: it.res ? 'keep-alive, X-Secret' : 'Upgrade, X-Secret' }, 'fine');
  },

  // Answers without reading the body.
  '/refuse': it => it.answer(403, {}, 'refused'),

  // As much at once as there is; `/most` tells, and begins anew.
  '/held': it => {
    held.most = Math.max(held.most, ++held.now);
    setTimeout(() => {
      held.now--;
      it.answer(200, {}, 'held');
    }, Number(it.query.get('ms')));
  },
  '/most': it => {
    it.answer(200, {}, String(held.most));
    held.most = held.now;
  },

  // Silent until `/go` says so; `/state` tells whether the other side has left.
  '/hang': it => {
    states.set(it.name, 'open');
    const over = () => states.set(it.name, 'closed');
    it.socket.on('close', over);
    it.socket.on('error', over);
    // An upgrade's socket is no longer read by Node.js, and only a reader sees the end.
    if (!it.res) it.socket.on('end', over).resume();
    it.req.resume();
    waiting.set(it.name, () => it.answer(200, {}, `${process.pid}`));
  },
  '/go': it => {
    waiting.get(it.name)?.();
    it.answer(200, {}, 'gone on');
  },
  '/state': it => it.answer(200, {}, states.get(it.name) ?? 'unknown'),

  // Deaf and dumb for a while: the event loop stands still.
  '/block': it => {
    it.note();
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number(it.query.get('ms')));
    it.answer(200, {}, `${process.pid}`);
  },

  // Asks the proxy the same again, with the fields that it was asked with, until it has been here so often.
  '/again': it => {
    if (it.note() >= Number(it.query.get('most'))) return it.answer(200, {}, 'enough');
    const asked = http.get({ port: it.query.get('port'), path: it.req.url, headers: it.fields, agent: false }, res => {
      res.resume().on('end', () => it.answer(res.statusCode, {}, 'asked again'));
    });
    asked.on('error', error => it.answer(500, {}, error.message));
  },

  // The first worker that gets it ends the connection and lives on.
  '/drop': it => {
    if (it.note() === 1) return it.leave();
    it.answer(200, {}, `${process.pid}`);
  },
  // Whoever gets it dies.
  '/die': it => {
    it.note();
    process.kill(process.pid, 'SIGKILL');
  },

  // What a worker should not say.
  '/garbage': it => it.raw('this is not HTTP\r\n\r\n'),
  '/cut': it => it.cut({ 'Content-Length': 1000 }),
  '/cut-chunked': it => it.cut({ 'Transfer-Encoding': 'chunked' }),
  '/broken-chunk': it => it.raw(`${head(it.res ? 200 : 403, { 'Transfer-Encoding': 'chunked' })}no size\r\nhalf of it`),
  '/switch': it => it.raw(`${head(101, { Upgrade: 'h2c', Connection: 'Upgrade' })}not HTTP any more`),
  '/framed': it => {
    const code = Number(it.query.get('code'));
    it.raw(head(code, it.query.has('chunked') ? { 'Transfer-Encoding': 'chunked' } : { 'Content-Length': 5 }));
  },
  '/hint': it => {
    if (it.res) it.res.writeEarlyHints({ link: '</style.css>; rel=preload' });
    else it.hints = head(103, { Link: '</style.css>; rel=preload' });
    it.answer(200, {}, 'late');
  },
  // A second answer that nobody asked for. It is noted when it is out.
  '/surplus': it => {
    const out = () => it.note();
    const surplus = `${head(299, { 'Content-Length': 7 }).replace('undefined', 'Surplus')}surplus`;
    if (!it.res) return it.socket.end(`${head(403, { 'Content-Length': 3 })}own${surplus}`, out);
    it.answer(200, { 'content-length': 3 }, 'own');
    it.socket.write(it.req.method === 'HEAD' ? `own${surplus}` : surplus, out);
  },
};

function serve(req, socket, res) {
  if (res && answerPid(req, res)) return;
  if (!res && process.env.ENGINE && req.url.startsWith('/socket.io/')) return;
  const it = new Asked(req, socket, res);
  if (req.method === 'OPTIONS') return it.json({ method: req.method, url: req.url, raw: it.fields });
  const route = routes[new URL(req.url, 'http://x').pathname];
  if (route) return route(it);
  it.answer(404, {}, 'not here');
}

const server = TWO
  ? http2.createServer((req, res) => serve(req, req.stream.on('error', () => {}), res)).on('sessionError', () => {})
  : http.createServer((req, res) => serve(req, req.socket, res));
server.on('upgrade', (req, socket) => {
  socket.on('error', () => {});
  serve(req, socket);
});
server.keepAliveTimeout = LIFE;

if (process.env.ENGINE) {
  // Socket.IO beside the routes: what is asked of a session may be a route's too.
  const { Server } = require('socket.io-4');
  const io = new Server(server, { perMessageDeflate: false, pingInterval: Number(process.env.PING ?? 25_000) });
  io.on('connection', socket => socket.emit('hello', { pid: process.pid }));
  io.engine.on('headers', headers => (headers['x-pid'] = process.pid));
  const doomed = req => {
    if (new URL(req.url, 'http://x').searchParams.get('route') !== 'die') return;
    fs.appendFileSync(process.env.NOTES, `${new URL(req.url, 'http://x').searchParams.get('name')} ${process.pid}\n`);
    process.kill(process.pid, 'SIGKILL');
  };
  server.prependListener('request', doomed);
  server.prependListener('upgrade', doomed);
}
server.listen(process.argv[2] ?? Number(process.env.PORT ?? 3000));
