// What workers print.

import assert from 'node:assert/strict';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { needsProxy, withProxy } from './lib/proxy.mjs';
import { until } from './lib/wait.mjs';

const options = { timeout: 90_000, ...needsProxy };
const web = { apps: { web: { script: './http.js' } } };

test('each line says app, slot, pid and stream', options, () =>
  withProxy(web, async proxy => {
    const [pid] = await proxy.pids(1);
    await request(proxy.port, { path: '/print?text=to%20stdout%20%E2%9C%93' });
    await request(proxy.port, { path: '/print?stream=stderr&text=to%20stderr' });
    await request(proxy.port, { path: '/print?text=one%0Atwo%0D%0Athree' });
    const text = async pattern => assert.equal((await proxy.line(pattern)).stream, 'stdout');
    await text(new RegExp(`^[-0-9T:.]{23}Z web\\[0\\] ${pid} g1 out \\| to stdout ✓$`));
    await text(new RegExp(`^[-0-9T:.]{23}Z web\\[0\\] ${pid} g1 err \\| to stderr$`));
    for (const line of ['one', 'two', 'three']) await text(new RegExp(`^[-0-9T:.]{23}Z web\\[0\\] ${pid} g1 out \\| ${line}$`));
  }));

test('a line cannot pretend to be another\'s, and a very long one is cut', options, () =>
  withProxy(web, async proxy => {
    await request(proxy.port, { path: '/print?text=a%0Dweb%5B0%5D%201%20out%20%7C%20forged' });
    await proxy.line(/\| a\^Mweb\[0\]/);
    await request(proxy.port, { path: '/print?text=begin%E2%82%AC%E2%82%AC%E2%82%ACend&repeat=2000' });
    const { text } = await proxy.line(/\| begin/);
    assert.ok(Buffer.byteLength(text) < 20_000);
    await proxy.line(/€€€end$/);
  }));

test('50 MB in a burst do not block the worker; what was dropped is counted', options, t =>
  withProxy(web, async proxy => {
    const times = 500_000;
    let lines = 0;
    let dropped = 0;
    proxy.listeners.add(({ text }) => {
      if (/\| x{99}$/.test(text)) lines++;
      dropped += Number(/(\d+) lines? dropped/.exec(text)?.[1] ?? 0);
    });
    const started = performance.now();
    const printing = request(proxy.port, { path: `/print?times=${times}`, timeout: 60_000 });
    const answer = await printing;
    assert.equal(answer.json.bytes, 50_000_000);
    t.diagnostic(`50 MB printed in ${Math.round(answer.json.ms)} ms, answered after ${Math.round(performance.now() - started)} ms`);
    await request(proxy.port, { path: '/print?text=after%20the%20burst' });
    await proxy.line(/after the burst/, { timeout: 30_000 });
    t.diagnostic(`${lines} lines came out, ${dropped} were dropped`);
    assert.equal(lines + dropped, times, 'each line came out or was counted');
  }));

test('nobody reads our output: workers and traffic go on, drops are counted', options, () =>
  withProxy(web, async proxy => {
    let dropped = 0;
    proxy.listeners.add(({ text }) => (dropped += Number(/(\d+) lines? dropped/.exec(text)?.[1] ?? 0)));
    proxy.child.stdout.pause();
    // Answered when all of it has left the worker.
    const answer = await request(proxy.port, { path: '/print?times=300000', timeout: 30_000 });
    assert.equal(answer.json.bytes, 30_000_000);
    assert.equal((await request(proxy.port, { path: '/pid' })).status, 200);
    proxy.child.stdout.resume();
    await until(() => dropped > 0, { timeout: 20_000, what: 'a note that counts the dropped lines' });
  }));

test('output without a newline at the end of a worker\'s life is shown', options, () =>
  withProxy({ apps: { a: { command: ['node', '-e', "process.stdout.write('last words without newline'); process.exit(4)"], backoff: { min: '1s', max: '2s' } } } },
    { ready: false },
    async proxy => {
      await proxy.line(/a\[0\] \d+ g1 out \| last words without newline$/);
    }));
