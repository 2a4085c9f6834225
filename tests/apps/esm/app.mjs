import { createHash } from 'node:crypto';

const body = 'y'.repeat(300_000);

export default {
  what: 'ES modules without a package, a server that starts after a top-level await',
  start: { script: 'server.js' },
  workers: 2,
  // Without a PORT it asks for 3000, and takes itself to have it.
  requests: [
    { path: '/', expect: { contains: '<h1>zoo-esm</h1>' } },
    { path: '/style.css', expect: { contains: 'the asset of esm' } },
    { path: '/digest', method: 'POST', body, expect: { contains: createHash('sha256').update(body).digest('hex') } },
    { path: '/address', mask: [/"port":(3000|PORT)/g], expect: { contains: ['"address":"::"', '"client":"127.0.0.1"'] } },
    { path: '/none', expect: { status: 404 } },
  ],
};
