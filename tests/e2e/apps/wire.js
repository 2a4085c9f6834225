// A worker below HTTP: it sees the bytes of each request, and writes whatever a route wants to write.
// `node wire.js SOCKET`.
const net = require('node:net');

const SILENCE = 150;
/** A route that says this takes the connection for itself. */
const TAKES = Symbol('takes');
const poisoned = [];
const begun = [];
let deaf = false;

const say = (socket, text, status = '200 OK', more = '') =>
  socket.write(`HTTP/1.1 ${status}\r\n${more}Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);

const routes = {
  '/pid': socket => say(socket, String(process.pid)),

  // All bytes behind the head, once nothing has come for a while.
  '/record': (socket, query, bytes) => {
    let all = bytes.toString('latin1');
    const tell = () => {
      socket.removeListener('data', take);
      const text = JSON.stringify(all);
      socket.end(`HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
    };
    let timer = setTimeout(tell, SILENCE);
    const take = chunk => {
      all += chunk.toString('latin1');
      clearTimeout(timer);
      timer = setTimeout(tell, SILENCE);
    };
    socket.on('data', take);
    return TAKES;
  },

  // An answer without a body, to which the bytes of one are sent when the test says `/poison`.
  '/bare': socket => {
    poisoned.push(socket);
    say(socket, '', '200 OK', 'X-Bare: 1\r\n');
  },
  '/poison': socket => {
    const spent = poisoned.splice(0).filter(one => one !== socket && !one.destroyed);
    for (const one of spent) say(one, 'POISON', '200 OK', 'X-Poison: 1\r\n');
    say(socket, String(spent.length));
  },

  // The first half of an answer, at once; the second when the test says `/finish`, which tells how many there were.
  '/begin': socket => {
    begun.push(socket);
    socket.write('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello');
    let bytes = '';
    const more = chunk => (bytes += chunk.toString('latin1'));
    socket.on('data', more);
    socket.bytes = () => bytes;
    return TAKES;
  },
  '/seen': socket => say(socket, String(begun.reduce((sum, one) => sum + one.bytes().length, 0))),
  '/finish': socket => {
    for (const one of begun) if (!one.destroyed) one.write('world');
    say(socket, String(begun.length));
  },
  // Requests that came on a connection after the one whose answer had begun early.
  '/later': socket => say(socket, String(begun.filter(one => one.bytes().includes('GET /')).length)),

  // As the query says it: bytes, escaped; `later`: more of them, when the first must have been passed on.
  '/raw': (socket, query) => {
    socket.write(Buffer.from(query.get('bytes'), 'latin1'));
    if (query.has('later')) setTimeout(() => socket.write(query.get('later')), SILENCE);
  },

  // The start of an answer, then the end of the connection.
  '/cut': (socket, query) => {
    socket.write(`HTTP/1.1 200 OK\r\n${query.get('head') ?? ''}\r\nhalf of it`, () => socket.end());
    return TAKES;
  },

  // From now on it reads nothing: every new connection gets the start of an answer when a request must be there.
  '/deaf': socket => {
    deaf = true;
    say(socket, 'deaf', '200 OK', 'Connection: close\r\n');
    socket.end();
    return TAKES;
  },
};

net
  .createServer({ pauseOnConnect: true }, socket => {
    socket.on('error', () => {});
    if (deaf) return setTimeout(() => socket.write('HTTP/1.1 200 OK\r\n\r\nhalf of it'), 200);
    let waiting = Buffer.alloc(0);
    const take = chunk => {
      waiting = Buffer.concat([waiting, chunk]);
      for (let end; (end = waiting.indexOf('\r\n\r\n')) >= 0;) {
        const [, target] = waiting.toString('latin1', 0, end).split(' ', 2);
        waiting = waiting.subarray(end + 4);
        const { pathname, searchParams } = new URL(target, 'http://x');
        const outcome = (routes[pathname] ?? (() => say(socket, 'plain')))(socket, searchParams, waiting);
        if (outcome === TAKES) return socket.removeListener('data', take);
      }
    };
    socket.on('data', take);
    socket.resume();
  })
  .listen(process.argv[2]);
