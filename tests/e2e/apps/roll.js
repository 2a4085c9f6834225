// One app for what a fleet goes through: HTTP, Socket.IO and WebSockets on one server, and ways to become unwell.
// A release of it sets globalThis.RELEASE before it loads this file.
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { Server } = require('socket.io-4');
const { WebSocketServer } = require('ws');
const answerPid = require('./pid.js');
const serve = require('./sio-events.js');

const slot = Number(process.env.NODE_APP_INSTANCE ?? 0);
const release = globalThis.RELEASE ?? 'none';
const flag = name => process.env.FLAGS !== undefined && fs.existsSync(path.join(process.env.FLAGS, `${name}.${slot}`));
const kept = [];

function spin(ms) {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

// Those that harm the worker answer first: the caller knows whom it has hit, and no request waits for it.
const routes = {
  '/release': (res, query) => res.end(JSON.stringify({ pid: process.pid, release, slot, cwd: process.cwd(), main: process.argv[1] })),
  '/slow': (res, query) => setTimeout(() => res.end(String(process.pid)), Number(query.get('ms'))),
  '/burn': (res, query) => {
    spin(Number(query.get('ms')));
    res.end(String(process.pid));
  },
  '/spin': (res, query) => {
    res.end(String(process.pid));
    setTimeout(spin, 50, Number(query.get('ms')));
  },
  '/leak': (res, query) => {
    kept.push(Buffer.alloc(Number(query.get('mb')) << 20, 1));
    res.end(String(process.pid));
  },
  '/hog': (res, query) => {
    res.end(String(process.pid));
    hog(Number(query.get('mb')), Number(query.get('ms')));
  },
  // The pid is only for the log of whoever asks; a check looks at the status.
  '/healthz': res => {
    res.statusCode = flag('sick') ? 500 : 200;
    res.end(String(process.pid));
  },
};

/** Writes so many MB a second of lines of 100 bytes. */
function hog(mb, ms) {
  const line = `${'x'.repeat(99)}\n`;
  const block = line.repeat(Math.round((mb * 1e6) / 100 / 50));
  const end = performance.now() + ms;
  const timer = setInterval(() => {
    process.stdout.write(block);
    if (performance.now() > end) clearInterval(timer);
  }, 20);
}

const server = http.createServer((req, res) => {
  if (answerPid(req, res)) return;
  const url = new URL(req.url, 'http://x');
  const route = routes[url.pathname];
  if (route) return route(res, url.searchParams);
  res.statusCode = 404;
  res.end('not here');
});
serve(new Server(server, { perMessageDeflate: false, destroyUpgrade: false }));

const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });
sockets.on('connection', socket => {
  socket.on('error', () => {});
  socket.on('message', data => socket.send(data));
  socket.send(String(process.pid));
});
server.on('upgrade', (req, socket, head) => {
  if (req.url.startsWith('/ws')) sockets.handleUpgrade(req, socket, head, ws => sockets.emit('connection', ws));
});
server.listen(Number(process.env.PORT ?? 3000), () => console.log(`release ${release} listening after ${Math.round(performance.now())} ms`));

if (process.env.CRASH_SLOT === String(slot)) {
  setTimeout(() => {
    console.error(`slot ${slot} loses its mind`);
    process.exit(1);
  }, Number(process.env.CRASH_MS));
}
