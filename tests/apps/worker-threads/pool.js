// The server is in the main thread, the work in others.
const http = require('http');
const os = require('os');
const path = require('path');
const { Worker } = require('worker_threads');

const pool = Array.from({ length: Math.min(2, os.cpus().length) }, () => new Worker(path.join(__dirname, 'fib.js')));
const waiting = new Map();
let next = 0;
for (const worker of pool) {
  worker.on('message', ({ id, result, thread }) => {
    waiting.get(id)({ result, thread });
    waiting.delete(id);
  });
}

const run = n =>
  new Promise(resolve => {
    const id = next++;
    waiting.set(id, resolve);
    pool[id % pool.length].postMessage({ id, n });
  });

http
  .createServer(async (request, response) => {
    const n = Number(new URL(request.url, 'http://zoo').searchParams.get('n') ?? 10);
    const { result, thread } = await run(n);
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ result, inThread: thread > 0 }));
  })
  .listen(process.env.PORT || 3000);
