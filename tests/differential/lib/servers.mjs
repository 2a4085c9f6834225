// The servers that read what the proxy passes on, each an app of its own, with a host name and a path that lead to it.

import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { python } from '../../e2e/lib/python.mjs';

export const here = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const cwd = path.join(here, 'apps');
const NODES = ['18', '20', '22', '24'];

/** Path of an installed Node.js of this major version. */
function node(major) {
  const binary = path.join(here, 'node_modules', `node-${major}-${process.arch}`, 'bin/node');
  return existsSync(binary) ? binary : undefined;
}

const uvicorn = (interpreter, parser) => [
  interpreter, '-m', 'uvicorn', '--uds', '{socket}', '--log-level', 'critical', '--no-access-log', '--http', parser,
  '--timeout-graceful-shutdown', '1', '--timeout-keep-alive', '60', 'echo_asgi:app',
];

// Its limits are those of the proxy. Names with `_` must reach the app: a server that drops them hides what passes.
const gunicorn = interpreter => [
  interpreter, '-m', 'gunicorn', '--bind', 'unix:{socket}', '--threads', '8', '--worker-class', 'gthread', '--keep-alive', '60',
  '--log-level', 'critical', '--graceful-timeout', '1', '--limit-request-line', '8190', '--limit-request-field_size', '32768',
  '--limit-request-fields', '200', '--header-map', 'dangerous', '--no-control-socket', 'echo_wsgi:app',
];

/** Apps by name, the share of requests that each gets, and what is missing here. */
export async function servers() {
  const apps = {}, shares = {}, missing = [];
  for (const major of NODES) {
    const interpreter = node(major);
    if (!interpreter) missing.push(`Node.js ${major} (npm ci in tests/differential)`);
    else add(`n${major}`, 10, { script: 'echo.cjs', interpreter });
  }
  const interpreter = await python({ dir: here, requirements: path.join(here, 'requirements.txt') });
  if (!interpreter) missing.push('python3');
  else {
    add('h11', 2, { command: uvicorn(interpreter, 'h11') });
    add('httptools', 3, { command: uvicorn(interpreter, 'httptools') });
    add('gunicorn', 2, { command: gunicorn(interpreter) });
  }
  function add(name, share, app) {
    apps[name] = { cwd, affinity: 'none', env: { SERVER: name }, ...app };
    shares[name] = share;
  }
  return { apps, shares, missing };
}

/** The proxy's configuration. What leads nowhere else gets to the first app. */
export function configuration(apps) {
  const names = Object.keys(apps);
  const lead = names.flatMap(app => [{ host: `${app}.test`, app }, { path: `/to-${app}`, app }]);
  return {
    // The other carrier of plain requests: HTTP=pingora.
    ...(process.env.HTTP && { server: { http: process.env.HTTP } }),
    apps,
    routes: [...lead, { path: '/', app: names[0] }],
    limits: { body_timeout: '5s', head_timeout: '5s' },
  };
}
