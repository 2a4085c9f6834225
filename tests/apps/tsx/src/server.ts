import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { Server, type Socket } from 'socket.io';
import { greet } from './greet';

enum Port {
  Default = 3000,
}

const server = createServer((request: IncomingMessage, response: ServerResponse): void => {
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify(greet({ name: new URL(request.url ?? '/', 'http://zoo').searchParams.get('name') ?? 'tsx' })));
});
const io = new Server(server);
io.on('connection', (socket: Socket) => {
  socket.on('echo', (data: string, answer: (data: string) => void) => answer(data));
});
server.listen(Number(process.env.PORT) || Port.Default);
