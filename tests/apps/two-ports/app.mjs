import assert from 'node:assert/strict';
import { until } from '../../e2e/lib/wait.mjs';
import { Target } from '../lib/target.mjs';

/** The second port answers as without the proxy; after a reload as soon as a worker of before has let it go. */
async function metrics(target, offset = 0) {
  const other = new Target({ ...target, port: target.ports.metrics + offset });
  await until(async () => (await other.get('/')).text === 'the server for metrics', { what: 'the second port' });
  assert.match((await other.get('/metrics')).text, /zoo_requests_total \d+/);
}

export default {
  what: 'a public server, and one for Prometheus on a second port',
  workers: 2,
  variants: {
    one: { start: { script: 'server.js' } },
    each: {
      start: { script: 'server.js', ports: { '{metrics}': 'each' } },
      uses: { 'metrics on a port of each worker': target => Promise.all((target.alone ? [0] : [0, 1]).map(slot => metrics(target, slot))) },
    },
  },
  ports: ['metrics'],
  requests: [
    { path: '/', expect: { contains: 'the public server' } },
    { path: '/metrics', expect: { status: 404 } },
  ],
  uses: { 'metrics on the second port': target => metrics(target) },
  env: { METRICS_PORT: '{metrics}' },
  logs: [/is not the app's public one \(key port\): this worker listens on it/],
};
