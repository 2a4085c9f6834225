// The same as an ES module, listening by itself: `new Server(port)`.
import { createServer } from 'node:http';
import { Server } from 'socket.io-4';
import answerPid from './pid.js';
import serve from './sio-events.js';

const server = createServer((req, res) => {
  if (!answerPid(req, res)) res.end('esm');
});
serve(new Server(server));
server.listen(process.env.PORT ?? 3000);
