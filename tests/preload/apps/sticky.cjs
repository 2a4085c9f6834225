// A cluster whose primary listens and hands the connections on, as @socket.io/sticky does.
const cluster = require('cluster');
const http = require('http');

if (cluster.isPrimary) {
  const worker = cluster.fork();
  const server = http.createServer();
  server.removeAllListeners('connection');
  server.on('connection', (socket) => {
    socket.once('data', (data) => worker.send({ data: data.toString('latin1') }, socket));
  });
  server.listen(3000);
} else {
  const server = http.createServer((_, response) => response.end('worker'));
  new (require('socket.io').Server)(server);
  process.on('message', (message, socket) => {
    if (!socket) return;
    server.emit('connection', socket);
    socket.emit('data', Buffer.from(message.data, 'latin1'));
    socket.resume();
  });
}
