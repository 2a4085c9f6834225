// Tells what it was asked for, on any path; an upgrade is answered the same way, in its answer's field x-mirror.
const http = require('node:http');

const seen = req => JSON.stringify({ app: process.env.NAME, method: req.method, url: req.url, headers: req.headers });

const server = http.createServer((req, res) => {
  if (req.url.startsWith('/slow')) return;
  if (req.url.startsWith('/fail')) return req.socket.destroy();
  let bytes = 0;
  req.on('data', chunk => (bytes += chunk.length));
  req.on('end', () => {
    res.setHeader('Content-Type', 'application/json');
    res.setHeader('X-Bytes', bytes);
    res.end(seen(req));
  });
});
server.on('upgrade', (req, socket) => {
  socket.on('error', () => {});
  socket.end(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Mirror: ${Buffer.from(seen(req)).toString('base64')}\r\n\r\n`);
});
server.listen(process.env.PORT || 3000);
