// The configuration that most rules share: an app for each kind of rule, chosen by the host NAME.example.

import path from 'node:path';
import { apps as inApps } from '../lib/proxy.mjs';
import { routes } from './routes.mjs';
import { ACCESS_LOG } from './logged.mjs';

/** `ms`: of a head and of a body; more than a busy machine takes from a connection to its first byte. */
export const LIMITS = { head: 8 * 1024, body: 256 * 1024, ms: 2000, response: 1200 };

const lively = { backoff: { min: '20ms', max: '100ms' }, min_uptime: '10ms', crash_loop: { max: 10_000 } };

const kinds = {
  web: { instances: 2 },
  one: {},
  strict: { response_timeout: `${LIMITS.response}ms` },
  counted: { instances: 2, response_timeout: `${LIMITS.response}ms` },
  hang: { instances: 4, heartbeat_timeout: '2s', unhealthy_timeout: '2m', response_timeout: '12s' },
  unreachable: { instances: 2, health_check: { interval: '1h' } },
  drop: { instances: 3 },
  poison: { instances: 4, ...lively },
  late: { ...lively },
  narrow: { affinity: 'socket.io', max_concurrency: 2, env: { ENGINE: '1' } },
  chat: { instances: 3, affinity: 'socket.io', env: { ENGINE: '1' }, ...lively },
  patient: { instances: 2, affinity: 'socket.io', response_timeout: `${LIMITS.response}ms`, env: { ENGINE: '1', PING: `${LIMITS.response * 2}` } },
  bound: { instances: 3, affinity: { header: 'x-user' } },
  biscuit: { instances: 3, affinity: { cookie: 'user' } },
};

const idle = { script: './never.js', start_timeout: '10m', min_ready: '0s' };

export const main = proxy => ({
  access_log: { file: proxy.file(ACCESS_LOG), format: 'json' },
  limits: {
    head_size: `${LIMITS.head}b`, head_timeout: `${LIMITS.ms}ms`, body_size: `${LIMITS.body}b`, body_timeout: `${LIMITS.ms}ms`,
    keepalive_timeout: '10m', tunnel_idle_timeout: '10m',
  },
  apps: {
    ...Object.fromEntries(Object.entries(kinds).map(([name, { env, ...more }]) =>
      [name, { script: './rules.js', affinity: 'none', env: { NOTES: proxy.file(`${name}.notes`), ...env }, ...more }])),
    full: { ...idle, queue: { max: 0, timeout: '10s' } },
    waiting: { ...idle, queue: { max: 10, timeout: '600ms' } },
  },
  routes: [...[...Object.keys(kinds), 'full', 'waiting'].map(name => ({ host: `${name}.example`, app: name })), ...routes],
});

/** One app, `web`, and limits of its own. */
export const small = limits => proxy => ({
  limits,
  apps: { web: { script: './rules.js', affinity: 'none', env: { NOTES: proxy.file('notes') } } },
  routes: [{ host: 'web.example', app: 'web' }],
});

/** The same with workers that speak another protocol, on the socket that they are told. Engine.IO speaks HTTP/1 alone. */
export const speaking = (protocol, config) => proxy => {
  const { apps, ...more } = config(proxy);
  const spoken = ([name, { script, env: { ENGINE, ...env } = {}, affinity, heartbeat_timeout, unhealthy_timeout, ...app }]) => [name, {
    ...app, protocol, preload: false, command: [process.execPath, path.join(inApps, script), '{socket}'],
    ...(affinity && { affinity: affinity === 'socket.io' ? 'none' : affinity }), env: { ...env, PROTOCOL: protocol },
  }];
  return { ...more, apps: Object.fromEntries(Object.entries(apps).map(spoken)) };
};
