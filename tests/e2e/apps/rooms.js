// The server of y-websocket, as its users write it: a room is the path. Beside it, how many are in a room.
const http = require('node:http');
const { WebSocketServer } = require('ws');
const { docs, setupWSConnection } = require('y-websocket/bin/utils');

const server = http.createServer((req, res) => {
  const room = decodeURIComponent(req.url.split(/[/?]/)[1]);
  const clients = docs.get(room)?.conns.size ?? 0;
  res.setHeader('content-type', 'application/json');
  res.end(JSON.stringify({ room, clients, pid: process.pid }));
});
const sockets = new WebSocketServer({ noServer: true });
server.on('upgrade', (req, socket, head) => {
  sockets.handleUpgrade(req, socket, head, connection => setupWSConnection(connection, req));
});
server.listen(3000);
