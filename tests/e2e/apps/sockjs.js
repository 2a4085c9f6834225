// SockJS: a session is the third segment of the path, and lives in one process.
const http = require('node:http');
const sockjs = require('sockjs');

const echo = sockjs.createServer({ log: () => {} });
echo.on('connection', connection => connection.on('data', text => connection.write(`${process.pid} ${text}`)));
const server = http.createServer((req, res) => res.end(String(process.pid)));
echo.installHandlers(server, { prefix: '/sockjs' });
server.listen(3000);
