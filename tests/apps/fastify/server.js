import path from 'node:path';
import { Readable } from 'node:stream';
import Fastify from 'fastify';
import fastifyStatic from '@fastify/static';
import websocket from '@fastify/websocket';

const fastify = Fastify({ logger: true, trustProxy: true });

await fastify.register(fastifyStatic, { root: path.join(import.meta.dirname, 'public'), prefix: '/public/' });
await fastify.register(websocket);

fastify.get('/', async () => ({ hello: 'fastify' }));

const schema = { body: { type: 'object', required: ['name'], properties: { name: { type: 'string' } } } };
fastify.post('/greet', { schema }, async (request, reply) => {
  reply.code(201).header('set-cookie', ['a=1; Path=/', 'b=2; Path=/']);
  return { greeting: `Hello ${request.body.name}`, from: request.ip };
});

fastify.get('/stream', (request, reply) => {
  async function* lines() {
    for (let i = 0; i < 5; i++) yield `line ${i}\n`;
  }
  reply.type('text/plain').send(Readable.from(lines()));
});

fastify.get('/ws', { websocket: true }, socket => {
  socket.on('message', message => socket.send(`echo ${message}`));
});

await fastify.listen({ port: Number(process.env.PORT) || 3000, host: '0.0.0.0' });
