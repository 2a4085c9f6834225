export default {
  what: 'express-generator, started by npm start with a prestart script',
  start: { command: ['npm', 'start'] },
  workers: 2,
  requests: [
    { path: '/', expect: { contains: 'Welcome to Express in production' } },
    { path: '/stylesheets/style.css', expect: { contains: 'the asset of express' } },
    { path: '/users', method: 'POST', headers: { 'content-type': 'application/x-www-form-urlencoded' }, body: 'name=zoo', expect: { status: 201 } },
    { path: '/redirect', expect: { status: 302, headers: { location: '/elsewhere' } } },
    { path: '/fails', expect: { status: 500 } },
    { path: '/none', expect: { status: 404, contains: 'Cannot GET /none' } },
  ],
};
