// Closes its server at SIGTERM, finishes what is open and ends by itself, as good apps do.
const http = require('node:http');
const answerPid = require('./pid.js');

const server = http.createServer((req, res) => {
  if (!answerPid(req, res)) res.writeHead(404).end();
});
server.listen(3000);
process.on('SIGTERM', () => server.close(() => process.exit(0)));
