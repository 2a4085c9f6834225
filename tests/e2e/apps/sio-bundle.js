// Entry of the bundled app: the test has esbuild put all of it, engine included, into one file.
const http = require('node:http');
const { Server } = require('socket.io-4');
const answerPid = require('./pid.js');
const serve = require('./sio-events.js');

const server = http.createServer((req, res) => {
  if (!answerPid(req, res)) res.end('bundle');
});
serve(new Server(server));
server.listen(process.env.PORT ?? 3000);
