const http = require('http');
http
  .createServer((req, res) => res.end(`${process.pid} ${req.socket.remoteAddress}`))
  .listen(3000, () => http.createServer().listen(4000));
