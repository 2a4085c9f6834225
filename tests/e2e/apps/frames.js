// What the tables of HTTP/2 frames ask: small answers, bodies both ways, and answers that break off.
const http = require('node:http');
const answerPid = require('./pid.js');

const json = (res, value) => res.end(JSON.stringify(value));

const routes = {
  '/head': (req, res) => json(res, { method: req.method, url: req.url, headers: req.headers, raw: req.rawHeaders }),
  '/status': (req, res, query) => {
    const code = Number(query.get('code'));
    res.writeHead(code);
    res.end(code === 204 || code === 304 ? undefined : `status ${code}`);
  },
  '/slow': (req, res, query) => setTimeout(() => res.end('slow'), Number(query.get('ms'))),
  '/echo': (req, res) => {
    res.flushHeaders();
    req.pipe(res);
  },
  '/upload': (req, res) => {
    let bytes = 0;
    req.on('data', chunk => (bytes += chunk.length));
    req.on('end', () => json(res, { bytes, encoding: req.headers['transfer-encoding'] ?? null, trailers: req.trailers }));
  },
  '/hang': (req, res, query) => query.has('unread') || req.resume(),
  '/big': (req, res, query) => {
    const body = Buffer.alloc(Number(query.get('kib')) * 1024, 'x');
    if (!query.has('chunked')) res.setHeader('content-length', body.length);
    res.write(body.subarray(0, 1024));
    res.end(body.subarray(1024));
  },
  '/early': (req, res) => {
    res.writeEarlyHints({ link: '</style.css>; rel=preload' });
    res.end('late');
  },
  // Answers and closes without reading the body.
  '/refuse': (req, res) => {
    res.writeHead(413, { connection: 'close' });
    res.end('too much');
  },
  // Promises 1,000 bytes, or a last chunk, and ends before it.
  '/cut': (req, res, query) => {
    res.writeHead(200, query.has('chunked') ? {} : { 'content-length': 1000 });
    res.write('half of it', () => setTimeout(() => req.socket.destroy(), 50));
  },
  '/trailers': (req, res) => {
    res.writeHead(200, { trailer: 'x-sum' });
    res.write('body');
    res.addTrailers({ 'x-sum': '42' });
    res.end();
  },
};

const server = http.createServer((req, res) => {
  if (answerPid(req, res)) return;
  if (req.url === '*') return routes['/head'](req, res);
  const url = new URL(req.url, 'http://x');
  const route = routes[url.pathname];
  if (route) return route(req, res, url.searchParams);
  res.statusCode = 404;
  res.end('not here');
});
server.keepAliveTimeout = 0;
server.listen(Number(process.env.PORT ?? 3000));
