// What an app does when it ends, it does behind the proxy too.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { needsProxy, withProxy } from './lib/proxy.mjs';
import { succeed } from './lib/steer.mjs';

const options = { timeout: 60_000, ...needsProxy };
const saved = proxy => readFileSync(proxy.file('saved'), 'utf8').trim().split('\n').map(Number).sort();

test('an app whose server was the last open handle gets its SIGTERM at restart and stop', options, async () => {
  let before, after;
  await withProxy(
    proxy => ({ apps: { app: { script: './saves.js', instances: 2, env: { SAVED: proxy.file('saved', '') } } } }),
    async proxy => {
      before = await proxy.pids(2);
      await succeed(proxy, ['restart']);
      after = await proxy.pids(2, { not: before });
      for (const pid of before) await proxy.gone(pid);
      assert.deepEqual(saved(proxy), before.toSorted(), 'those that the restart ended');
      await proxy.interrupt();
      assert.deepEqual(saved(proxy), [...before, ...after].sort(), 'and those that the stop ended');
    },
  );
});
