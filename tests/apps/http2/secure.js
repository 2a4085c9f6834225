// HTTP/2 to browsers, HTTP/1 to others, by the events 'request'.
const fs = require('fs');
const http2 = require('http2');

const server = http2.createSecureServer({ key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem'), allowHTTP1: true });
server.on('request', (request, response) => {
  if (request.headers['if-none-match']) {
    response.writeHead(304).end();
    return;
  }
  let length = 0;
  request.on('data', data => (length += data.length));
  request.on('end', () => {
    response.setHeader('content-type', 'application/json');
    response.setHeader('link', '</style.css>; rel=preload');
    response.statusCode = request.url === '/none' ? 404 : 200;
    response.end(JSON.stringify({ method: request.method, url: request.url, host: (request.authority || request.headers.host) !== undefined, length }));
  });
});
server.listen(process.env.PORT || 8443);
