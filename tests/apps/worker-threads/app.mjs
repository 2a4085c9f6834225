export default {
  what: 'worker_threads',
  workers: 2,
  variants: {
    pool: { what: 'worker_threads that work for a server', start: { script: 'pool.js' } },
    inside: { what: 'a server in a thread', start: { script: 'inside.js' } },
  },
  requests: [
    { path: '/', expect: { contains: '{"result":55,"inThread":true}' } },
    { path: '/?n=20', expect: { contains: '{"result":6765,"inThread":true}' } },
  ],
};
