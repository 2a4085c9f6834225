// node:cluster as its documentation has it.
const cluster = require('node:cluster');
const http = require('node:http');

if (cluster.isPrimary) {
  for (let i = 0; i < 2; i++) cluster.fork();
  cluster.on('exit', worker => console.log(`worker ${worker.process.pid} died`));
} else {
  http
    .createServer((request, response) => {
      response.setHeader('content-type', 'text/plain');
      response.end('a worker of a cluster\n');
    })
    .listen(Number(process.env.PORT) || 8000);
}
