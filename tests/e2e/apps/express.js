const { createServer } = require('node:http');
const express = require('express');
const { Server } = require('socket.io-4');
const serve = require('./sio-events.js');

const app = express();
app.get('/pid', (req, res) => setTimeout(() => res.send(String(process.pid)), Number(req.query.ms ?? 0)));
app.get('/ip', (req, res) => res.json({ ip: req.ip, remote: req.socket.remoteAddress, protocol: req.protocol, host: req.get('host') }));
app.post('/echo', express.text({ limit: '5mb', type: () => true }), (req, res) => res.type('text/plain').send(req.body));

const server = createServer(app);
serve(new Server(server));
server.listen(process.env.PORT ?? 3000);
