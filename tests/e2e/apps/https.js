// An app that would speak TLS itself; it has no certificate, so only its requests can be served plain.
const https = require('node:https');
const answerPid = require('./pid.js');

https.createServer({}, (req, res) => {
  if (!answerPid(req, res)) res.end(JSON.stringify({ url: req.url, address: req.socket.remoteAddress }));
}).listen(3443);
