// GET /hold?mb=200 keeps so much memory, /block?ms=200 blocks the event loop so long in every 300 ms; 0 ends either.

const http = require('node:http');
const answerPid = require('./pid.js');

let held = [];
let block = 0;
setInterval(() => {
  const end = performance.now() + block;
  while (performance.now() < end);
}, 300);

http
  .createServer((req, res) => {
    if (answerPid(req, res)) return;
    const url = new URL(req.url, 'http://x');
    if (url.pathname === '/hold') held = Array.from({ length: Number(url.searchParams.get('mb')) }, () => Buffer.alloc(1 << 20, 1));
    if (url.pathname === '/block') block = Number(url.searchParams.get('ms'));
    if (global.gc) global.gc();
    res.end(String(held.length));
  })
  .listen(3000);
