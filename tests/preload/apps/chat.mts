import { createServer } from 'node:http';
import { Server } from 'socket.io';
const http = createServer();
const io: Server = new Server(http);
io.on('connection', () => undefined);
http.listen(3000);
