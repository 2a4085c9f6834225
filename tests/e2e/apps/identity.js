// An app each of whose requests takes a new connection. In the hands of an attacker it can ask any Unix socket, run any
// program, and say any number of lines on its control channel.
const { spawn } = require('node:child_process');
const http = require('node:http');
const net = require('node:net');

/** One request on a Unix socket, as a server-side request forgery makes it: the answer, or why there was none. */
function ask({ socketPath, path, method = 'GET', body }) {
  return new Promise(resolve => {
    const asking = http.request({ socketPath, path, method, agent: false }, answer => {
      let text = '';
      answer.setEncoding('utf8').on('data', data => (text += data)).on('end', () => resolve({ status: answer.statusCode, text }));
    });
    asking.on('error', error => resolve({ error: error.code }));
    asking.end(body);
  });
}

/** Presents itself as the proxy's successor, and stays for what comes; the first answer. */
function succeed({ socketPath, version }) {
  return new Promise(resolve => {
    const body = Buffer.from(JSON.stringify({ type: 'hello', protocol: 1, version, pid: process.pid }));
    const header = Buffer.alloc(8);
    header.writeUInt16LE(1, 0);
    header.writeUInt32LE(body.length, 4);
    const socket = net.connect(socketPath, () => socket.write(Buffer.concat([header, body])));
    socket.on('data', data => resolve({ text: data.toString('latin1', 8) })).on('error', error => resolve({ error: error.code }));
    socket.on('close', () => resolve({ text: '' }));
  });
}

/** Runs a program to its end, or leaves it alone. */
function run({ command, env, detached = false, wait = true }) {
  return new Promise(resolve => {
    const [program, ...args] = command;
    const child = spawn(program, args, { env: env ?? process.env, detached, stdio: ['ignore', wait ? 'pipe' : 'ignore', 'ignore'] });
    child.on('error', error => resolve({ error: error.code }));
    if (!wait) return child.on('spawn', () => (child.unref(), resolve({ pid: child.pid })));
    let text = '';
    child.stdout.setEncoding('utf8').on('data', data => (text += data));
    child.on('close', code => resolve({ code, text }));
  });
}

/** Statistics without a pause, on a control connection of its own, for `ms`. */
function flood({ ms }) {
  const { control, app, slot, incarnation, token } = JSON.parse(process.env.PINGORA_UNIX_PROXY_WORKER);
  const hello = { type: 'hello', protocol: 1, app, slot, incarnation, token, pid: 1, node: process.version };
  const lines = Buffer.from(`${JSON.stringify({ type: 'stats', elu: 0, lag_ms: 0, rss: 1, heap_used: 1, sockets: 0, sessions: 0 })}\n`.repeat(500));
  return new Promise(resolve => {
    const socket = net.connect(control);
    const end = Date.now() + ms;
    let sent = 0;
    const done = () => resolve({ sent: Math.round(socket.bytesWritten / (lines.length / 500)) });
    const more = () => {
      while (Date.now() < end && !socket.destroyed) {
        sent++;
        if (!socket.write(lines)) return socket.once('drain', more);
        if (sent % 20 === 0) return setImmediate(more);
      }
    };
    socket.on('error', () => {});
    socket.resume();
    socket.write(`${JSON.stringify(hello)}\n`);
    more();
    setTimeout(() => (done(), socket.destroy()), ms);
  });
}

function tell({ text }) {
  console.log(text);
  return {};
}

const deeds = { ask, succeed, run, flood, tell };

const server = http.createServer((req, res) => {
  res.setHeader('Connection', 'close');
  const deed = deeds[req.url.slice(1)];
  if (!deed) return res.end(req.url === '/pid' ? String(process.pid) : `worker ${process.env.NAME}`);
  let body = '';
  req.setEncoding('utf8').on('data', data => (body += data));
  req.on('end', async () => res.end(JSON.stringify(await deed(JSON.parse(body)))));
});
server.on('upgrade', (req, socket) => {
  socket.on('error', () => {});
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n');
});
if (process.env.SAYS) console.log(process.env.SAYS);
if (process.argv[2] === 'liar') lie(process.argv[3]);
else server.listen(process.env.PORT ?? 3000);

/** Speaks for itself, by the number of another process, and is larger than it may be. */
function lie(at) {
  const { control, app, slot, incarnation, token } = JSON.parse(process.env.PINGORA_UNIX_PROXY_WORKER);
  const small = spawn('sleep', ['600'], { stdio: 'ignore' });
  globalThis.large = Buffer.alloc(150_000_000, 1);
  server.listen(at, () => {
    const socket = net.connect(control);
    const say = what => socket.write(`${JSON.stringify(what)}\n`);
    say({ type: 'hello', protocol: 1, app, slot, incarnation, token, pid: small.pid, node: process.version });
    say({ type: 'path', path: at, port: null, main: true });
    setInterval(() => say({ type: 'stats', elu: 0, lag_ms: 0, rss: 1_000_000, heap_used: 1, sockets: 0, sessions: 0 }), 500);
    socket.resume();
  });
}
