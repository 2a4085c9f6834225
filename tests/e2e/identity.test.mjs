// Who a peer is, the kernel says: workers, their children and other users that pretend to be somebody else.

import assert from 'node:assert/strict';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { chmodSync, chownSync, copyFileSync, existsSync, linkSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { ask, withSession } from './lib/http2.mjs';
import { BIN, alive, apps, needsProxy, withProxy } from './lib/proxy.mjs';
import { asked, steady, workers } from './lib/steer.mjs';
import { upgraded } from './lib/handoff.mjs';
import { rawUpgrade } from './lib/upgrade.mjs';
import { range, sleep, until, within } from './lib/wait.mjs';

const options = { timeout: 180_000, ...needsProxy };
/** Workers of other users need root. */
const asRoot = { ...options, skip: options.skip ?? (process.getuid() !== 0 && 'needs root') };
const NOBODY = 65_534;

/** The app where `nobody` can read it, and the proxy's directory so that he gets to his sockets. */
function place(proxy, ...more) {
  chmodSync(proxy.dir, 0o755);
  const dir = path.join(proxy.dir, 'own', 'app');
  mkdirSync(dir, { recursive: true });
  for (const file of ['identity.js', 'http2-worker.js', 'package.json', ...more]) copyFileSync(path.join(apps, file), path.join(dir, file));
  return dir;
}

/** A server that nobody may be led to: it tells whether it was sent a byte. */
class Trap {
  bytes = '';
  connections = 0;

  constructor(at) {
    this.at = at;
    this.server = net.createServer(socket => {
      this.connections++;
      socket.on('error', () => {});
      socket.on('data', data => {
        this.bytes += data.toString('latin1');
        socket.end('HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nTRAP');
      });
    });
  }

  async open() {
    await new Promise((resolve, reject) => this.server.once('error', reject).listen(this.at, resolve));
    return this;
  }

  close() {
    return new Promise(resolve => this.server.close(resolve));
  }
}

/** A socket that only root may use, in a directory of its own. */
async function rootOnly(proxy) {
  const dir = path.join(proxy.dir, 'own', 'root-only');
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  return new Trap(path.join(dir, 'docker.sock')).open();
}

const socketOf = async (proxy, app) => {
  const [worker] = (await workers(proxy, app)).filter(one => one.state === 'ready');
  const dir = path.join(proxy.runtime, 'workers');
  const name = `${app}.${worker.slot}.${worker.incarnation}.sock`;
  return [path.join(dir, app, name), path.join(dir, name)].find(existsSync);
};

/** Puts a link in the place of a socket, as the worker's own user can. */
function link(socket, target) {
  rmSync(socket);
  symlinkSync(target, socket);
  execFileSync('chown', ['-h', `${NOBODY}`, socket]);
}

/** Asks on every path at once; all that came back. An answer may take until the worker has been replaced. */
async function everywhere(port, headers = {}) {
  const host = headers.host ?? 'x';
  const told = promise => promise.catch(error => `failed: ${error.message}`);
  return Promise.all([
    told(request(port, { path: '/v1/version', headers, timeout: 30_000 }).then(answer => answer.text)),
    told(request(port, { path: '/v1/version', method: 'POST', body: 'x', headers, timeout: 30_000 }).then(answer => answer.text)),
    told(withSession(port, session => ask(session, { ':path': '/v1/version', ':authority': host }, { timeout: 30_000 })).then(answer => answer.text)),
    told(rawUpgrade(port, '/v1/version').then(raw => (raw.destroy(), `upgrade: ${raw.answer.status}`))),
  ]);
}

const nimble = { instances: 1, unhealthy_timeout: '500ms', stop_timeout: '500ms', health_check: { interval: '300ms', timeout: '300ms', unhealthy_threshold: 2 } };
const listeners = proxy => [{ address: `127.0.0.1:${proxy.port}`, h2c: true }];
const owned = (proxy, dir, user, more = {}) => ({
  script: './identity.js', cwd: dir, user, env: { NAME: 'web' }, ...nimble, ...more,
});

/** What may stand in the place of a worker's socket, and who would be reached there. */
const ways = {
  'a link to a socket of root': async proxy => {
    const trap = await rootOnly(proxy);
    return { trap, put: socket => link(socket, trap.at) };
  },
  'a link to admin.sock': async proxy => ({ put: socket => link(socket, path.relative(path.dirname(socket), path.join(proxy.runtime, 'admin.sock'))) }),
  "a link to another app's socket": async proxy => {
    const other = await socketOf(proxy, 'other');
    return { put: socket => link(socket, other) };
  },
};
/** Where the app runs as another user than the proxy. */
const foreign = {
  ...ways,
  'a socket that another user has bound': async () => {
    const trap = new Trap();
    return {
      trap,
      put: async socket => {
        rmSync(socket);
        trap.at = socket;
        await trap.open();
      },
    };
  },
};
/** Where it runs as the proxy's own user, who may move the proxy's sockets about. */
const familiar = {
  ...ways,
  'admin.sock itself, under a second name': async proxy => ({
    put: socket => {
      rmSync(socket);
      linkSync(path.join(proxy.runtime, 'admin.sock'), socket);
    },
  }),
  'admin.sock itself, moved': async proxy => ({
    put: socket => {
      // The worker's end takes along what stands in its place.
      linkSync(path.join(proxy.runtime, 'admin.sock'), path.join(proxy.runtime, 'admin.kept'));
      renameSync(path.join(proxy.runtime, 'admin.sock'), socket);
    },
    after: () => renameSync(path.join(proxy.runtime, 'admin.kept'), path.join(proxy.runtime, 'admin.sock')),
  }),
};

for (const [user, all] of [['nobody', foreign], [undefined, familiar]]) {
  for (const [name, way] of Object.entries(all)) {
    for (const carrier of ['own', 'pingora']) {
      const title = `no request is led away from a worker of ${user ?? "the proxy's user"} by ${name} (${carrier === 'own' ? 'HTTP/1, HTTP/2, upgrade' : 'as Pingora carries them'})`;
      test(title, asRoot, () =>
        withProxy(
          proxy => {
            const dir = place(proxy);
            const other = { script: './identity.js', cwd: dir, env: { NAME: 'other' }, instances: 1 };
            return {
              server: { http: carrier === 'pingora' ? 'pingora' : undefined },
              listeners: listeners(proxy),
              apps: { web: owned(proxy, dir, user), other },
              routes: [{ path: '/', app: 'web' }, { host: 'other.example', app: 'other' }],
            };
          },
          async proxy => {
            await steady(proxy, 1, { app: 'other' });
            const { put, trap, after } = await way(proxy);
            const socket = await socketOf(proxy, 'web');
            const [before] = await workers(proxy, 'web');
            await put(socket);
            try {
              const answers = await everywhere(proxy.port);
              for (const answer of answers) assert.doesNotMatch(answer, /TRAP|worker other|"version"|"error":"no route/, JSON.stringify(answers));
              after?.();
              // It is not well, and is replaced; the next one serves.
              await steady(proxy, 1, { app: 'web', fits: ([now]) => now.pid !== before.pid, timeout: 30_000 });
              assert.equal((await request(proxy.port, { path: '/' })).text, 'worker web');
              assert.equal(trap?.bytes ?? '', '', 'nothing of a client has come there');
            } finally {
              await trap?.close();
            }
          },
        ));
    }
  }
}

test('no request is led away from a worker that speaks HTTP/2', asRoot, () =>
  withProxy(
    proxy => {
      const dir = place(proxy);
      return {
        listeners: listeners(proxy),
        apps: { web: { ...owned(proxy, dir, 'nobody'), script: undefined, command: [process.execPath, 'http2-worker.js', '{socket}'], preload: false, protocol: 'http2', health_check: { interval: '1h' } } },
      };
    },
    { ready: false },
    async proxy => {
      await until(() => existsSync(path.join(proxy.runtime, 'admin.sock')), { what: 'the socket for commands' });
      await steady(proxy, 1);
      // Before there is a connection that could be used again.
      const trap = await rootOnly(proxy);
      link(await socketOf(proxy, 'web'), trap.at);
      try {
        const asking = everywhere(proxy.port);
        await sleep(1000);
        assert.equal(trap.bytes, '');
        await asking;
        assert.equal(trap.bytes, '');
      } finally {
        await trap.close();
      }
    },
  ));

test('no health check is led away, by whichever socket stands there', asRoot, async () => {
  for (const check of ['link', 'bound']) {
    await withProxy(
      proxy => {
        const dir = place(proxy);
        return { apps: { web: owned(proxy, dir, 'nobody', { health_check: { path: '/pid', interval: '100ms', timeout: '300ms' } }) } };
      },
      async proxy => {
        const [before] = await steady(proxy, 1);
        const socket = await socketOf(proxy, 'web');
        const trap = check === 'link' ? await rootOnly(proxy) : new Trap(socket);
        if (check === 'link') link(socket, trap.at);
        else {
          rmSync(socket);
          await trap.open();
        }
        try {
          await until(async () => (await workers(proxy)).every(one => one.pid !== before.pid), { timeout: 30_000, what: 'another worker' });
          assert.equal(trap.bytes, '');
        } finally {
          await trap.close();
        }
        await proxy.line(check === 'link' ? /symbolic link/ : /user 0/);
      },
    );
  }
});

test('no request is led away after an upgrade of the proxy, nor after it was killed', asRoot, () =>
  withProxy(
    proxy => {
      const dir = place(proxy);
      return { listeners: listeners(proxy), apps: { web: owned(proxy, dir, 'nobody', { health_check: { interval: '1h' } }) } };
    },
    async proxy => {
      const trap = await rootOnly(proxy);
      try {
        await upgraded(proxy);
        const [first] = await steady(proxy, 1);
        link(await socketOf(proxy, 'web'), trap.at);
        const answers = everywhere(proxy.port);
        await sleep(1000);
        assert.equal(trap.bytes, '', 'after the upgrade');
        proxy.kill(first.pid);
        await answers;
        assert.equal(trap.bytes, '', 'after the upgrade');
        await steady(proxy, 1, { fits: ([now]) => now.pid !== first.pid });
      } finally {
        await trap.close();
      }
    },
  ));

test('no request is led away by a link that was put in the place while no proxy ran', asRoot, () =>
  withProxy(
    proxy => {
      const dir = place(proxy);
      return { listeners: listeners(proxy), orphan_timeout: '60s', apps: { web: owned(proxy, dir, 'nobody', { health_check: { interval: '1h' } }) } };
    },
    async proxy => {
      const trap = await rootOnly(proxy);
      try {
        const [first] = await steady(proxy, 1);
        const socket = await socketOf(proxy, 'web');
        await until(() => readdirSync(proxy.runtime).includes('state.json'), { what: 'the state file' });
        await sleep(200);
        process.kill(proxy.child.pid, 'SIGKILL');
        await until(() => proxy.child.ended, { what: 'its end' });
        link(socket, trap.at);
        proxy.ended = undefined;
        proxy.run(BIN, ['-c', path.join(proxy.dir, 'conf.yaml')]);
        await until(() => asked(proxy, '/v1/status'), { what: 'the next proxy' });
        const answers = everywhere(proxy.port);
        await sleep(1500);
        assert.equal(trap.bytes, '');
        if (alive(first.pid)) proxy.kill(first.pid);
        await answers;
        assert.equal(trap.bytes, '');
        await proxy.ready();
      } finally {
        await trap.close();
      }
    },
  ));

/** What an app is made to do. */
const make = async (proxy, deed, how) => {
  const answer = await request(proxy.port, { path: `/${deed}`, method: 'POST', body: JSON.stringify(how), timeout: 60_000 });
  assert.equal(answer.status, 200, answer.text);
  return answer.json;
};
const single = proxy => ({ apps: { web: { script: './identity.js', cwd: place(proxy), env: { NAME: 'web' }, instances: 1 } } });
const admin = proxy => path.join(proxy.runtime, 'admin.sock');
const curl = proxy => ['curl', '-s', '-m', '10', '--unix-socket', admin(proxy), 'http://x/v1/version'];

test('commands are for operators: a worker and whatever it starts get 403', options, () =>
  withProxy(single, async proxy => {
    const refused = (status, text) => {
      assert.equal(status, 403, text);
      assert.match(text, /workers and what they start may not use admin\.sock/);
    };
    for (const asks of ['/v1/status', '/v1/version', '/livez']) {
      const { status, text } = await make(proxy, 'ask', { socketPath: admin(proxy), path: asks });
      refused(status, text);
    }
    for (const [asks, body] of [['/v1/upgrade', '{"program": "/bin/false"}'], ['/v1/apps/web/restart', ''], ['/v1/reload', '']]) {
      const { status, text } = await make(proxy, 'ask', { socketPath: admin(proxy), path: asks, method: 'POST', body });
      refused(status, text);
    }
    // A child; one without the environment; one with a session of its own; one whose parents have left it.
    for (const command of [
      curl(proxy),
      ['env', '-i', `PATH=${process.env.PATH}`, ...curl(proxy)],
      ['setsid', '-w', ...curl(proxy)],
      ['sh', '-c', `setsid sh -c '( sleep 0.3; ${curl(proxy).join(' ')} ) &' | cat`],
    ]) {
      const { text } = await make(proxy, 'run', { command });
      assert.match(text, /may not use admin\.sock/, command.join(' '));
    }
    await proxy.line(/admin\.sock: process \d+ is refused: /);
    // And an operator's go on.
    assert.equal(execFileSync('curl', curl(proxy).slice(1), { encoding: 'utf8' }).includes('"api":1'), true);
  }));

test('a worker cannot stand in the way of an upgrade as a successor', options, () =>
  withProxy(single, async proxy => {
    const version = JSON.parse(await asked(proxy, '/v1/version')).version;
    const answer = await make(proxy, 'succeed', { socketPath: path.join(proxy.runtime, 'handoff.sock'), version });
    assert.match(answer.text, /refused.*workers and what they start may not use handoff\.sock/);
    await upgraded(proxy);
  }));

/** A copy of the binary that is spoilt; what it is to be refused for. */
const spoilt = {
  'that another user owns': [(file, dir) => chownSync(file, NOBODY, NOBODY), /belongs to user 65534/],
  'that others can write': [(file, dir) => chmodSync(file, 0o757), /can be written by others/],
  "in another user's directory": [(file, dir) => chownSync(dir, NOBODY, NOBODY), /belongs to user 65534/],
  'in a directory that others can write': [(file, dir) => chmodSync(dir, 0o757), /can be written by others/],
};

test('an upgrade runs no program that others could have put there', asRoot, () =>
  withProxy(single, async proxy => {
    const [before] = await workers(proxy);
    for (const [name, [spoil, why]] of Object.entries(spoilt)) {
      const dir = path.join(proxy.dir, 'own', name.replaceAll(' ', '-'));
      mkdirSync(dir, { mode: 0o755 });
      chmodSync(dir, 0o755);
      const ran = path.join(proxy.dir, 'own', 'ran');
      const file = proxy.file(`${name.replaceAll(' ', '-')}/program`, `#!/bin/sh\necho ran >>'${ran}'\nexit 1\n`);
      chmodSync(file, 0o755);
      spoil(file, dir);
      const answer = await new Promise((resolve, reject) => {
        const asking = http.request({ socketPath: admin(proxy), path: '/v1/upgrade', method: 'POST', agent: false }, res => {
          let text = '';
          res.on('data', data => (text += data)).on('end', () => resolve({ status: res.statusCode, text }));
        });
        asking.on('error', reject).end(JSON.stringify({ program: file }));
      });
      assert.equal(existsSync(ran), false, `it was run: a program ${name}`);
      assert.equal(answer.status, 500, answer.text);
      assert.match(JSON.parse(answer.text).error, why);
    }
    // By a link that anybody may turn it is what it leads to now.
    const good = path.join(proxy.dir, 'own', 'good');
    mkdirSync(good);
    copyFileSync(BIN, path.join(good, 'pingora-unix-proxy'));
    const stranger = path.join(proxy.dir, 'own', 'links');
    mkdirSync(stranger);
    symlinkSync(path.join(good, 'pingora-unix-proxy'), path.join(stranger, 'program'));
    chownSync(stranger, NOBODY, NOBODY);
    await upgraded(proxy, { binary: path.join(stranger, 'program') });
    proxy.binaries.add(path.join(good, 'pingora-unix-proxy'));
    assert.equal((await workers(proxy))[0].pid, before.pid);
  }));

test('an upgrade reads no configuration that others could write', options, () =>
  withProxy(single, async proxy => {
    const other = proxy.file('other.yaml', readFileSync(path.join(proxy.dir, 'conf.yaml'), 'utf8'));
    chmodSync(other, 0o666);
    const refused = await new Promise(resolve => {
      execFile(BIN, ['upgrade', '-c', other, '--socket', admin(proxy)], (error, _, err) => resolve({ code: error?.code, err }));
    });
    assert.equal(refused.code, 1);
    assert.match(refused.err, /other\.yaml is not read: .*other\.yaml can be written by others \(mode 666; chmod go-w helps\), so others could name their own programs there/);
    await steady(proxy, 1);
  }));

test('a worker that says it is another process is measured as what it is', options, () =>
  withProxy(
    proxy => ({
      apps: {
        web: {
          command: ['env', '-u', 'NODE_OPTIONS', process.execPath, './identity.js', 'liar', '{socket}'],
          preload: true, cwd: place(proxy), env: { NAME: 'web' }, instances: 1, max_memory_restart: '60mib',
        },
      },
    }),
    async proxy => {
      const [first] = await steady(proxy, 1);
      assert.equal((await workers(proxy))[0].pid, first.pid);
      // It has 150 MB, and calls itself by the number of a process that has one.
      await until(async () => (await workers(proxy)).some(one => one.pid && one.pid !== first.pid), { timeout: 15_000, what: 'its replacement' });
      await proxy.line(/memory/);
    },
  ));

const ticks = pid => {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ').pop().split(' ');
  return Number(fields[11]) + Number(fields[12]);
};

test('a flood on the control channel costs a bounded share, and does not silence the worker', options, t =>
  withProxy(single, async proxy => {
    const [first] = await steady(proxy, 1);
    const [before, at] = [ticks(proxy.pid), performance.now()];
    const { sent } = await make(proxy, 'flood', { ms: 5000 });
    const share = (ticks(proxy.pid) - before) / 100 / ((performance.now() - at) / 1000);
    t.diagnostic(`${sent} lines were said, the proxy used ${(share * 100).toFixed(0)} % of a core`);
    assert.ok(share < 0.25, `${(share * 100).toFixed(0)} % of a core`);
    assert.equal((await request(proxy.port, { path: '/' })).text, 'worker web');
    await sleep(4000);
    const [now] = await workers(proxy);
    assert.deepEqual([now.pid, now.state], [first.pid, 'ready']);
  }));

test('no process outlives a stop, whatever session it has made for itself', options, async () => {
  for (const how of ['SIGTERM', 'kill -9']) {
    const left = [];
    await withProxy(
      proxy => ({ ...single(proxy), ...(how === 'kill -9' ? { orphan_timeout: '1s' } : {}) }),
      how === 'kill -9' ? { stop: { code: null, killed: 'SIGKILL', signal: 'SIGKILL' } } : {},
      async proxy => {
        left.push((await make(proxy, 'run', { command: ['setsid', 'sleep', '600'], wait: false })).pid);
        left.push((await make(proxy, 'run', { command: [process.execPath, '-e', 'process.on("SIGTERM", () => {}); setInterval(() => {}, 1000)'], detached: true, wait: false })).pid);
        // Without the environment, but with a socket of the worker's.
        const at = (await socketOf(proxy, 'web')).replace(/\.sock$/, '-1.sock');
        const listens = `require('node:net').createServer().listen(${JSON.stringify(at)}); setInterval(() => {}, 1000)`;
        left.push((await make(proxy, 'run', { command: [process.execPath, '-e', listens], env: {}, detached: true, wait: false })).pid);
        await until(() => existsSync(at), { what: 'the second socket' });
        for (const pid of left) assert.ok(alive(pid));
        if (how === 'kill -9') {
          process.kill(proxy.pid, 'SIGKILL');
          await until(() => !existsSync(proxy.runtime), { timeout: 20_000, what: 'the guard to clean up' });
        }
      },
    );
    for (const pid of left) assert.equal(alive(pid), false, `${pid} lives on after ${how}`);
  }
});

test('a log is not written through a link of the app\'s user', asRoot, () =>
  withProxy(
    proxy => {
      const dir = place(proxy);
      const logs = path.join(proxy.dir, 'own', 'logs');
      const secret = path.join(proxy.dir, 'own', 'secret');
      mkdirSync(path.join(logs, 'web'), { recursive: true });
      mkdirSync(secret, { mode: 0o700 });
      chownSync(path.join(logs, 'web'), NOBODY, NOBODY);
      symlinkSync(secret, path.join(logs, 'web', 'today'));
      execFileSync('chown', ['-h', `${NOBODY}`, path.join(logs, 'web', 'today')]);
      return {
        logs: { output: 'file', path: path.join(logs, '{app}', 'today', 'out.log') },
        apps: { web: owned(proxy, dir, 'nobody', { env: { NAME: 'web', SAYS: 'something' } }) },
      };
    },
    async proxy => {
      await proxy.line(/out\.log.*symbolic link of user 65534/);
      assert.deepEqual(readdirSync(path.join(proxy.dir, 'own', 'secret')), []);
      // A link that an administrator has made is followed.
      const today = path.join(proxy.dir, 'own', 'logs', 'web', 'today');
      rmSync(today);
      symlinkSync(path.join(proxy.dir, 'own', 'secret'), today);
      execFileSync('chown', ['-h', '0', today]);
      chownSync(path.dirname(today), 0, 0);
      await make(proxy, 'run', { command: ['true'] });
      await until(async () => (await make(proxy, 'tell', { text: 'more' }), readdirSync(path.join(proxy.dir, 'own', 'secret')).length), { what: 'the log' });
    },
  ));

test('a default runtime directory that another user has made is refused, and by its name', asRoot, async () => {
  const mine = 4_000_000_001;
  const at = `/tmp/pingora-unix-proxy-${mine}`;
  const dir = mkdtempSync('/tmp/pup-');
  chmodSync(dir, 0o755);
  const conf = path.join(dir, 'conf.yaml');
  writeFileSync(conf, 'listeners: [{address: "127.0.0.1:0"}]\napps: {web: {command: [sleep, "5", "{socket}"], preload: false}}\n');
  const as = ['setpriv', `--reuid=${mine}`, `--regid=${mine}`, '--clear-groups', 'env', '-u', 'XDG_RUNTIME_DIR'];
  const start = () => execFileSync(as[0], [...as.slice(1), BIN, '-c', conf], { encoding: 'utf8', stdio: 'pipe', timeout: 10_000, cwd: '/' });
  for (const squat of ['a directory', 'a link']) {
    if (squat === 'a directory') {
      mkdirSync(at, { mode: 0o777 });
      chownSync(at, NOBODY, NOBODY);
    } else symlinkSync('/var/tmp', at);
    try {
      assert.throws(start, error => {
        assert.match(error.stderr, new RegExp(at));
        assert.match(error.stderr, squat === 'a directory' ? /belongs to user 65534, not to us.*set another runtime_dir/ : /is a symbolic link.*set another runtime_dir/);
        return error.status === 1;
      });
    } finally {
      rmSync(at, { recursive: true, force: true });
    }
  }
  rmSync(dir, { recursive: true });
});

/** What a user can do, by a shell. */
const can = (uid, script) => {
  try {
    execFileSync('setpriv', [`--reuid=${uid}`, `--regid=${uid}`, '--clear-groups', 'sh', '-c', script], { stdio: 'pipe' });
    return true;
  } catch {
    return false;
  }
};

test('a directory that the proxy makes for external workers is for their users alone, and never without the script', asRoot, async () => {
  const sharedBy = proxy => path.join(proxy.dir, 'own', 'shared', 'chat');
  const kept = [];
  await withProxy(
    proxy => {
      place(proxy);
      return { apps: { chat: { external: { directory: sharedBy(proxy), users: [NOBODY, 1002] }, cwd: undefined } } };
    },
    { ready: false },
    async proxy => {
      const dir = sharedBy(proxy);
      const script = path.join(dir, 'preload.cjs');
      await until(() => existsSync(path.join(dir, 'control.sock')), { what: 'the control socket' });
      assert.equal(statSync(dir).mode & 0o007, 0, 'nothing for others');
      const [name, value] = proxy.mark.split('=');
      const child = spawn('setpriv', [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups', process.execPath, './identity.js'], {
        cwd: path.join(proxy.dir, 'own', 'app'), stdio: 'ignore',
        env: { PATH: process.env.PATH, [name]: value, NAME: 'chat', NODE_OPTIONS: `--require ${script}`, PINGORA_UNIX_PROXY_JOIN: dir },
      });
      kept.push(child);
      await proxy.ready();
      const before = readFileSync(script, 'utf8');
      const attacks = uid => {
        assert.equal(can(uid, `echo 'console.log(1)' > ${script}.mine && mv -f ${script}.mine ${script}`), false, `${uid} puts a script there`);
        assert.equal(can(uid, `rm -f ${script} && ! test -e ${script}`), false, `${uid} removes it`);
      };
      for (const uid of [1001, 1002, NOBODY]) attacks(uid);
      assert.equal(can(1001, `touch ${dir}/x`), false);
      assert.equal(can(1002, `touch ${dir}/x && rm ${dir}/x`), true);
      // While no proxy runs, too: a worker is there.
      await proxy.interrupt();
      assert.ok(existsSync(script));
      for (const uid of [1001, 1002, NOBODY]) attacks(uid);
      assert.equal(readFileSync(script, 'utf8'), before);
      proxy.run(BIN, ['-c', path.join(proxy.dir, 'conf.yaml')]);
      await proxy.ready();
      child.kill('SIGKILL');
      await within(5000, 'its end', new Promise(resolve => child.once('exit', resolve)));
    },
  ).finally(() => kept.forEach(child => child.kill('SIGKILL')));
});
