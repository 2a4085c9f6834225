// An app with habits, named in HABITS: what a supervisor has to cope with.
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');
const answerPid = require('./pid.js');

const habits = new Set((process.env.HABITS ?? '').split(' '));

if (process.env.BOOTS) fs.appendFileSync(process.env.BOOTS, `${Date.now()} ${process.env.NODE_APP_INSTANCE} ${process.pid}\n`);
if (habits.has('fails') && !fs.existsSync(process.env.FLAG)) {
  console.log('about to start');
  console.error('cannot start: no database at db.example');
  process.exit(7);
}
if (habits.has('grandchild')) spawn('sleep', ['600'], { stdio: 'ignore' });
if (habits.has('stubborn')) for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => console.log('ignoring', signal));
// Both stay although their server has closed.
if (habits.has('stubborn') || habits.has('tells')) setInterval(() => {}, 60_000);
if (habits.has('tells')) {
  process.on('message', message => console.log('got message', message));
  process.on('SIGTERM', () => {
    console.log('got SIGTERM');
    process.exit(0);
  });
}
if (habits.has('leaves')) setTimeout(() => process.exit(0), 300);

const server = http.createServer((req, res) => {
  if (answerPid(req, res)) return;
  const url = new URL(req.url, 'http://x');
  if (url.pathname === '/slow') return setTimeout(() => res.end('slow'), Number(url.searchParams.get('ms')));
  if (url.pathname === '/begin') {
    res.write('begun\n');
    return setTimeout(() => res.end('ended'), Number(url.searchParams.get('ms')));
  }
  res.end(JSON.stringify({ main: server.address(), second: second?.address() ?? null, env: process.env, title: process.title, sends: typeof process.send, connected: process.connected }));
});

let second;
if (habits.has('second-first')) listenSecond();
server.listen(process.env.PORT ?? 3000, () => {
  console.log('listening');
  if (habits.has('second')) listenSecond();
  if (habits.has('ready-by-flag')) {
    const poll = setInterval(() => {
      if (!fs.existsSync(process.env.FLAG)) return;
      clearInterval(poll);
      process.send('ready');
    }, 20);
  }
});

function listenSecond() {
  second = http.createServer((req, res) => res.end('second'));
  second.listen(Number(process.env.SECOND ?? 4000), '127.0.0.1', () => console.log('second listening'));
}
