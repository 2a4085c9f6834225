// A machine of its own for a systemd: namespaces for processes, mounts and cgroups, and over the file system of this one a
// layer in memory. The network is shared. Nothing of it outlives its first process.

import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, rmdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { sleep, until } from './wait.mjs';

const SYSTEMD = ['/lib/systemd/systemd', '/usr/lib/systemd/systemd'].find(file => existsSync(file));

// $1: the machine's directory, with the files to put into it below `files`; $2: systemd; $3: Node.js; $4: the cgroup to live in.
const BOOT = `
set -e
echo $$ >"$4/cgroup.procs"
exec unshare --fork --pid --mount --cgroup --ipc --uts --kill-child sh -ec '
base=$1 systemd=$2 node=$3 root=$1/memory/root
mount --make-rprivate /
mount -t tmpfs tmpfs "$base/memory"
mkdir "$base/memory/upper" "$base/memory/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$base/memory/upper,workdir=$base/memory/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
for device in null zero full random urandom tty; do
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
cp -R "$base/files/." "$root/"
: >"$root/usr/local/bin/node"
mount --bind "$node" "$root/usr/local/bin/node"
mkdir "$root/before"
cd "$root"
pivot_root . before
umount -l /before
exec env -i container=lxc PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin SYSTEMD_UNIT_PATH=/etc/units \
  "$systemd" --unit=multi-user.target --log-target=null --show-status=no
' boot "$@"
`;

/** What units expect to be there. */
const TARGETS = ['sysinit', 'basic', 'shutdown', 'sockets', 'multi-user', 'network-online'];

/** This process's own cgroup in the second hierarchy, as a directory. */
function cgroup() {
  const mount = readFileSync('/proc/self/mountinfo', 'utf8').split('\n').map(line => line.split(' ')).find(fields => fields[fields.indexOf('-') + 1] === 'cgroup2');
  const own = /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1];
  return mount && own && path.join(mount[4], path.relative(mount[3], own));
}

export class Machine {
  constructor() {
    this.dir = mkdtempSync('/tmp/pup-machine-');
    mkdirSync(path.join(this.dir, 'memory'));
    for (const target of TARGETS) this.put(`/etc/units/${target}.target`, `[Unit]\nDescription=${target}\nDefaultDependencies=no\n`);
  }

  /** A file of the machine, before it starts. */
  put(file, text, mode = 0o644) {
    const at = path.join(this.dir, 'files', file);
    mkdirSync(path.dirname(at), { recursive: true });
    writeFileSync(at, text, { mode });
  }

  /** Resolves with why it cannot be had here; with nothing when it runs. */
  async start() {
    if (process.getuid() !== 0) return 'needs root';
    if (!SYSTEMD) return 'systemd is not installed';
    const above = cgroup();
    if (!above) return 'no cgroup2 is mounted';
    this.cgroup = path.join(above, path.basename(this.dir));
    try {
      mkdirSync(this.cgroup);
    } catch (error) {
      return `no cgroup can be made: ${error.message}`;
    }
    let said = '';
    this.child = spawn('sh', ['-c', BOOT, 'boot', this.dir, SYSTEMD, process.execPath, this.cgroup], { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of ['stdout', 'stderr']) this.child[stream].on('data', data => (said = (said + data).slice(-500)));
    const ended = new Promise(resolve => this.child.once('close', resolve)).then(() => true);
    for (const end = performance.now() + 20_000; performance.now() < end; ) {
      if ((await this.run('timeout', '5', 'systemctl', 'is-system-running')).out === 'running\n') return undefined;
      if (await Promise.race([ended, sleep(100)])) break;
    }
    return `systemd does not start in namespaces of its own here: ${said.trim() || 'it says nothing'}`;
  }

  /** Its first process, as it is known out here. */
  get init() {
    const { pid } = this.child;
    return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ')[0]);
  }

  /** A command on the machine; resolves with its exit code and output. */
  run(...words) {
    return new Promise(resolve => {
      let init;
      try {
        init = this.init;
      } catch {
        init = 0;
      }
      if (!init) return resolve({ code: -1, out: '', err: 'it does not run' });
      const within = ['-t', String(init), '-p', '-m', '-C', '-r', '-w'];
      execFile('nsenter', [...within, ...words], { timeout: 40_000, env: { PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin' } }, (error, out, err) => {
        resolve({ code: error ? error.code ?? error.signal : 0, out, err });
      });
    });
  }

  /** What a file on it holds now; empty when there is none. */
  read(file) {
    try {
      return readFileSync(path.join(`/proc/${this.init}/root`, file), 'utf8');
    } catch {
      return '';
    }
  }

  /** Properties of a unit, as systemd knows them. */
  async show(unit) {
    const { out } = await this.run('systemctl', 'show', unit);
    return Object.fromEntries(out.split('\n').map(line => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]));
  }

  /** Process ids of a unit, as they are known out here. */
  processes(unit) {
    return this.read(`/sys/fs/cgroup/system.slice/${unit}/cgroup.procs`).split('\n').filter(Boolean).map(Number);
  }

  async end() {
    if (this.child && this.child.exitCode === null && this.child.signalCode === null) {
      // With the first process the kernel ends all others.
      this.child.kill('SIGKILL');
      await new Promise(resolve => this.child.once('exit', resolve));
    }
    const clear = dir => {
      try {
        for (const entry of readdirSync(dir, { withFileTypes: true })) if (entry.isDirectory()) clear(path.join(dir, entry.name));
        rmdirSync(dir);
        return true;
      } catch (error) {
        return error.code === 'ENOENT';
      }
    };
    if (this.cgroup) await until(() => clear(this.cgroup), { what: 'its cgroup to be empty' });
    rmSync(this.dir, { recursive: true, force: true });
  }
}
