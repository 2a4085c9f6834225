// A worker that speaks HTTP/2 without TLS, and nothing else, on the socket that it is told.
const http2 = require('node:http2');

let connections = 0;
const json = (res, value) => res.end(JSON.stringify(value));
const settings = process.env.WINDOW ? { initialWindowSize: Number(process.env.WINDOW) } : {};
const server = http2.createServer({ settings }, (req, res) => {
  const url = new URL(req.url, 'http://x');
  const routes = {
    '/pid': () => res.end(String(process.pid)),
    '/room': () => res.end(String(process.pid)),
    // Which of all connections to all workers, once the request is whole.
    '/connection': () => req.resume().on('end', () => res.end(`${process.pid} ${(req.stream.session.number ??= ++connections)}`)),
    '/head': () => json(res, { method: req.method, url: req.url, authority: req.authority, version: req.httpVersion, headers: req.headers, pid: process.pid }),
    '/slow': () => setTimeout(() => res.end('slow'), Number(url.searchParams.get('ms'))),
    '/pause': () => {
      res.write('first, ');
      setTimeout(() => res.end('then the rest'), Number(url.searchParams.get('ms')));
    },
    '/echo': () => {
      res.stream.respond({ ':status': 200 });
      req.pipe(res.stream);
    },
    '/upload': () => {
      let bytes = 0;
      req.on('data', chunk => (bytes += chunk.length));
      req.on('end', () => json(res, { bytes, length: req.headers['content-length'] ?? null, trailers: req.trailers }));
    },
    '/big': () => res.end(Buffer.alloc(Number(url.searchParams.get('kib')) * 1024, 'x')),
    '/status': () => {
      res.statusCode = Number(url.searchParams.get('code'));
      res.end();
    },
    '/trailers': () => {
      res.write('body');
      res.addTrailers({ 'x-sum': '42' });
      res.end();
    },
    '/cut': () => {
      res.stream.respond({ ':status': 200 });
      // Destroyed by an error, a stream is reset with INTERNAL_ERROR.
      res.stream.write('half of it', () => setTimeout(() => res.stream.destroy(new Error('cut')), 50));
    },
    '/refused': () => res.stream.destroy(new Error('refused')),
    '/cookies': () => {
      res.setHeader('set-cookie', ['a=1', 'b=2']);
      res.end();
    },
  };
  const route = routes[url.pathname.replace(/^\/room\/.*/, '/room')];
  if (route) return route();
  res.statusCode = 404;
  res.end('not here');
});
server.on('stream', stream => stream.on('error', () => {}));
server.on('sessionError', () => {});
server.listen(process.argv[2]);
