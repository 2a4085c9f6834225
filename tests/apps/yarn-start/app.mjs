export default {
  what: 'Hapi, started by yarn',
  start: { command: ['yarn', 'start'] },
  workers: 2,
  requests: [
    { path: '/', expect: { contains: 'Hello Hapi' } },
    { path: '/public/style.css', expect: { contains: 'the asset of hapi' } },
    { path: '/echo', method: 'POST', body: { a: 1 }, expect: { status: 201, contains: '{"a":1}' } },
    { path: '/none', expect: { status: 404 } },
  ],
};
