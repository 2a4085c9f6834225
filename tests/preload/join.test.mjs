// A worker that no proxy started: it joins, is told who it is, and never ends because of the proxy.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { describe, it } from 'node:test';
import { Proxy, here, preload, request, until } from './harness.mjs';

const SERVER = `require('http').createServer((q, s) => s.end('ok')).listen(3000);`;
const PLACE = { app: 'chat', slot: 4, incarnation: 9, tag: 'x_-', port: 8080, wait_ready: false, keep_alive_ms: 90000 };

/** Starts a process that shares the directory of the proxy, and nothing else. */
function join(proxy, code, { env, ...options } = {}) {
  proxy.answer = proxy.answer && { ...proxy.answer, worker: PLACE };
  const joining = { PINGORA_UNIX_PROXY_WORKER: '', PINGORA_UNIX_PROXY_JOIN: proxy.dir, ...env };
  return proxy.run(code, { env: joining, ...options });
}

const joined = (proxy) => proxy.said('join');

const socketOf = (proxy, line) => `${proxy.dir}/${line.socket}`;

describe('a worker that joins', { concurrency: 4 }, () => {
  it('says who it is, is told its place, and listens where it said', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = join(
      proxy,
      `const server = require('http').createServer((q, s) => s.end('ok'));
       server.listen(3000, () => console.log('address', JSON.stringify(server.address())));`,
    );
    const line = await joined(proxy);
    assert.match(line.id, /^[0-9a-f]{32}$/);
    assert.match(line.socket, /^worker\.[0-9a-f]{12}\.sock$/);
    assert.ok(!line.id.includes(line.socket.slice(7, -5)));
    assert.deepEqual([line.pid, line.protocol, line.tag, line.messages], [worker.pid, 1, undefined, true]);
    const main = await proxy.main();
    assert.equal(main.path, socketOf(proxy, line));
    assert.equal((await request({ socketPath: main.path })).body, 'ok');
    assert.equal(fs.statSync(main.path).mode & 0o777, 0o666);
    assert.equal(JSON.parse(await worker.printed('address')).port, 3000);
    await until('its title', () => fs.readFileSync(`/proc/${worker.pid}/cmdline`, 'utf8').startsWith('chat: slot 4'));
    assert.equal(worker.err, '');
  });

  it('works for ES modules, and carries ready and messages', async (t) => {
    const proxy = await Proxy.start(t);
    join(
      proxy,
      `import http from 'node:http'; process.send({ early: 1 }); http.createServer().listen(0, () => process.send('ready'));`,
      {
        esm: true,
      },
    );
    await joined(proxy);
    await proxy.said('ready');
    assert.deepEqual((await proxy.said('message')).data, { early: 1 });
    await proxy.said('stats');
  });

  it('ends when the app closes its server, although the proxy keeps the connections on which it answers', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = join(
      proxy,
      `const server = require('http').createServer((q, s) => {
         if (q.url === '/slow') setTimeout(() => s.end('late'), 300);
         else s.end('ok');
       });
       server.listen(3000);
       process.on('SIGTERM', () => { server.close(() => console.log('all closed')); console.log('closes now'); });`,
    );
    const socketPath = (await proxy.main()).path;
    const agent = new http.Agent({ keepAlive: true });
    t.after(() => agent.destroy());
    assert.equal((await request({ socketPath, agent })).body, 'ok');
    const slow = request({ socketPath, agent, path: '/slow' });
    await until('a request in flight', () => Object.keys(agent.freeSockets).length === 0);
    await new Promise((resolve) => setTimeout(resolve, 100));
    process.kill(worker.pid, 'SIGTERM');
    await worker.printed('closes');
    assert.equal((await slow).body, 'late');
    await worker.printed('all');
  });

  it('redials as the same worker, with its tag, however long the proxy is away', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = join(proxy, SERVER);
    const first = await joined(proxy);
    await proxy.main();
    await proxy.shut();
    proxy.peers.length = 0;
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.equal((await request({ socketPath: socketOf(proxy, first) })).body, 'ok');
    await proxy.open();
    const again = await proxy.said('join');
    assert.deepEqual([again.id, again.socket, again.tag], [first.id, first.socket, PLACE.tag]);
    await proxy.main();
    assert.equal(worker.exit, null);
  });

  it('waits when it is refused, and tries again', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = join(proxy, SERVER);
    proxy.answer = { type: 'refused', reason: 'full' };
    await joined(proxy);
    await until('a second try', () => proxy.lines('join').length === 2);
    proxy.answer = { type: 'welcome', worker: PLACE };
    await proxy.main();
    assert.equal(worker.exit, null);
  });

  it('is one worker with its cluster, and what it starts is none', async (t) => {
    const proxy = await Proxy.start(t);
    const env = { PINGORA_UNIX_PROXY_WORKER: '', PINGORA_UNIX_PROXY_JOIN: proxy.dir };
    proxy.answer.worker = PLACE;
    proxy.spawn([process.execPath, path.join(here, 'apps/cluster.cjs')], { env });
    await until('two processes', () => proxy.lines('join').length === 2);
    const [one, two] = proxy.lines('join');
    assert.deepEqual([one.id, one.socket], [two.id, two.socket]);
    assert.notEqual(one.pid, two.pid);
    const parent = join(
      proxy,
      `require('http').createServer().listen(3000, () => {
         const code = "require('http').createServer().listen(0, '127.0.0.1', () => console.log('child up'))";
         const child = require('child_process').spawn(process.execPath, ['-e', code], { stdio: 'inherit' });
       });`,
    );
    assert.equal(await parent.printed('child'), 'up');
    await until('the parent', () => proxy.lines('join').length === 3);
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal(proxy.lines('join').length, 3);
  });

  it('starts nothing in a process that does not listen', async (t) => {
    const proxy = await Proxy.start(t);
    const worker = join(proxy, `process.send('ready'); process.send({ a: 1 }); console.log('done now');`);
    assert.equal(await worker.printed('done'), 'now');
    await worker.ended;
    assert.deepEqual([proxy.peers.length, worker.err], [0, '']);
    const wrong = join(proxy, SERVER, { env: { PINGORA_UNIX_PROXY_JOIN: 'relative' } });
    await until('a warning', () => /PINGORA_UNIX_PROXY_JOIN is not an absolute path/.test(wrong.err));
  });

  it("does nothing from a file that others can change, or that is a stranger's", async (t) => {
    const proxy = await Proxy.start(t);
    const directory = path.join(proxy.dir, 'script');
    fs.cpSync(path.dirname(preload), directory, {
      recursive: true,
      filter: (from) => !/node_modules|target\/./.test(from) || from === preload,
    });
    const index = path.join(directory, path.basename(preload));
    // The module that looks at itself, or the one file that all are in.
    const file = process.env.PRELOAD ? index : path.join(directory, 'settings.cjs');
    const run = (env) => join(proxy, SERVER, { env: { NODE_OPTIONS: `--require ${index}`, ...env } });
    const refused = async (why) => {
      const worker = run();
      await until(
        () => `a complaint, not ${worker.err}`,
        () => worker.err.includes('is not to be trusted') && why.test(worker.err),
      );
    };
    run();
    await joined(proxy);
    fs.chmodSync(file, 0o666);
    await refused(/can be written by others/);
    fs.chmodSync(file, 0o644);
    if (process.getuid() === 0) {
      for (const path of [file, directory]) {
        fs.chownSync(path, 65_533, 0);
        await refused(/belongs to user 65533/);
        fs.chownSync(path, 0, 0);
      }
      // The proxy's own is no stranger's, whoever the proxy is.
      fs.chownSync(file, 65_533, 0);
      fs.chownSync(proxy.settings.control, 65_533, 0);
      run();
      await until('the second', () => proxy.lines('join').length === 2);
    }
    assert.ok(proxy.lines('join').length <= 2);
  });
});
