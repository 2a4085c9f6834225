// A Socket.IO server of the generation named in SIO (1 to 4), as its users write it.
const http = require('node:http');
const answerPid = require('./pid.js');
const serve = require('./sio-events.js');

const generation = Number(process.env.SIO ?? 4);
const path = process.env.SIO_PATH ?? '/socket.io';

const server = http.createServer((req, res) => {
  if (answerPid(req, res)) return;
  res.statusCode = 404;
  res.end('not here');
});

const library = require(`socket.io-${generation}`);
const options = { path, perMessageDeflate: false };
let io;
if (generation <= 2) io = library(server, options);
else io = new library.Server(server, { ...options, allowEIO3: true, cors: { origin: true, credentials: true } });
serve(io);
// Tells tests which worker answered, also on answers of the engine itself.
server.prependListener('request', (req, res) => res.setHeader('x-pid', process.pid));

server.listen(Number(process.env.PORT ?? 3000), () => console.log('listening', generation));
