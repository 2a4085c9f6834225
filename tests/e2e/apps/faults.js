// An app as its users write it, with a route for each way in which a proxy in front of it once went wrong.
const fs = require('node:fs');
const http = require('node:http');
const answerPid = require('./pid.js');

const worker = JSON.parse(process.env.PINGORA_UNIX_PROXY_WORKER ?? '{}');
const note = text => process.env.NOTES && fs.appendFileSync(process.env.NOTES, `${process.pid} ${text}\n`);
const spin = ms => {
  for (const end = performance.now() + ms; performance.now() < end;);
};
/** Whether another process lives. One that is just being killed has a moment. */
const lives = pid => {
  for (const end = performance.now() + 50; performance.now() < end;) {
    try {
      if (/\) [ZX] /.test(fs.readFileSync(`/proc/${pid}/stat`, 'latin1'))) return false;
    } catch {
      return false;
    }
  }
  return true;
};
const json = (res, value) => {
  res.setHeader('content-type', 'application/json');
  res.end(JSON.stringify(value));
};

let active = 0;
let most = 0;
let applied = 0;
const arrived = [];

const routes = {
  '/tag': (req, res) => json(res, { pid: process.pid, tag: worker.tag }),
  '/fields': (req, res) => json(res, { method: req.method, url: req.url, raw: req.rawHeaders, headers: req.headers }),

  // Answers a body that it does not read, as any 401, 404 or 413 does, and is busy for a moment then.
  '/early': (req, res, query) =>
    setTimeout(() => {
      res.statusCode = Number(query.get('code') ?? 200);
      res.end('early');
      spin(Number(query.get('spin') ?? 0));
    }, 3),
  '/apply': (req, res) => {
    applied++;
    res.end('applied');
  },
  '/applied': (req, res) => res.end(String(applied)),

  '/upload': (req, res) => {
    let bytes = 0;
    req.on('data', chunk => (bytes += chunk.length));
    req.on('end', () => json(res, { bytes, trailers: req.trailers }));
  },

  // The body flows back while it still comes in.
  '/echo': (req, res) => {
    res.writeHead(200);
    res.flushHeaders();
    req.pipe(res);
  },

  // Counts how many are under way at once.
  '/page': (req, res, query) => {
    most = Math.max(most, ++active);
    setTimeout(
      () => {
        active--;
        res.end(String(process.pid));
      },
      Number(query.get('ms') ?? 0),
    );
  },
  '/most': (req, res) => json(res, { pid: process.pid, most }),

  '/arrive': (req, res, query) => {
    arrived.push(query.get('id'));
    res.end(String(process.pid));
  },
  '/arrived': (req, res) => json(res, arrived.splice(0)),

  // Computes for a while. The notes say who began, and which of those that had begun before still lived then.
  '/spin': (req, res, query) => {
    const id = query.get('id');
    const before = fs
      .readFileSync(process.env.NOTES, 'utf8')
      .split('\n')
      .filter(line => line.includes(`began ${id} `));
    note(`began ${id} beside ${before.map(line => Number(line.split(' ')[0])).filter(lives)}`);
    spin(Number(query.get('ms')));
    res.end(String(process.pid));
  },
  '/crash': (req, res, query) => {
    note(`crashed ${query.get('id')}`);
    process.kill(process.pid, 'SIGKILL');
  },

  // A page that says what it was asked to say.
  '/reflect': (req, res, query) => {
    res.setHeader('x-pid', process.pid);
    res.end(query.get('text'));
  },

  '/hang': req => req.resume(),
  '/big': (req, res, query) => {
    let left = Number(query.get('mib')) * 16;
    const block = Buffer.alloc(65536, 'b');
    const more = () => {
      while (left-- > 0) if (!res.write(block)) return res.once('drain', more);
      res.end();
    };
    more();
  },
  '/trailers': (req, res) => {
    res.writeHead(200, { trailer: 'x-sum' });
    res.write('body');
    res.addTrailers({ 'x-sum': '4' });
    res.end();
  },
};

const server = http.createServer((req, res) => {
  if (answerPid(req, res)) return;
  const url = new URL(req.url === '*' ? '/fields' : req.url, 'http://x');
  const route = routes[url.pathname];
  if (route) return route(req, res, url.searchParams);
  res.statusCode = 404;
  res.end('not here');
});
server.on('checkContinue', (req, res) => {
  const { pathname, searchParams } = new URL(req.url, 'http://x');
  if (pathname === '/early') return routes[pathname](req, res, searchParams);
  res.writeContinue();
  server.emit('request', req, res);
});

const SWITCHED = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ';
const upgrades = {
  '/crash': (req, socket, url) => routes['/crash'](req, undefined, url.searchParams),
  '/fields': (req, socket) => {
    const text = JSON.stringify({ raw: req.rawHeaders });
    socket.end(`HTTP/1.1 403 Forbidden\r\nContent-Length: ${text.length}\r\n\r\n${text}`);
  },
  // Both heads in one packet; then whatever comes is echoed.
  '/hints': (req, socket) => {
    socket.write(`HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n${SWITCHED}websocket\r\n\r\n`);
    socket.pipe(socket);
  },
  '/echo': (req, socket, url) => {
    note(`upgraded ${req.headers.upgrade}`);
    socket.write(`${SWITCHED}${url.searchParams.get('to') ?? 'websocket'}\r\n\r\n`);
    socket.pipe(socket);
  },
  '/page': (req, socket, url) => {
    most = Math.max(most, ++active);
    setTimeout(
      () => {
        active--;
        socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      },
      Number(url.searchParams.get('ms') ?? 0),
    );
  },
};

if (process.env.UPGRADES !== '0') {
  server.on('upgrade', (req, socket) => {
    socket.on('error', () => {});
    const url = new URL(req.url, 'http://x');
    if (url.pathname.startsWith('/socket.io/')) return;
    const upgrade = upgrades[url.pathname];
    if (upgrade) upgrade(req, socket, url);
    else socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n');
  });
}
if (process.env.SIO) {
  const io = new (require('socket.io-4').Server)(server, { perMessageDeflate: false });
  require('./sio-events.js')(io);
  server.prependListener('request', (req, res) => req.url.startsWith('/socket.io/') && res.setHeader('x-pid', process.pid));
}
server.listen(Number(process.env.PORT ?? 3000));
