'use strict';

// A plain Socket.IO chat. It knows nothing of a proxy: `node server.js` serves it on port 3000.
// Behind pingora-unix-proxy several copies of it run at once, and each shows which one it is.

const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { Server } = require('socket.io');

const LIMITS = {
  name: 24, // characters
  message: 500, // characters
  history: 50, // messages kept for people who come later
  listed: 100, // people named in the list; beyond that only the number grows
  burst: 8, // messages somebody may send at once ...
  perSecond: 2, // ... and then this many a second
};

const worker = { slot: process.env.NODE_APP_INSTANCE ?? null, pid: process.pid };

// The page: read once, served from memory, nothing else of the disk can be asked for.
const page = (file, type) => ({ type, body: fs.readFileSync(path.join(__dirname, 'public', file)) });
const FILES = new Map([
  ['/', page('index.html', 'text/html; charset=utf-8')],
  ['/chat.css', page('chat.css', 'text/css; charset=utf-8')],
  ['/chat.js', page('chat.js', 'text/javascript; charset=utf-8')],
  ['/icon.svg', page('icon.svg', 'image/svg+xml')],
]);
const HEADERS = {
  'Cache-Control': 'no-cache',
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws: wss:; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
};

function answer(req, res) {
  const file = FILES.get(req.url.split('?', 1)[0]);
  const status = !file ? 404 : req.method === 'GET' || req.method === 'HEAD' ? 200 : 405;
  const { type, body } =
    status === 200 ? file : { type: 'text/plain; charset=utf-8', body: Buffer.from(`${http.STATUS_CODES[status]}\n`) };
  const allow = status === 405 ? { Allow: 'GET, HEAD' } : {};
  res.writeHead(status, { ...HEADERS, ...allow, 'Content-Type': type, 'Content-Length': body.length });
  res.end(body);
}

const server = http.createServer(answer);
const io = new Server(server, { maxHttpBufferSize: 16 * 1024 });

const people = new Map(); // socket id -> name
const history = [];
let messages = 0;

// What people type: a string of printable characters, cut to a length; '' for anything else.
function clean(value, length, { lines = false } = {}) {
  if (typeof value !== 'string') return '';
  // Control and direction characters go; U+200D stays, it glues emoji together.
  const hidden = lines ? /(?![\n\u200d])[\p{Cc}\p{Cf}]/gu : /(?!\u200d)[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;
  const text = value.slice(0, length * 8).normalize('NFC').replace(hidden, lines ? '' : ' ');
  const tidy = lines ? text.replace(/\n{3,}/g, '\n\n') : text.replace(/\s+/g, ' ');
  return Array.from(tidy.trim()).slice(0, length).join('').trim();
}

// The name somebody asks for; with a mark behind it when somebody else on this worker has it.
function freeName(wish, id) {
  const name = clean(wish, LIMITS.name) || `Guest ${id.slice(0, 4)}`;
  for (const [other, used] of people) {
    if (other !== id && used.toLowerCase() === name.toLowerCase()) return `${name} (${id.slice(0, 4)})`;
  }
  return name;
}

// A bucket of tokens: true while somebody may still speak.
function speech() {
  let tokens = LIMITS.burst;
  let last = Date.now();
  return () => {
    const now = Date.now();
    tokens = Math.min(LIMITS.burst, tokens + ((now - last) / 1000) * LIMITS.perSecond);
    last = now;
    if (tokens < 1) return false;
    tokens -= 1;
    return true;
  };
}

io.on('connection', (socket) => {
  const mayAct = speech();
  const me = { id: socket.id, name: freeName(socket.handshake.auth?.name, socket.id) };
  people.set(me.id, me.name);

  socket.emit('welcome', {
    worker,
    you: me,
    online: people.size,
    people: Array.from(people, ([id, name]) => ({ id, name })).slice(-LIMITS.listed),
    history,
    limits: { name: LIMITS.name, message: LIMITS.message },
  });
  socket.broadcast.emit('joined', { ...me, online: people.size });

  socket.on('message', (text, done) => {
    if (typeof done !== 'function') return;
    const body = clean(text, LIMITS.message, { lines: true });
    if (!body) return done({ error: 'There is nothing to send.' });
    if (!mayAct()) return done({ error: 'Too many messages at once. Wait a moment.' });
    const message = { id: ++messages, from: { ...me }, text: body, at: Date.now() };
    history.push(message);
    if (history.length > LIMITS.history) history.shift();
    socket.broadcast.emit('message', message);
    done({ message });
  });

  socket.on('rename', (wish, done) => {
    if (typeof done !== 'function') return;
    if (!clean(wish, LIMITS.name)) return done({ error: 'A name needs at least one letter.' });
    if (!mayAct()) return done({ error: 'Too many changes at once. Wait a moment.' });
    me.name = freeName(wish, me.id);
    people.set(me.id, me.name);
    socket.broadcast.emit('renamed', { ...me });
    done({ name: me.name });
  });

  socket.on('disconnect', () => {
    people.delete(me.id);
    socket.broadcast.emit('left', { id: me.id, name: me.name, online: people.size });
  });
});

server.listen(process.env.PORT || 3000, () => {
  const { port } = server.address();
  console.log(`chat listens on port ${port} (pid ${worker.pid})`);
});

// Asked to stop: say goodbye to everybody, then end. A browser may hold connections open that carry nothing.
process.once('SIGTERM', () => {
  io.close();
  setTimeout(() => server.closeAllConnections(), 500).unref();
});
