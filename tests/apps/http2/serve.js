// HTTP/2 without TLS, by the event 'stream' of its documentation.
const http2 = require('http2');

const server = http2.createServer();
server.on('error', error => console.error(error));
server.on('stream', (stream, headers) => {
  if (headers['if-none-match']) {
    // Node.js ends the stream with such a head.
    stream.respond({ ':status': 304 });
    return;
  }
  let length = 0;
  stream.on('data', data => (length += data.length));
  stream.on('end', () => {
    stream.respond({ ':status': headers[':path'] === '/none' ? 404 : 200, 'content-type': 'application/json', link: '</style.css>; rel=preload' });
    if (!stream.headRequest) stream.end(JSON.stringify({ method: headers[':method'], url: headers[':path'], host: headers[':authority'] !== undefined, length }));
  });
});
module.exports = server;
