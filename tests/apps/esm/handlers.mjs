import { pipeline } from 'node:stream/promises';
import { createHash } from 'node:crypto';

export default {
  '/': (request, response, { name }) => response.end(`<h1>${name}</h1>\n`),
  async '/digest'(request, response) {
    const hash = createHash('sha256');
    await pipeline(request, hash);
    response.end(hash.digest('hex'));
  },
  '/address'(request, response) {
    const { address, port } = request.socket.server.address();
    response.end(JSON.stringify({ address, port, client: request.socket.remoteAddress.replace('::ffff:', '') }));
  },
};
