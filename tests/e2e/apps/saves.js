// A Socket.IO app whose server is the last thing that keeps it alive. When it is told to end, it saves what it has.
const fs = require('node:fs');
const http = require('node:http');
const { Server } = require('socket.io-4');
const answerPid = require('./pid.js');

const server = http.createServer((req, res) => answerPid(req, res) || res.writeHead(404).end());
new Server(server).on('connection', socket => socket.emit('hello'));
process.on('SIGTERM', () => {
  fs.appendFileSync(process.env.SAVED, `${process.pid}\n`);
  process.exitCode = 0;
});
server.listen(3000);
