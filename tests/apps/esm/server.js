// No packages: an ES module with a top-level await, imports of Node's own by both names, JSON and a dynamic import.
import { createServer } from 'node:http';
import { readFile } from 'fs/promises';
import { createRequire } from 'node:module';
import { setTimeout as later } from 'node:timers/promises';
import { once } from 'node:events';

await later(50);
const { default: handlers } = await import('./handlers.mjs');
const { name } = createRequire(import.meta.url)('./package.json');
const style = await readFile(new URL('./style.css', import.meta.url));

const server = createServer((request, response) => {
  const handler = handlers[new URL(request.url, 'http://zoo').pathname];
  if (request.url === '/style.css') response.setHeader('content-type', 'text/css').end(style);
  else if (handler) handler(request, response, { name });
  else response.writeHead(404).end();
});
server.listen(process.env.PORT || 3000);
await once(server, 'listening');
console.log(`${name} listens on ${server.address().port}`);
