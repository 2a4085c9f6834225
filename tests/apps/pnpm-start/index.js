const Koa = require('koa');
const Router = require('@koa/router');
const serve = require('koa-static');

const app = new Koa({ proxy: true });
const router = new Router();
router.get('/', ctx => {
  ctx.body = 'Hello Koa';
});
router.get('/about', ctx => {
  ctx.body = { ip: ctx.ip, protocol: ctx.protocol, host: ctx.hostname };
});
app.use(serve('public'));
app.use(router.routes()).use(router.allowedMethods());
app.listen(process.env.PORT || 3000, '127.0.0.1');
