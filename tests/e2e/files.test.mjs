// The limit of open files: shells and service managers set a low one that every WebSocket would count against twice.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { BIN, needsProxy, needsUpgrade, withProxy } from './lib/proxy.mjs';
import { WebSocket } from './lib/upgrade.mjs';
import { pooled, range, until, within } from './lib/wait.mjs';

/** Notes the limit that it is started with: Node.js itself raises its own. */
const noted = (proxy, script) => ({
  command: ['sh', '-c', `ulimit -Sn > ${proxy.file('limit-')}$$; exec node ${script}`], preload: true, instances: 1,
});
const limits = pid => {
  const [, soft, hard] = /^Max open files +(\d+) +(\d+)/m.exec(readFileSync(`/proc/${pid}/limits`, 'latin1'));
  return { soft: Number(soft), hard: Number(hard) };
};

/** Starts the proxy again as from a shell with such limits. */
async function withLimits(proxy, soft, hard) {
  await proxy.interrupt();
  proxy.lines.length = 0;
  const words = [`ulimit -Sn ${soft} && ulimit -Hn ${hard} && exec "$@"`, 'sh', BIN, '-c', path.join(proxy.dir, 'conf.yaml')];
  proxy.run('sh', ['-c', ...words]);
  await proxy.ready();
}

test('a low soft limit is raised for the proxy, not for what it starts, also after an upgrade', { timeout: 60_000, ...needsUpgrade }, () =>
  withProxy(proxy => ({ apps: { ws: noted(proxy, './ws.js') } }), async proxy => {
    await withLimits(proxy, 200, 4000);
    assert.deepEqual(limits(proxy.pid), { soft: 4000, hard: 4000 });
    await proxy.line(/limits\.connections is 1961, not 100000: the limit of open files/);
    const sockets = await pooled(range(300), 50, async () => {
      const socket = new WebSocket(`ws://127.0.0.1:${proxy.port}/ws`);
      await within(10_000, 'open', new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject)));
      return socket;
    });
    const { code, err } = await proxy.upgrade();
    assert.equal(code, 0, err);
    assert.deepEqual(limits(proxy.pid), { soft: 4000, hard: 4000 });
    const [worker] = await proxy.pids(1);
    proxy.kill(worker);
    await proxy.pids(1, { not: [worker] });
    for (const socket of sockets) socket.terminate();
    const own = path.dirname(proxy.file('x'));
    const told = readdirSync(own).filter(name => name.startsWith('limit-')).map(name => readFileSync(path.join(own, name), 'utf8').trim());
    // The first is from before, with the test's own limit.
    assert.deepEqual(told.filter(limit => limit === '200').length, 2, String(told));
  }));

test('more clients than files: those beyond are turned away, the others are served', { timeout: 60_000, ...needsProxy }, () =>
  withProxy({ apps: { ws: { script: './ws.js' } } }, async proxy => {
    await withLimits(proxy, 320, 320);
    await proxy.line(/limits\.connections is 121, not/);
    const open = () =>
      new Promise(resolve => {
        const socket = new WebSocket(`ws://127.0.0.1:${proxy.port}/ws`);
        socket.once('open', () => resolve(socket)).on('error', () => resolve(null));
      });
    const sockets = (await within(20_000, 'all', pooled(range(200), 10, open))).filter(Boolean);
    assert.equal(sockets.length, 121);
    for (const socket of sockets) {
      socket.send('still here');
      await within(5000, 'an echo', new Promise(resolve => socket.once('message', resolve)));
    }
    for (const socket of sockets) socket.terminate();
    await until(async () => (await proxy.pids(1, { timeout: 2000 })).length, { what: 'an answer to others' });
  }));
