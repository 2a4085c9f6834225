const fs = require('fs');
const https = require('https');
const express = require('express');
const { Server } = require('socket.io');

const app = express();
app.get('/', (req, res) => res.send(`Hello by ${req.secure ? 'https' : 'http'}`));
app.get('/protocol', (req, res) => res.json({ authorized: req.socket.authorized, servername: req.socket.servername || null }));
app.post('/echo', express.text(), (req, res) => res.type('text').send(req.body));

const server = https.createServer({ key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') }, app);
const io = new Server(server);
io.on('connection', socket => socket.on('echo', (data, answer) => answer(data)));
server.listen(process.env.PORT || 8443);
