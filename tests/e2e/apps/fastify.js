const fastify = require('fastify')({ bodyLimit: 5 * 1024 * 1024 });
const { Server } = require('socket.io-4');
const serve = require('./sio-events.js');

fastify.addContentTypeParser('*', { parseAs: 'string' }, (req, body, done) => done(null, body));
fastify.get('/pid', async req => {
  await new Promise(resolve => setTimeout(resolve, Number(req.query.ms ?? 0)));
  return String(process.pid);
});
fastify.get('/ip', async req => ({ ip: req.ip, remote: req.socket.remoteAddress, protocol: req.protocol, host: req.headers.host }));
fastify.post('/echo', async (req, reply) => reply.type('text/plain').send(req.body));
serve(new Server(fastify.server));

// No host: fastify then binds each address of localhost, a server apiece.
fastify.listen({ port: Number(process.env.PORT ?? 3000) });
