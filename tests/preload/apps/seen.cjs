const path = require('path');
const server = require('http').createServer();
const { listen } = server;
process.on('message', () => {});
server.listen(3000, () => {
  console.log(
    'seen',
    JSON.stringify({
      main: path.basename(require.main.filename),
      argv: process.argv.slice(1).map((a) => path.basename(a)),
      name: listen.name,
      length: listen.length,
      keys: Object.keys(process).filter((k) => k.includes('pingora')),
    }),
  );
  process.removeAllListeners('message');
  setTimeout(() => server.close(), 100);
});
