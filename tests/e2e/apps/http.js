// A plain HTTP app with a route for each behaviour that the tests look at.
const { createHash } = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const answerPid = require('./pid.js');

const streams = new Map();
const hanging = new Map();

/** The bytes of /big, the same in the test: block i is sha256(i) repeated to 1 KiB. */
function block(i) {
  const digest = createHash('sha256').update(String(i)).digest();
  return Buffer.concat(Array(32).fill(digest));
}

const routes = {
  '/slow': (req, res, query) => setTimeout(() => res.end(`slow ${process.pid}`), Number(query.get('ms'))),

  // The body flows back while it still comes in.
  '/echo': (req, res) => {
    res.setHeader('content-type', 'application/octet-stream');
    req.pipe(res);
  },

  '/upload': (req, res) => {
    const hash = createHash('sha256');
    let bytes = 0;
    req.on('data', chunk => {
      bytes += chunk.length;
      hash.update(chunk);
    });
    req.on('end', () => json(res, { bytes, sha256: hash.digest('hex'), encoding: req.headers['transfer-encoding'] ?? null }));
  },

  // Notes in a file that a request arrived, before anything else can happen to this process.
  '/note': (req, res, query) => {
    fs.appendFileSync(process.env.NOTES, `${process.pid} ${query.get('id')}\n`);
    req.resume();
    req.on('end', () => setTimeout(() => res.end(String(process.pid)), Number(query.get('ms') ?? 0)));
  },

  '/big': (req, res, query) => {
    const blocks = Number(query.get('kib'));
    if (!query.has('chunked')) res.setHeader('content-length', blocks * 1024);
    let i = 0;
    const more = () => {
      while (i < blocks) if (!res.write(block(i++))) return res.once('drain', more);
      res.end();
    };
    more();
  },

  '/head': (req, res) => {
    const { remoteAddress, remotePort, remoteFamily } = req.socket;
    json(res, {
      method: req.method, url: req.url, version: req.httpVersion, headers: req.headers, raw: req.rawHeaders,
      remoteAddress, remotePort, remoteFamily, pid: process.pid,
    });
  },

  '/env': (req, res) => json(res, { pid: process.pid, title: process.title, uid: process.getuid(), env: process.env, cwd: process.cwd(), umask: process.umask() }),

  '/status': (req, res, query) => {
    const code = Number(query.get('code'));
    res.writeHead(code, { 'x-pid': process.pid });
    res.end(code === 204 || code === 304 ? undefined : `status ${code}`);
  },

  '/cookies': (req, res) => {
    res.setHeader('set-cookie', ['a=1; Path=/', 'b=2; HttpOnly', 'c=3']);
    res.end('cookies');
  },

  // An event stream whose next event is sent by POST /sse-next, so a test needs no clock.
  '/sse': (req, res, query) => {
    res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
    res.write('data: 1\n\n');
    let count = 1;
    streams.set(query.get('id'), () => res.write(`data: ${++count}\n\n`));
  },
  '/sse-next': (req, res, query) => {
    streams.get(query.get('id'))();
    res.end('sent');
  },

  // Never answers; /gone tells when the client has left.
  '/hang': (req, res, query) => {
    hanging.set(query.get('id'), 'open');
    res.on('close', () => hanging.set(query.get('id'), 'closed'));
    req.resume();
    if (query.has('head')) {
      res.writeHead(200);
      res.write('begun\n');
    }
  },
  '/gone': (req, res, query) => res.end(hanging.get(query.get('id')) ?? 'unknown'),

  // Ways to break: before an answer, in the middle of one, by an exception, by exit.
  '/crash': (req, res, query) => {
    const how = query.get('how');
    if (how === 'reset') return req.socket.destroy();
    if (how === 'throw') throw new Error('crash by request');
    if (how === 'exit') process.exit(3);
    if (how === 'garbage') return req.socket.end('this is not HTTP\r\n\r\n');
    if (how === 'middle') {
      res.writeHead(200, { 'content-length': 1000 });
      return res.write('half of it', () => process.kill(process.pid, 'SIGKILL'));
    }
    if (how === 'middle-chunked') {
      res.writeHead(200);
      return res.write('half of it', () => process.kill(process.pid, 'SIGKILL'));
    }
    process.kill(process.pid, 'SIGKILL');
  },

  '/early': (req, res) => {
    res.writeEarlyHints({ link: '</style.css>; rel=preload' });
    res.end('late');
  },

  // Answers and closes without reading the body.
  '/refuse': (req, res) => {
    res.writeHead(413, { connection: 'close' });
    res.end('too much');
  },

  '/print': (req, res, query) => {
    const stream = query.get('stream') === 'stderr' ? process.stderr : process.stdout;
    const line = `${(query.get('text') ?? 'x'.repeat(99)).repeat(Number(query.get('repeat') ?? 1))}\n`;
    const times = Number(query.get('times') ?? 1);
    const started = performance.now();
    for (let i = 0; i < times; i += 1000) stream.write(line.repeat(Math.min(1000, times - i)));
    // An empty write is done when all before it have left this process.
    stream.write('', () => json(res, { bytes: line.length * times, ms: performance.now() - started }));
  },
};

function json(res, value) {
  res.setHeader('content-type', 'application/json');
  res.end(JSON.stringify(value));
}

function answer(req, res) {
  if (answerPid(req, res)) return;
  const url = new URL(req.url, 'http://x');
  const route = routes[url.pathname];
  if (route) return route(req, res, url.searchParams);
  res.statusCode = 404;
  res.end('not here');
}

const server = http.createServer(answer);
server.on('checkContinue', (req, res) => {
  if (!req.url.startsWith('/refuse')) res.writeContinue();
  answer(req, res);
});
server.listen(Number(process.env.PORT ?? 3000), () => console.log(`listening after ${Math.round(performance.now())} ms`));
process.on('message', message => console.log('message', JSON.stringify(message)));
