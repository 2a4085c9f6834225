// As in a container, without a container engine: PID 1 of its own namespace, a user who is not root, a file system
// that nobody can write to but for /run/proxy and /tmp.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { BIN, Proxy, freePort, needsProxy, yaml } from './lib/proxy.mjs';
import { until, within } from './lib/wait.mjs';

const UID = 10001;
const NAMESPACES = ['--fork', '--pid', '--mount', '--kill-child'];
const mayNot = spawnSync('unshare', [...NAMESPACES, 'sh', '-c', 'mount --make-rprivate / && mount -t tmpfs tmpfs /mnt']).status !== 0;
const skip = mayNot ? 'needs the right to make namespaces and to mount (root)' : !process.execPath.startsWith('/usr/') && 'needs Node.js below /usr';
const options = { timeout: 60_000, skip, ...needsProxy };

// Mounts stay in the namespace and go with it. $1: the root, $2: the binary; then its arguments.
const START = `
set -e
root=$1 binary=$2
shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
for dir in usr lib lib64 etc bin; do
  if [ -d "$root/$dir" ] && [ ! -L "$root/$dir" ]; then mount --rbind -o ro "/$dir" "$root/$dir"; fi
done
: >"$root/proxy"
mount --bind "$binary" "$root/proxy"
mount -t proc proc "$root/proc"
for device in null zero full random urandom; do
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t tmpfs -o mode=0700,uid=${UID},gid=${UID},size=16m tmpfs "$root/run/proxy"
mount -t tmpfs -o mode=1777,size=16m tmpfs "$root/tmp"
mount -o remount,bind,ro "$root"
exec chroot --userspec=${UID}:${UID} "$root" /proxy "$@"
`;

const SERVER = `
const fs = require('fs');
const writable = ['/', '/app', '/etc', '/run', '/run/proxy', '/tmp'].filter(dir => {
  try {
    fs.accessSync(dir, fs.constants.W_OK);
    return true;
  } catch {
    return false;
  }
});
require('http').createServer((req, res) => res.end(JSON.stringify({ uid: process.getuid(), pid: process.pid, writable }))).listen(3000);
`;

test('PID 1, not root, read-only root', options, async () => {
  const proxy = new Proxy();
  proxy.port = await freePort();
  const root = path.join(proxy.dir, 'own', 'root');
  for (const dir of ['app', 'dev', 'proc', 'run/proxy', 'tmp', 'usr', 'etc']) mkdirSync(path.join(root, dir), { recursive: true });
  for (const dir of ['lib', 'lib64', 'bin']) {
    if (existsSync(`/usr/${dir}`)) symlinkSync(`usr/${dir}`, path.join(root, dir));
  }
  writeFileSync(path.join(root, 'app/server.js'), SERVER);
  const config = { listeners: [{ address: `127.0.0.1:${proxy.port}` }], apps: { web: { interpreter: process.execPath, script: 'server.js' } } };
  writeFileSync(path.join(root, 'app/conf.yaml'), yaml(config));
  try {
    const env = { XDG_RUNTIME_DIR: '/run/proxy', HOME: '/tmp', TMPDIR: '/tmp' };
    proxy.run('unshare', [...NAMESPACES, 'sh', '-c', START, 'sh', root, BIN, '-c', '/app/conf.yaml'], { env });
    await proxy.ready({ path: '/' });
    const answer = JSON.parse((await request(proxy.port, { path: '/' })).text);
    assert.equal(answer.uid, UID);
    assert.ok(answer.pid > 1 && answer.pid < 100, `a process of its own namespace: ${answer.pid}`);
    assert.deepEqual(answer.writable, ['/run/proxy', '/tmp']);
    const init = Number(readFileSync(`/proc/${proxy.child.pid}/task/${proxy.child.pid}/children`, 'utf8'));
    assert.match(readFileSync(`/proc/${init}/status`, 'utf8'), /^NSpid:\s+\d+\s+1$/m);
    process.kill(init, 'SIGTERM');
    assert.deepEqual(await within(15_000, 'its end', proxy.exit), { code: 0, signal: null });
    await until(() => proxy.processes().length === 0, { what: 'no process left' });
    assert.deepEqual([...readdirSync(path.join(root, 'run/proxy')), ...readdirSync(path.join(root, 'tmp'))], []);
  } catch (error) {
    proxy.show();
    throw error;
  } finally {
    proxy.killAll();
    if (!process.env.KEEP) rmSync(proxy.dir, { recursive: true, force: true });
  }
});
