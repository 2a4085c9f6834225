// A worker that parses nothing but the end of a request, and answers with the bytes that it was sent, as base64: those since the last
// answer, and those that come within a moment after the end. Its connections stay open.
const net = require('node:net');

const MOMENT = 60;
const END = '\r\n\r\n';

/** Whether a whole request is there. */
function complete(text) {
  const head = text.indexOf(END);
  if (head < 0) return false;
  const body = text.slice(head + END.length);
  if (/\r\ntransfer-encoding: *chunked/i.test(text.slice(0, head))) return /(^|\r\n)0\r\n([^\r\n]+\r\n)*\r\n/.test(body);
  return body.length >= Number(/\r\ncontent-length: *(\d+)/i.exec(text.slice(0, head))?.[1] ?? 0);
}

net
  .createServer(socket => {
    let got = '';
    let answering = false;
    socket.on('error', () => {});
    socket.on('data', data => {
      got += data.toString('latin1');
      if (answering || !complete(got)) return;
      answering = true;
      setTimeout(() => {
        const body = Buffer.from(got, 'latin1').toString('base64');
        got = '';
        answering = false;
        socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
      }, MOMENT);
    });
  })
  .listen(process.argv[2]);
