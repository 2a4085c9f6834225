// Workers in another language, told their socket by {socket}.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { PLAIN, apps, withProxy } from './lib/proxy.mjs';
import { python } from './lib/python.mjs';
import { keepsSessions } from './lib/sessions.mjs';

const interpreter = await python();
const options = { timeout: 90_000, skip: interpreter ? false : 'there is no python3 here' };
const where = PLAIN ? ['--port', '{port}'] : ['--uds', '{socket}'];
const uvicorn = (app, more = {}) => ({
  command: [interpreter, '-m', 'uvicorn', ...where, '--log-level', 'warning', '--timeout-graceful-shutdown', '1', app],
  cwd: path.join(apps, 'python'), instances: 3, ...more,
});

test('uvicorn by {socket}: three workers, bodies, forwarded headers', options, () =>
  withProxy({ apps: { py: uvicorn('plain:app') } }, async proxy => {
    const body = Buffer.alloc(3_000_000, 'py');
    const answer = await request(proxy.port, { method: 'POST', path: '/x', body, headers: { 'x-forwarded-for': '9.9.9.9' } });
    assert.equal(answer.status, 200);
    assert.equal(answer.json.sha256, createHash('sha256').update(body).digest('hex'));
    if (PLAIN) return;
    assert.equal(answer.json.headers['x-forwarded-for'], '127.0.0.1');
    assert.match(answer.json.slot, /^[012]$/);
    const [pid, ...others] = await proxy.pids(3);
    proxy.kill(pid);
    await proxy.pids(1, { not: [pid, ...others] });
  }));

test('python-socketio: sessions without a tag stay on their worker', options, () =>
  withProxy({ apps: { py: uvicorn('chat:app') } }, proxy => keepsSessions(proxy)));
