// As the documentation of Socket.IO has it for a cluster of its own, with polling.
const cluster = require('cluster');
const http = require('http');
const { Server } = require('socket.io');
const { setupMaster, setupWorker } = require('@socket.io/sticky');
const { createAdapter, setupPrimary } = require('@socket.io/cluster-adapter');

if (cluster.isPrimary) {
  const httpServer = http.createServer();
  setupMaster(httpServer, { loadBalancingMethod: 'least-connection' });
  setupPrimary();
  cluster.setupPrimary({ serialization: 'advanced' });
  httpServer.listen(process.env.PORT || 3000);
  for (let i = 0; i < 2; i++) cluster.fork();
  cluster.on('exit', () => cluster.fork());
} else {
  const httpServer = http.createServer((request, response) => {
    response.setHeader('content-type', 'text/plain');
    response.end(`a worker of ${cluster.isWorker ? 'a cluster' : 'nobody'}\n`);
  });
  const io = new Server(httpServer);
  io.adapter(createAdapter());
  setupWorker(io);
  io.on('connection', socket => {
    socket.on('echo', (data, answer) => answer(data));
    socket.on('tell everybody', data => io.emit('told', data));
  });
}
