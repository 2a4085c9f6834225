const path = require('path');
const Hapi = require('@hapi/hapi');

const init = async () => {
  const server = Hapi.server({ port: process.env.PORT || 3000, host: 'localhost' });
  await server.register(require('@hapi/inert'));
  server.route({ method: 'GET', path: '/', handler: () => 'Hello Hapi' });
  server.route({ method: 'GET', path: '/public/{param*}', handler: { directory: { path: path.join(__dirname, 'public') } } });
  server.route({ method: 'POST', path: '/echo', handler: (request, h) => h.response(request.payload).code(201) });
  await server.start();
  console.log('Server running on %s', server.info.uri);
};

init();
