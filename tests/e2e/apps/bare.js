// A worker without the preload script: it listens on the socket that it is told, and nothing else is known of it.
const http = require('node:http');

http
  .createServer((req, res) => {
    const ms = Number(new URL(req.url, 'http://x').searchParams.get('ms') ?? 0);
    setTimeout(() => res.end(String(process.pid)), ms);
  })
  .listen(process.argv[2]);
