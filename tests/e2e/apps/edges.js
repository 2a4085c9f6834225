// Raw upgrades and requests that stand still in awkward places until the test says `/go`.
const { createHash } = require('node:crypto');
const http = require('node:http');
const { WebSocketServer } = require('ws');
const answerPid = require('./pid.js');
const { pattern } = require('./numbers.js');

const BLOCK = 1024;
const waiting = new Map();
const results = new Map();
const name = url => url.searchParams.get('name');

const routes = {
  '/ask': (req, res, url) => {
    const hash = createHash('sha256');
    req.on('data', chunk => hash.update(chunk));
    req.on('end', () => setTimeout(() => res.end(`${name(url)} ${process.pid} ${hash.digest('hex')}`), Number(url.searchParams.get('ms') ?? 0)));
  },
  '/go': (req, res, url) => {
    waiting.get(name(url))?.();
    res.end('gone');
  },
  '/result': (req, res, url) => res.end(results.get(name(url)) ?? ''),
  '/address': (req, res) => res.end(`${req.socket.remoteAddress} ${req.headers['x-forwarded-for']}`),
};

const server = http.createServer((req, res) => {
  if (answerPid(req, res)) return;
  const url = new URL(req.url, 'http://x');
  const route = routes[url.pathname];
  if (route) return route(req, res, url);
  res.statusCode = 404;
  res.end('not here');
});
// The body is asked for later.
server.on('checkContinue', (req, res) => {
  const url = new URL(req.url, 'http://x');
  waiting.set(name(url), () => {
    res.writeContinue();
    routes['/ask'](req, res, url);
  });
});

const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: 1 << 24 });
sockets.on('connection', (socket, url) => {
  socket.on('error', error => results.set(name(url), error.message));
  socket.on('close', code => results.set(name(url), `closed with ${code}`));
  socket.on('message', (data, binary) => socket.send(data, { binary }));
  // Big messages all the time.
  const size = Number(url.searchParams.get('flow') ?? 0);
  if (!size) return;
  let n = 0;
  const timer = setInterval(() => socket.bufferedAmount < 4 * size && socket.send(pattern(++n, size)), 5);
  socket.on('close', () => clearInterval(timer));
});

const SWITCHED = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n';

const upgrades = {
  '/ws': (req, socket, head, url) => sockets.handleUpgrade(req, socket, head, ws => sockets.emit('connection', ws, url)),

  // So many numbered blocks, as fast as they are taken.
  '/numbers': (req, socket, head, url) => {
    const kib = Number(url.searchParams.get('kib'));
    socket.write(SWITCHED);
    let n = 0;
    const more = () => {
      while (n < kib) if (!socket.write(pattern(++n, BLOCK))) return socket.once('drain', more);
      socket.end();
    };
    more();
  },

  // Reads nothing before it is told to; then says what it got.
  '/sluggish': (req, socket, head, url) => {
    const hash = createHash('sha256').update(head);
    let bytes = head.length;
    socket.pause();
    socket.write(SWITCHED);
    waiting.set(name(url), () => {
      socket.on('data', chunk => {
        bytes += chunk.length;
        hash.update(chunk);
      });
      socket.on('end', () => socket.end(`${bytes} ${hash.digest('hex')}`));
      socket.resume();
    });
  },

  // The client has finished; last words when it is told to.
  '/last-words': (req, socket, head, url) => {
    socket.write(SWITCHED);
    let text = head.toString();
    socket.on('data', chunk => (text += chunk));
    socket.on('end', () => {
      socket.write('end seen;');
      waiting.set(name(url), () => socket.end(`last words after ${text}`));
    });
  },

  // Finishes first, and goes on reading.
  '/first-end': (req, socket, head, url) => {
    socket.end(`${SWITCHED}that is all`);
    let text = '';
    socket.on('data', chunk => (text += chunk));
    socket.on('end', () => results.set(name(url), `${text}, end`));
  },
};

server.on('upgrade', (req, socket, head) => {
  socket.on('error', () => {});
  const url = new URL(req.url, 'http://x');
  upgrades[url.pathname]?.(req, socket, head, url);
});
server.listen(Number(process.env.PORT ?? 3000));
