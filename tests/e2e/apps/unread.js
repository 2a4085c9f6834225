// A worker without HTTP of Node's: it reads no bodies, and informs without end. Its argument is the path of its socket.
const net = require('node:net');

net
  .createServer(socket => {
    socket.on('error', () => {});
    socket.once('data', data => {
      const head = data.toString('latin1');
      if (head.startsWith('POST')) return socket.pause();
      if (!head.startsWith('GET /inform')) return socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok');
      const informing = setInterval(() => socket.write('HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'), 50);
      socket.on('close', () => clearInterval(informing));
    });
  })
  .listen(process.argv[2]);
