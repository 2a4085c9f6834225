// HTTP/2 frame by frame, right and wrong: the tables in http2/*.py. `python http2/run.py --against nginx` has the yardstick.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { needsProxy, suiteDir, withProxy } from './lib/proxy.mjs';
import { python } from './lib/python.mjs';
import { status } from './lib/steer.mjs';

const interpreter = await python();
if (!interpreter) console.log('skipped: HTTP/2 frames: there is no python3 here');
const options = { timeout: 170_000, skip: interpreter ? false : 'there is no python3 here', ...needsProxy };

const config = carrier => proxy => ({
  server: carrier === 'own' ? {} : { http: carrier },
  listeners: [{ address: `127.0.0.1:${proxy.port}`, h2c: true }],
  limits: { head_timeout: '2s', body_timeout: '2s', keepalive_timeout: '4s' },
  apps: { web: { script: './frames.js', instances: 1 } },
});

/** The rows' outcomes as they come. */
async function* rows(port, against) {
  const args = [path.join(suiteDir, 'http2/run.py'), '--port', String(port), '--against', against, '--json'];
  const child = spawn(interpreter, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    for await (const line of createInterface({ input: child.stdout })) yield JSON.parse(line);
  } finally {
    child.kill();
  }
}

const peakBytes = pid => Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) * 1024;

async function table(t, proxy, against) {
  const before = peakBytes(proxy.pid);
  let count = 0;
  let differ = 0;
  for await (const { section, name, how, came, wanted, note } of rows(proxy.port, against)) {
    count += 1;
    differ += how === 'differs';
    await t.test(`${section} ${name}: ${came}${how === 'differs' ? ` (${note})` : ''}`, () => {
      assert.ok(how, `came: ${came}; wanted: ${wanted}`);
    });
  }
  assert.ok(count >= 60, `${count} rows`);
  const grown = peakBytes(proxy.pid) - before;
  t.diagnostic(`${count} rows, ${differ} differ from the RFC as noted; memory's peak grew by ${(grown / 1e6).toFixed(1)} MB`);
  assert.ok(grown < 30e6, `${grown} bytes`);
  assert.equal((await request(proxy.port, { path: '/pid' })).status, 200, 'others are served afterwards');
  assert.equal((await status(proxy)).apps.length, 1);
}

test('HTTP/2 frames: as the RFC has it, or as the table says why not', options, t =>
  withProxy(config('own'), {}, proxy => table(t, proxy, 'proxy')));

test('HTTP/2 frames to Pingora: as the RFC has it, or as the table says why not', options, t =>
  withProxy(config('pingora'), {}, proxy => table(t, proxy, 'pingora')));
