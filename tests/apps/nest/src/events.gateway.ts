import { ConnectedSocket, MessageBody, SubscribeMessage, WebSocketGateway, WebSocketServer, WsResponse } from '@nestjs/websockets';
import { from, map, Observable } from 'rxjs';
import type { Server, Socket } from 'socket.io';

@WebSocketGateway({ cors: { origin: '*' } })
export class EventsGateway {
  @WebSocketServer()
  server: Server;

  @SubscribeMessage('events')
  findAll(): Observable<WsResponse<number>> {
    return from([1, 2, 3]).pipe(map(item => ({ event: 'events', data: item })));
  }

  @SubscribeMessage('identity')
  identity(@MessageBody() data: string): string {
    return data;
  }

  @SubscribeMessage('join')
  join(@MessageBody() room: string, @ConnectedSocket() client: Socket): string {
    void client.join(room);
    this.server.to(room).emit('joined', `${client.id} is in ${room}`);
    return room;
  }
}
