export default {
  what: 'TypeScript by ts-node, which checks types at the start',
  workers: 2,
  variants: {
    start: { start: { command: ['npm', 'start'] } },
    register: { start: { script: 'src/index.ts', node_args: ['-r', 'ts-node/register'] } },
  },
  requests: [
    { path: '/', expect: { contains: 'Hello from TypeScript' } },
    { path: '/sum', method: 'POST', body: { numbers: [1, 2, 3] }, expect: { contains: '{"sum":6}' } },
    { path: '/none', expect: { status: 404 } },
  ],
};
