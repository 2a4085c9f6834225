// What lib/siege.mjs talks to: it numbers all it says, checks the numbers of all it is told, and writes down at once, in the
// file NOTES, what it carried out and what was wrong. So an account can be made even of a worker that was killed.
const { createHash } = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const { Server } = require('socket.io-4');
const { WebSocketServer } = require('ws');
const answerPid = require('./pid.js');
const { pattern, numbered, Count } = require('./numbers.js');

const note = (...words) => fs.appendFileSync(process.env.NOTES, `${process.pid} ${words.join(' ')}\n`);
const wrong = what => note('wrong', what);

/** One client's numbers, both ways. */
class Talk {
  constructor(name) {
    this.name = name;
    this.sent = 0;
    this.count = new Count(text => wrong(`${name}: ${text}`));
    note('begin', name);
  }

  /** Says something every so often, until it is told to be still. 0 is never. */
  every(ms, say) {
    if (ms > 0) this.timer = setInterval(() => planted(++this.sent, say), ms);
  }

  still() {
    clearInterval(this.timer);
  }

  account() {
    this.still();
    return { pid: process.pid, got: this.count.last, sent: this.sent, wrong: this.count.wrong };
  }

  /** The connection has ended; `fine` says whether the client wanted that. */
  end(fine, why) {
    this.still();
    if (!fine) wrong(`${this.name}: ended by ${why} after ${this.count.last} from and ${this.sent} to the client`);
  }
}

// Faults that a siege must see, in messages 5 and 6.
const PLANT = process.env.PLANT ?? '';
const plants = {
  gap: (n, say) => n === 5 || say(n),
  double: (n, say) => [n, ...(n === 5 ? [n] : [])].forEach(n => say(n)),
  swap: (n, say) => say(n === 5 ? 6 : n === 6 ? 5 : n),
  damage: (n, say) => say(n, n === 5 ? n + 1 : n),
};
const planted = plants[PLANT] ?? ((n, say) => say(n));

const drip = (res, pieces, ms, piece, last) => {
  let n = 0;
  const timer = setInterval(() => {
    res.write(piece(n++));
    if (n < pieces) return;
    clearInterval(timer);
    res.end(last);
  }, ms);
  res.on('close', () => {
    clearInterval(timer);
    if (!res.writableFinished) wrong(`${res.req.url}: the client left after ${n} of ${pieces} pieces`);
  });
};

const routes = {
  // A request with an id is carried out once.
  '/ask': (req, res, query) => {
    const hash = createHash('sha256');
    req.on('data', chunk => hash.update(chunk));
    req.on('end', () => {
      if (req.method === 'POST') note('did', query.get('id'));
      if (PLANT === 'twice' && req.method === 'POST') note('did', query.get('id'));
      setTimeout(() => res.end(`${query.get('id')} ${process.pid} ${hash.digest('hex')}`), Number(query.get('ms') ?? 0));
    });
  },

  '/download': (req, res, query) => {
    const pieces = Number(query.get('pieces'));
    const size = Number(query.get('size'));
    if (!query.has('chunked')) res.setHeader('content-length', pieces * size);
    drip(res, pieces, Number(query.get('ms')), n => pattern(`${query.get('id')}/${n}`, size));
  },

  '/events': (req, res, query) => {
    res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
    drip(res, Number(query.get('count')), Number(query.get('ms')), n => `data: ${n + 1}\n\n`, 'event: end\ndata:\n\n');
  },

  '/print': (req, res, query) => {
    const from = Number(query.get('from') ?? 1);
    const filler = 'x'.repeat(Number(query.get('size') ?? 0));
    for (let n = from; n < from + Number(query.get('times')); n++) process.stdout.write(`${numbered('asked', n)} ${filler}\n`);
    res.end(String(process.pid));
  },

  '/env': (req, res) => res.end(JSON.stringify({ pid: process.pid, env: process.env })),

  '/exit': (req, res, query) => {
    res.end(String(process.pid));
    setTimeout(() => process.exit(Number(query.get('code') ?? 1)), 20);
  },
};

const server = http.createServer((req, res) => {
  if (answerPid(req, res)) return;
  const url = new URL(req.url, 'http://x');
  const route = routes[url.pathname];
  if (route) return route(req, res, url.searchParams);
  res.statusCode = 404;
  res.end('not here');
});

const io = new Server(server, {
  perMessageDeflate: false,
  destroyUpgrade: false,
  allowEIO3: true,
  // A poll without news waits this long at most: a proxy that is to go waits for it.
  pingInterval: Number(process.env.PING_MS ?? 3000),
  pingTimeout: 60_000,
});
io.on('connection', socket => {
  const { name, every } = socket.handshake.query;
  const talk = new Talk(name);
  let bye = false;
  socket.emit('hello', { pid: process.pid });
  talk.every(Number(every), (n, of = n) => socket.emit('down', n, pattern(`down ${of}`, 20).toString()));
  socket.on('up', (n, text, ack) => {
    talk.count.take(n, text === pattern(`up ${n}`, 20).toString());
    ack({ pid: process.pid, n });
  });
  socket.on('account', ack => {
    bye = true;
    ack(talk.account());
  });
  socket.on('disconnect', why => talk.end(bye, why));
});

const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: 1 << 24 });
sockets.on('connection', (socket, query) => {
  const size = Number(query.get('size') ?? 20);
  const binary = size > 1000;
  const talk = new Talk(query.get('name'));
  let bye = false;
  socket.on('error', error => wrong(`${talk.name}: ${error.message}`));
  socket.on('message', data => {
    if (data.length < 20 && data.toString() === 'account') {
      bye = true;
      return socket.send(`account ${JSON.stringify(talk.account())}`);
    }
    const { n, whole } = numbered.read(data);
    talk.count.take(n, whole);
  });
  socket.on('close', code => talk.end(bye, `close code ${code}`));
  socket.send(`hello ${process.pid}`);
  talk.every(Number(query.get('every')), (n, of = n) => socket.send(numbered.message(n, size, of), { binary }));
});

server.on('upgrade', (req, socket, head) => {
  const { pathname, searchParams } = new URL(req.url, 'http://x');
  if (pathname !== '/ws') return;
  const accept = () => sockets.handleUpgrade(req, socket, head, ws => sockets.emit('connection', ws, searchParams));
  socket.on('error', error => wrong(`${searchParams.get('name')}: ${error.message}`));
  setTimeout(accept, Number(searchParams.get('late') ?? 0));
});

// A worker's output, numbered: some lines long, some written in two halves with a pause between.
let lines = 0;
let second = '';
function print() {
  if (second) return;
  const text = numbered.line(++lines);
  const half = lines % 5 ? text.length : Math.floor(text.length / 2);
  second = text.slice(half);
  process.stdout.write(text.slice(0, half));
  if (second) setTimeout(() => process.stdout.write(second, () => (second = '')), 25);
}

const start = () =>
  server.listen(Number(process.env.PORT ?? 3000), () => {
    console.log(`listening after ${Math.round(performance.now())} ms`);
    if (process.env.LINES_MS) setInterval(print, Number(process.env.LINES_MS));
  });

// Ways to start: slowly, or not at all while a file says so.
if (process.env.FLAG && fs.existsSync(process.env.FLAG)) {
  console.error('cannot start: the flag is up');
  process.exit(7);
}
setTimeout(start, process.env.SLOW_FLAG && fs.existsSync(process.env.SLOW_FLAG) ? Number(fs.readFileSync(process.env.SLOW_FLAG, 'utf8')) : 0);
