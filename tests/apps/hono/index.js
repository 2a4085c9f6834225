import { serve } from '@hono/node-server';
import { serveStatic } from '@hono/node-server/serve-static';
import { getConnInfo } from '@hono/node-server/conninfo';
import { Hono } from 'hono';
import { getCookie, setCookie } from 'hono/cookie';
import { streamSSE } from 'hono/streaming';

const app = new Hono();

app.get('/', c => c.html('<!doctype html><title>zoo</title><h1>Hello Hono</h1>'));
app.get('/api/users/:id', c => c.json({ id: c.req.param('id'), q: c.req.query('q') ?? null }));
app.get('/where', c => c.json({ url: c.req.url.replace(/:\d+/, ''), client: getConnInfo(c).remote.address }));
app.get('/session', c => {
  const visits = Number(getCookie(c, 'visits') ?? 0) + 1;
  setCookie(c, 'visits', String(visits), { httpOnly: true, path: '/' });
  return c.text(`visit ${visits}`);
});
app.post('/form', async c => {
  const body = await c.req.parseBody();
  return c.json({ file: body.file.name, size: body.file.size, title: body.title });
});
app.get('/events', c =>
  streamSSE(c, async stream => {
    for (let id = 0; id < 3; id++) {
      await stream.writeSSE({ data: `tick ${id}`, event: 'tick', id: String(id) });
      await stream.sleep(50);
    }
  }),
);
app.use('/static/*', serveStatic({ root: './' }));
app.notFound(c => c.text('nothing here', 404));

const server = serve({ fetch: app.fetch, port: Number(process.env.PORT) || 3000 }, info => {
  console.log(`Server is running on http://localhost:${info.port}`);
});

process.on('SIGTERM', () => server.close(() => process.exit(0)));
