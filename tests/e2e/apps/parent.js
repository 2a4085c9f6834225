// Listens, and starts a helper that listens, too, for nobody but this one.
const { spawn } = require('node:child_process');
const http = require('node:http');
const answerPid = require('./pid.js');

const helper = `require('node:http').createServer().listen(0, '127.0.0.1', () => console.log('child listens'));
  require('node:http').createServer((req, res) => res.end('helper')).listen(0);
  process.stdin.on('end', () => process.exit()).resume();`;

http.createServer((req, res) => answerPid(req, res) || res.writeHead(404).end()).listen(3000, () => {
  spawn(process.execPath, ['-e', helper], { stdio: ['pipe', 'inherit', 'inherit'] });
});
