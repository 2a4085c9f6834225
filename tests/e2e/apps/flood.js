// GET /flood?mbs=50 makes the worker of slot 0 write so many megabytes a second, /flood?mbs=0 ends it.

const http = require('node:http');
const answerPid = require('./pid.js');

const LINE = `${'x'.repeat(99)}\n`;
let perSecond = 0;
let written = 0;
let due = 0;
let last = performance.now();
setInterval(() => {
  const now = performance.now();
  due = Math.min(due + (perSecond * (now - last)) / 1000, perSecond / 4);
  last = now;
  while (due >= LINE.length) {
    const lines = Math.min(200, Math.floor(due / LINE.length));
    process.stdout.write(LINE.repeat(lines));
    written += lines;
    due -= lines * LINE.length;
  }
}, 5);

http
  .createServer((req, res) => {
    if (answerPid(req, res)) return;
    const url = new URL(req.url, 'http://x');
    if (url.pathname === '/flood' && process.env.NODE_APP_INSTANCE === '0') {
      perSecond = Number(url.searchParams.get('mbs')) * 1e6;
      due = 0;
    }
    res.setHeader('content-type', 'application/json');
    res.end(JSON.stringify({ pid: process.pid, slot: process.env.NODE_APP_INSTANCE, written }));
  })
  .listen(3000);
