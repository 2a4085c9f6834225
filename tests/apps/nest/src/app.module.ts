import { Body, Controller, Get, Injectable, Module, NotFoundException, Param, ParseIntPipe, Post } from '@nestjs/common';
import { EventsGateway } from './events.gateway.js';

@Injectable()
export class AppService {
  getHello(): string {
    return 'Hello Nest!';
  }
}

@Controller()
export class AppController {
  constructor(private readonly appService: AppService) {}

  @Get()
  getHello(): string {
    return this.appService.getHello();
  }

  @Get('cats/:id')
  cat(@Param('id', ParseIntPipe) id: number) {
    if (id > 9) throw new NotFoundException(`no cat ${id}`);
    return { id, lives: 9 };
  }

  @Post('cats')
  create(@Body() cat: { name: string }) {
    return { created: cat.name };
  }
}

@Module({ controllers: [AppController], providers: [AppService, EventsGateway] })
export class AppModule {}
