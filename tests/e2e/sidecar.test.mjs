// The sidecar form of deploy/kubernetes as it stands there, without a cluster: two containers that share a directory and
// nothing else. Each has processes, mounts and a user of its own, no capability and a root that it cannot write to.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import test from 'node:test';
import { request } from './lib/http.mjs';
import { BIN, Proxy, freePort, needsProxy, suiteDir } from './lib/proxy.mjs';
import { range, sleep, until, within } from './lib/wait.mjs';

const MANIFEST = readFileSync(path.join(suiteDir, '../../deploy/kubernetes/sidecar.yaml'), 'utf8');
const NAMESPACES = ['--fork', '--pid', '--mount', '--ipc', '--uts', '--kill-child'];
const mayNot = spawnSync('unshare', [...NAMESPACES, 'sh', '-c', 'mount --make-rprivate / && mount -t tmpfs tmpfs /run']).status !== 0;
const skip = mayNot && 'needs the right to make namespaces and to mount (root)';
const options = { timeout: 120_000, skip, ...needsProxy };

// What the kubelet and the container runtime do. $1: the pod's volumes, $2: the binary, $3: the user; then the command.
const CONTAINER = `
set -e
pod=$1 binary=$2 user=$3
shift 3
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir /run/shared /run/proxy /run/config
: >/run/binary
mount --bind "$binary" /run/binary
for volume in shared proxy config; do mount --bind "$pod/$volume" "/run/$volume"; done
mount -o remount,ro /run
mount -o remount,bind,ro /
exec setpriv --reuid="$user" --regid="$user" --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all -- "$@"
`;

const APP = `
const server = require('node:http').createServer((req, res) => setTimeout(() => res.end(process.env.NAME), 5));
server.listen(3000);
process.on('SIGTERM', () => server.close(() => process.exit(0)));
`;

/** The manifest's own configuration, with ports that are free here. */
function configuration(ports) {
  const [, block] = /^ {2}conf\.yaml: \|\n((?: {4}.*\n)+)/m.exec(MANIFEST);
  return block.replaceAll(/^ {4}/gm, '').replaceAll(/0\.0\.0\.0:(\d+)/g, (_, port) => `127.0.0.1:${ports[port]}`);
}

const [proxyUser, appUser] = [...MANIFEST.matchAll(/runAsUser: (\d+)/g)].map(match => Number(match[1]));
const appEnvironment = Object.fromEntries([...MANIFEST.matchAll(/\{name: (\w+), value: (.+)\}/g)].map(match => match.slice(1)));

class Pod {
  constructor(ports) {
    // Only for its mark, by which what was left is found and ended, and its directory.
    this.proxy = new Proxy();
    this.ports = ports;
    this.dir = this.proxy.file('pod');
    chmodSync(this.proxy.dir, 0o711);
    // As an emptyDir is made.
    for (const volume of ['shared', 'proxy', 'config']) {
      mkdirSync(path.join(this.dir, volume), { recursive: true });
      chmodSync(path.join(this.dir, volume), 0o777);
    }
    this.app = path.join(this.dir, 'config', 'app.js');
    writeFileSync(this.app, APP);
    writeFileSync(path.join(this.dir, 'config', 'conf.yaml'), configuration(ports));
    this.output = '';
  }

  #start(user, env, command) {
    const [name, value] = this.proxy.mark.split('=');
    const all = { PATH: process.env.PATH, HOME: '/tmp', [name]: value, ...env };
    const args = [...NAMESPACES, 'sh', '-c', CONTAINER, 'sh', this.dir, BIN, String(user), ...command];
    const child = spawn('unshare', args, { env: all, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of ['stdout', 'stderr']) child[stream].on('data', text => (this.output += text));
    const exit = new Promise(resolve => child.once('exit', (code, signal) => resolve({ code, signal })));
    // To its PID 1.
    const send = signal => process.kill(Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8')), signal);
    const end = (signal = 'SIGTERM') => {
      send(signal);
      return within(15_000, `the end of a container after ${signal}`, exit);
    };
    return { signal: send, end };
  }

  /** Returns when its startup probe succeeds: that is when the kubelet starts the app. */
  async startProxy() {
    const container = this.#start(proxyUser, { XDG_RUNTIME_DIR: '/run/proxy' }, ['/run/binary', '-c', '/run/config/conf.yaml']);
    await until(async () => (await this.probe('/livez')) === 200, { timeout: 20_000, what: 'the startup probe', every: 5 });
    return container;
  }

  startApp(name) {
    return this.#start(appUser, { ...appEnvironment, NAME: name }, [process.execPath, '/run/config/app.js']);
  }

  async probe(at) {
    return (await request(this.ports[9902], { path: at, timeout: 2000 })).status;
  }

  /** Waits until these and no others answer. */
  async answering(...names) {
    const asked = async () => {
      const answers = await Promise.all(range(12).map(() => request(this.ports[8000], { path: '/', timeout: 5000 })));
      return [...new Set(answers.map(answer => answer.text))].sort().join();
    };
    await until(async () => (await asked()) === names.join(), { timeout: 20_000, what: `${names} to answer` });
  }

  shared() {
    const dir = path.join(this.dir, 'shared', 'chat');
    return existsSync(dir) ? readdirSync(dir).sort() : [];
  }

  /** Requests on kept and on new connections until `body` is done; the failures. */
  async load(body) {
    const agent = new http.Agent({ keepAlive: true });
    const failures = [];
    let asking = true;
    const ask = kept =>
      new Promise(resolve => {
        const failed = error => resolve(failures.push(`${kept ? 'kept' : 'new'} connection: ${error.message}`));
        const asked = http.get({ port: this.ports[8000], agent: kept && agent, timeout: 10_000 }, answer => {
          if (answer.statusCode !== 200) failures.push(`status ${answer.statusCode}`);
          answer.on('error', failed).on('end', resolve).resume();
        });
        asked.on('error', failed).on('timeout', () => asked.destroy(new Error('no answer in 10 s')));
      });
    const loops = range(8).map(async n => {
      while (asking) await ask(n % 2 === 0);
    });
    try {
      await body();
    } finally {
      asking = false;
      await Promise.all(loops);
      agent.destroy();
    }
    return failures;
  }

  remove() {
    this.proxy.killAll();
    if (!process.env.KEEP) rmSync(this.proxy.dir, { recursive: true, force: true });
  }
}

const CLEAN = { code: 0, signal: null };

async function inPod(body) {
  const pod = new Pod({ 8000: await freePort(), 9901: await freePort(), 9902: await freePort() });
  try {
    await body(pod);
  } catch (error) {
    console.error(pod.output);
    throw error;
  } finally {
    pod.remove();
  }
}

test('sidecar: the app joins from its own container, is scaled, and is replaced without a failed request', options, () =>
  inPod(async pod => {
    const proxy = await pod.startProxy();
    assert.equal(await pod.probe('/readyz'), 503);
    // It would not start without the preload script.
    const first = pod.startApp('one');
    await pod.answering('one');
    assert.equal(await pod.probe('/readyz'), 200);
    // What the manifest's HPA goes by.
    const [, series] = /seriesQuery: '(\w+)\{/.exec(MANIFEST);
    const told = async () => (await request(pod.ports[9901], { path: '/metrics' })).text;
    await until(async () => new RegExp(`^${series}\\{app="chat",slot="0"\\} \\d`, 'm').test(await told()), { what: series });
    // The app's own probe: a hung one is the kubelet's to restart.
    const [, alive] = /livenessProbe:\s+httpGet: \{path: "(\S+app=chat)", port: 9902\}/.exec(MANIFEST);
    first.signal('SIGSTOP');
    await until(async () => (await pod.probe(alive)) === 503, { timeout: 20_000, what: 'the probe to see a hung app' });
    first.signal('SIGCONT');
    await until(async () => (await pod.probe(alive)) === 200, { what: 'the probe to see it well' });
    const second = pod.startApp('two');
    await pod.answering('one', 'two');
    let third;
    const failures = await pod.load(async () => {
      await sleep(300);
      assert.deepEqual(await first.end(), CLEAN);
      third = pod.startApp('three');
      await pod.answering('three', 'two');
      assert.deepEqual(await second.end(), CLEAN);
      await sleep(300);
    });
    assert.deepEqual(failures, []);
    await pod.answering('three');
    // In the order of a pod's end.
    assert.deepEqual(await third.end(), CLEAN);
    assert.deepEqual(await proxy.end(), CLEAN);
    assert.deepEqual(pod.shared(), []);
    assert.deepEqual(readdirSync(path.join(pod.dir, 'proxy')), []);
  }));

test('sidecar: the proxy is restarted, and killed, and the app goes on', options, () =>
  inPod(async pod => {
    let proxy = await pod.startProxy();
    const workers = ['one', 'two'].map(name => pod.startApp(name));
    await pod.answering('one', 'two');
    assert.deepEqual(await proxy.end(), CLEAN);
    assert.deepEqual(pod.shared().filter(name => !name.startsWith('worker.')), ['preload.cjs'], 'nobody else can put one there');
    proxy = await pod.startProxy();
    await pod.answering('one', 'two');
    await proxy.end('SIGKILL');
    // Its preload script is still there: an app that starts now waits for a proxy.
    workers.push(pod.startApp('zero'));
    proxy = await pod.startProxy();
    await pod.answering('one', 'two', 'zero');
    for (const worker of workers) assert.deepEqual(await worker.end(), CLEAN);
    assert.deepEqual(await proxy.end(), CLEAN);
    // It was there before this proxy.
    assert.deepEqual(pod.shared(), ['preload.cjs']);
  }));
