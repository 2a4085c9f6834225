// What people are told of workers that end: the cause, first.

import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { apps, needsProxy, withProxy } from './lib/proxy.mjs';
import { appStatus, succeed } from './lib/steer.mjs';

const options = { timeout: 90_000, ...needsProxy };
const loop = { backoff: { min: '20ms', max: '100ms' }, crash_loop: { max: 2, window: '60s', retry: '60s' }, start_timeout: '30s' };
const crash = (kind, more) => ({ script: './crash.js', args: [kind], ...more });

/** Files of a package whose start script runs an app. */
function packaged(proxy, start, more = {}) {
  const dir = path.join(proxy.dir, 'own', 'package');
  mkdirSync(dir, { recursive: true });
  writeFileSync(path.join(dir, 'package.json'), JSON.stringify({ name: 'packaged', version: '1.0.0', private: true, scripts: { start } }));
  for (const [name, text] of Object.entries(more)) writeFileSync(path.join(dir, name), text);
  return dir;
}

const causes = {
  'an exception with a long stack': [crash('throw'), /^TypeError: the cart has no items$/, /crash\.js:/],
  'an unhandled rejection': [crash('rejection'), /^\[?UnhandledPromiseRejection: /, /triggerUncaughtException|node:internal/],
  'a full heap': [crash('heap', { node_args: ['--max-old-space-size=20'] }), /^FATAL ERROR: .*JavaScript heap out of memory/, /GCs|JS stacktrace/],
  'an app that logs JSON to stdout': [crash('json'), /^Error: no route to the database$/, /^ {4}at /],
  'a port that is taken': [crash('port'), /^Error: listen EADDRINUSE: address already in use 127\.0\.0\.1:\d+$/, /code: 'EADDRINUSE'|node:events|at /],
  'an error behind others that were survived': [crash('handled'), /^RangeError: the last one$/, /crash\.js:/],
  'an exception of Python': [
    { command: ['python3', path.join(apps, 'python/crash.py')], preload: true },
    /^(__main__\.)?Misconfigured: DATABASE_URL is not set$/,
    /raise Misconfigured/,
  ],
  'an app behind npm, which has the last word': [
    proxy => ({ command: ['npm', 'start'], cwd: packaged(proxy, `node ${path.join(apps, 'crash.js')} throw`) }),
    /^TypeError: the cart has no items$/,
    /crash\.js:/,
  ],
};

for (const [what, [app, headline, around]] of Object.entries(causes)) {
  test(`the cause of a crash is told first: ${what}`, options, () =>
    withProxy(proxy => ({ apps: { web: { ...loop, ...(typeof app === 'function' ? app(proxy) : app) } } }), { ready: false }, async proxy => {
      const { workers: [worker] } = await appStatus(proxy, 'web', ({ workers }) => workers[0]?.state === 'failed', 'a crash loop');
      assert.match(worker.last_error, headline);
      assert.ok(worker.last_error_lines.some(line => around.test(line)), JSON.stringify(worker.last_error_lines));
      assert.ok(worker.last_error_lines.length <= 13);
      const { out } = await succeed(proxy, ['status']);
      const [first, ...others] = out.split('\n').filter(line => /^ +[>|] /.test(line)).map(line => line.trim());
      assert.ok(first.startsWith('> ') && worker.last_error.startsWith(first.slice(2)), out);
      assert.ok(others.length <= 8, out);
      // One line holds all of it.
      const { text } = await proxy.line(/ALARM crash-loop web\[0\]/);
      assert.ok(text.includes(worker.last_error), text);
      for (const line of worker.last_error_lines.filter(line => line.trim())) assert.ok(text.includes(line.trim()), `${line}\n${text}`);
    }));
}

test('of a silent end the last lines are told', options, () =>
  withProxy({ apps: { web: { ...loop, command: ['node', '-e', 'console.log("about to start"); process.exit(4)'] } } }, { ready: false }, async proxy => {
    const { workers: [worker] } = await appStatus(proxy, 'web', ({ workers }) => workers[0]?.state === 'failed', 'a crash loop');
    assert.equal(worker.last_error, null);
    assert.deepEqual(worker.last_stderr, ['about to start']);
    await proxy.line(/ALARM crash-loop web\[0\]: .*exited with code 4.*last lines of output: \| about to start/);
  }));
