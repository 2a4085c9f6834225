// Answers each request with how many have come before it; `/ws` echoes.
const http = require('node:http');
const { WebSocketServer } = require('ws');
const answerPid = require('./pid.js');

let arrived = 0;
const server = http.createServer((req, res) => {
  if (answerPid(req, res)) return;
  const before = arrived++;
  req.resume();
  req.on('end', () => res.end(String(before)));
});

const sockets = new WebSocketServer({ server, perMessageDeflate: false });
sockets.on('connection', socket => socket.on('message', (data, binary) => socket.send(data, { binary })));

// Every client of a flood is to have its place.
server.listen({ port: process.env.PORT, backlog: 4096 });
