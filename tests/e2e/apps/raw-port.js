// A program that takes a raw TCP port beside its socket, and cannot start when that is taken: node raw-port.js SOCKET PORT
const http = require('node:http');
const net = require('node:net');
const [, , socket, port] = process.argv;

net.createServer(connection => connection.end(`${process.pid}\n`)).listen(Number(port), '127.0.0.1', () => {
  const server = http.createServer((req, res) => setTimeout(() => res.end(String(process.pid)), 5));
  server.listen(socket);
  process.once('SIGTERM', () => {
    server.close();
    process.exit(0);
  });
});
