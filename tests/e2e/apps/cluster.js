// Two processes that share a server, by node:cluster.
const cluster = require('node:cluster');
const http = require('node:http');
const answerPid = require('./pid.js');

if (cluster.isPrimary) {
  cluster.fork();
  cluster.fork();
  // Nobody else ends them when this one is killed: they notice by the channel.
} else {
  process.on('disconnect', () => process.exit(0));
  http.createServer((req, res) => answerPid(req, res) || res.writeHead(404).end()).listen(3000);
}
