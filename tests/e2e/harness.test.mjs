// The checks at the end of each test would be worth nothing if they could not fail.

import assert from 'node:assert/strict';
import { writeFileSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { Proxy, needsProxy, yaml } from './lib/proxy.mjs';
import { until } from './lib/wait.mjs';

async function ends(script, setUp) {
  const proxy = new Proxy();
  try {
    setUp?.(proxy);
    proxy.run('/bin/sh', ['-c', script]);
    await until(() => proxy.processes().length > 0 || proxy.ended, { what: 'the process' });
    await proxy.exit;
    await proxy.assertNothingLeft();
  } finally {
    await proxy.stop().catch(() => {});
  }
}

test('a clean end passes', () => ends('true'));

test('a process left behind is found, even in a session of its own', async () => {
  await assert.rejects(ends('sleep 60 >/dev/null 2>&1 & sleep 0.1'), /no process left[^]*sleep 60/);
  await assert.rejects(ends('setsid sleep 61 >/dev/null 2>&1 & sleep 0.1'), /no process left[^]*sleep 61/);
});

test('files left behind are found', async () => {
  const leave = at => proxy => {
    mkdirSync(proxy.runtime, { recursive: true });
    writeFileSync(path.join(proxy.dir, at), '');
  };
  await assert.rejects(ends('true', leave('run/x.sock')), /runtime directory/);
  await assert.rejects(ends('true', leave('tmp/x')), /TMPDIR/);
  await assert.rejects(ends('true', leave('stray')), /unexpected files/);
});

test('a bad exit is found', needsProxy, async () => {
  const proxy = new Proxy();
  proxy.run('/bin/sh', ['-c', 'trap "exit 3" TERM; echo up; while :; do sleep 0.05; done']);
  await proxy.line(/up/);
  await assert.rejects(proxy.stop(), /exit of the proxy/);
});

test('only processes of the test can be killed', () => {
  const proxy = new Proxy();
  assert.throws(() => proxy.kill(process.ppid), /not a process of this test/);
  return proxy.stop().catch(() => {});
});

test('configurations are written as YAML', () => {
  assert.equal(yaml({ a: { b: 'c: d', list: [{ x: 1 }], empty: {} }, none: undefined }), 'a:\n  b: "c: d"\n  list: [{"x":1}]\n  empty: {}');
});
