// WebSocket echo, and raw upgrades that do what a WebSocket library never would.
const http = require('node:http');
const { WebSocketServer } = require('ws');
const answerPid = require('./pid.js');

const received = new Map();
const server = http.createServer((req, res) => {
  if (answerPid(req, res)) return;
  const url = new URL(req.url, 'http://x');
  if (url.pathname === '/received') return res.end(received.get(url.searchParams.get('id')) ?? '');
  if (url.pathname === '/open') return res.end(String(sockets.clients.size));
  res.end('plain');
});

const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });
sockets.on('connection', (socket, req) => {
  const url = new URL(req.url, 'http://x');
  if (url.searchParams.has('hello')) socket.send(JSON.stringify({ pid: process.pid, address: req.socket.remoteAddress }));
  socket.on('message', (data, binary) => {
    if (data.toString() === 'die') process.kill(process.pid, 'SIGKILL');
    if (data.toString() === 'close 4001') return socket.close(4001, 'as asked');
    if (data.toString() === 'terminate') return socket.terminate();
    socket.send(data, { binary });
  });
  socket.on('error', () => {});
});

const SWITCHED = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n';

const upgrades = {
  '/ws': (req, socket, head) => sockets.handleUpgrade(req, socket, head, ws => sockets.emit('connection', ws, req)),

  '/refuse': (req, socket) => {
    const body = 'no sockets for you';
    socket.end(`HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: ${body.length}\r\nX-Why: test\r\n\r\n${body}`);
  },

  // Bytes in the same write as the 101, then whatever comes is echoed.
  '/eager': (req, socket, head) => {
    socket.write(`${SWITCHED}eager bytes;`);
    socket.write(head);
    socket.pipe(socket);
  },

  // When the client has finished: some last bytes, long after.
  '/last-words': (req, socket) => {
    socket.write(SWITCHED);
    let bytes = 0;
    socket.on('data', chunk => (bytes += chunk.length));
    socket.on('end', () => setTimeout(() => socket.end(`last words after ${bytes} bytes`), 300));
  },

  // Finishes sending first, and goes on reading.
  '/first-end': (req, socket) => {
    const id = new URL(req.url, 'http://x').searchParams.get('id');
    socket.end(`${SWITCHED}that is all`);
    let text = '';
    socket.on('data', chunk => (text += chunk));
    socket.on('end', () => received.set(id, `${text}, end`));
  },

  '/flood': (req, socket) => {
    const kib = Number(new URL(req.url, 'http://x').searchParams.get('kib'));
    socket.write(SWITCHED);
    const block = Buffer.alloc(1024, 'f');
    let sent = 0;
    const more = () => {
      while (sent < kib) {
        sent++;
        if (!socket.write(block)) return socket.once('drain', more);
      }
      socket.end();
    };
    more();
  },

  '/silent': () => {},
};

server.on('upgrade', (req, socket, head) => {
  socket.on('error', () => {});
  const upgrade = upgrades[new URL(req.url, 'http://x').pathname];
  if (upgrade) upgrade(req, socket, head);
  else socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n');
});
server.listen({ port: Number(process.env.PORT ?? 3000), backlog: 1024 });
