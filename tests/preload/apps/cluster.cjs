const cluster = require('cluster');
const http = require('http');
if (cluster.isPrimary) {
  cluster.fork();
  cluster.fork();
} else {
  http
    .createServer((req, res) => res.end(`${process.pid} ${req.socket.remoteAddress}`))
    .listen(3000, () => http.createServer().listen(4000));
}
