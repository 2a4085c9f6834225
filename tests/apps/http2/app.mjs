import { certificate } from '../lib/certificate.mjs';

export default {
  what: 'HTTP/2 servers of Node.js',
  build: [certificate],
  workers: 2,
  load: [{ path: '/' }],
  requests: [
    { path: '/', expect: { contains: '{"method":"GET","url":"/","host":true,"length":0}' } },
    { path: '/a?b=c', method: 'POST', body: 'x'.repeat(100_000), expect: { contains: '"length":100000' } },
    { path: '/', name: 'what has not changed', headers: { 'if-none-match': '"1"' }, expect: { status: 304 } },
    { path: '/none', expect: { status: 404 } },
  ],
  variants: {
    secure: { what: 'an HTTP/2 server with TLS and HTTP/1, behind HTTP/1', start: { script: 'secure.js' }, scheme: 'http2' },
    streams: { what: 'an HTTP/2 server of streams, behind HTTP/1', start: { script: 'streams.js' }, scheme: 'h2c' },
    // The proxy speaks HTTP/2 to it: it serves on the socket that it is given.
    protocol: {
      what: 'an HTTP/2 server of streams, with `protocol: http2`',
      start: { command: ['node', 'socket.js'], preload: false, protocol: 'http2', env: { LISTEN: '{socket}' } },
      alone: ['node', 'streams.js'],
      scheme: 'h2c',
    },
  },
};
