import assert from 'node:assert/strict';
import { until } from '../../e2e/lib/wait.mjs';
import { Target } from '../lib/target.mjs';

/** The second port answers as without the proxy; after a reload as soon as a worker of before has let it go. */
async function metrics(target) {
  const other = new Target({ ...target, port: target.ports.metrics });
  await until(async () => (await other.get('/')).text === 'the server for metrics', { what: 'the second port' });
  assert.match((await other.get('/metrics')).text, /zoo_requests_total \d+/);
}

export default {
  what: 'a public server, and one for Prometheus on a second port',
  start: { script: 'server.js' },
  workers: 2,
  ports: ['metrics'],
  requests: [
    { path: '/', expect: { contains: 'the public server' } },
    { path: '/metrics', expect: { status: 404 } },
  ],
  uses: { 'metrics on the second port': metrics },
  env: { METRICS_PORT: '{metrics}' },
  logs: [/is not the app's public one \(key port\): this worker listens on it/],
};
