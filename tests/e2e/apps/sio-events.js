// What every Socket.IO app of these tests answers, whatever its version: its pid.
const { randomBytes } = require('node:crypto');

module.exports = function serve(io, { ownIds = process.env.OWN_IDS === '1' } = {}) {
  if (ownIds) {
    const engine = io.engine ?? io.eio;
    engine.generateId = () => `own.${randomBytes(9).toString('hex')}`;
  }
  io.on('connection', socket => {
    socket.emit('hello', { pid: process.pid, id: socket.id, address: socket.handshake.address });
    socket.on('echo', (data, ack) => {
      const answer = { pid: process.pid, data };
      if (typeof ack === 'function') ack(answer);
      else socket.emit('echo', answer);
    });
  });
};
