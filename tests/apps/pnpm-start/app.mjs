export default {
  what: 'Koa, started by pnpm',
  workers: 2,
  variants: {
    start: { start: { command: ['pnpm', 'start'] } },
    run: { start: { command: ['pnpm', 'run', 'start'] } },
  },
  requests: [
    { path: '/', expect: { contains: 'Hello Koa' } },
    { path: '/style.css', expect: { contains: 'the asset of koa' } },
    { path: '/about', expect: { contains: '{"ip":"127.0.0.1","protocol":"http","host":"127.0.0.1"}' } },
    { path: '/', method: 'DELETE', expect: { status: 405 } },
    { path: '/none', expect: { status: 404 } },
  ],
};
