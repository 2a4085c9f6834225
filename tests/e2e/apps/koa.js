const { createServer } = require('node:http');
const Koa = require('koa');
const { Server } = require('socket.io-4');
const serve = require('./sio-events.js');

const app = new Koa.default();
app.use(async ctx => {
  if (ctx.path === '/pid') {
    await new Promise(resolve => setTimeout(resolve, Number(ctx.query.ms ?? 0)));
    ctx.body = String(process.pid);
  } else if (ctx.path === '/ip') {
    ctx.body = { ip: ctx.ip, remote: ctx.req.socket.remoteAddress, protocol: ctx.protocol, host: ctx.host };
  } else if (ctx.path === '/echo') {
    ctx.type = 'text/plain';
    ctx.body = ctx.req;
  }
});

const server = createServer(app.callback());
serve(new Server(server));
server.listen(process.env.PORT ?? 3000);
