// Ends in one of the ways in which apps end, by the name in the first argument.
const deep = (n, end) => (n === 0 ? end() : deep(n - 1, end));

const ends = {
  throw: () => setTimeout(() => deep(9, () => { throw new TypeError('the cart has no items'); }), 20),
  rejection: () => setTimeout(() => Promise.reject({ code: 17 }), 20),
  heap() {
    const held = [];
    for (;;) held.push(Array.from({ length: 1000 }, (_, i) => ({ i })));
  },
  // Logs to stdout, and dies with nothing on stderr.
  json() {
    const log = (level, more) => console.log(JSON.stringify({ level, time: Date.now(), pid: process.pid, hostname: 'h', ...more }));
    log(30, { msg: 'starting' });
    const { message, stack } = new Error('no route to the database');
    log(60, { err: { type: 'Error', message, stack }, msg: message });
    process.exit(1);
  },
  port() {
    const net = require('node:net');
    const first = net.createServer().listen(0, '127.0.0.1', () => net.createServer().listen(first.address().port, '127.0.0.1'));
  },
  // What was survived is not what it died of.
  handled() {
    for (let i = 0; i < 5; i++) console.error(new Error(`survived ${i}`));
    setTimeout(() => deep(9, () => { throw new RangeError('the last one'); }), 50);
  },
};
console.log('about to start');
ends[process.argv[2]]();
