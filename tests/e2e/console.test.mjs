// What commands print where nobody can take it: a full disk, a closed pipe. No panic, and a code that says what happened.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmodSync, existsSync, rmSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { BIN, Proxy, configure, freePort, needsProxy, withProxy } from './lib/proxy.mjs';

const options = { timeout: 60_000, ...needsProxy };
const full = existsSync('/dev/full') ? options : { ...options, skip: 'no /dev/full' };

/** A shell's command line: its exit code, and what it said. */
const shell = (line, env) => new Promise(resolve => {
  execFile('bash', ['-c', line], { timeout: 20_000, env: { ...process.env, BIN, ...env } }, (error, out, err) => {
    resolve({ code: error ? error.code ?? error.signal : 0, out, err });
  });
});

/** Every command, with its code where everything can be said. */
const commands = conf => [
  ['--help', 0],
  ['--version', 0],
  [`-t -c ${conf}`, 0],
  [`-t -c ${conf}.wrong`, 1],
  [`-t -- node -e 1`, 0],
  [`status -c ${conf}`, 0],
  [`status --json -c ${conf}`, 0],
  [`health -c ${conf}`, 0],
  [`scale web 1 -c ${conf}`, 0],
  [`restart -c ${conf}`, 0],
  [`reload -c ${conf}`, 0],
  ['status --help', 0],
];
const each = body => withProxy({ apps: { web: { script: './http.js', instances: 1 } } }, async proxy => {
  const conf = path.join(proxy.dir, 'conf.yaml');
  for (const [words, code] of commands(conf)) await body(words, code, proxy);
});

test('standard output on a full disk: code 1 and a line on stderr', full, () =>
  each(async (words) => {
    const { code, err } = await shell(`"$BIN" ${words} >/dev/full`);
    assert.equal(code, 1, `${words}: ${err}`);
    assert.match(err, /^pingora-unix-proxy: standard output: /m, words);
    assert.doesNotMatch(err, /panicked/, words);
  }));

test('standard output whose reader has gone: quiet, and the code of the command itself', options, () =>
  each(async (words, expected) => {
    // The reader is gone before the command starts.
    const { code, err } = await shell(`exec 9> >(exec true); wait $!; "$BIN" ${words} >&9`);
    assert.equal(code, expected, `${words}: ${err}`);
    assert.equal(err, '', words);
  }));

test('both streams on a full disk, or closed: a code and no panic', full, () =>
  each(async (words) => {
    for (const to of ['>/dev/full 2>/dev/full', '>&- 2>&-']) {
      const { code } = await shell(`"$BIN" ${words} ${to}`);
      assert.ok(code === 0 || code === 1, `${words} ${to}: ${code}`);
    }
    for (const wrong of ['--wrong', '-c /nowhere/conf.yaml', 'status --runtime-dir /nowhere', 'scale', '']) {
      const { code } = await shell(`"$BIN" ${wrong} >/dev/full 2>/dev/full`);
      assert.ok([1, 2, 78].includes(code), `${wrong}: ${code}`);
    }
  }));

test('-t: a script that the app\'s user may not read', options, async t => {
  if (process.getuid() !== 0) {
    console.log(`skipped: ${t.name}: needs root`);
    return t.skip('needs root');
  }
  const proxy = new Proxy();
  proxy.port = await freePort();
  try {
    const own = path.dirname(proxy.file('app.js', 'setInterval(() => {}, 1000)'));
    chmodSync(proxy.dir, 0o755);
    chmodSync(path.join(own, 'app.js'), 0o600);
    for (const run of [{ script: 'app.js' }, { command: ['node', 'app.js'] }]) {
      const file = configure(proxy, { apps: { web: { ...run, cwd: own, user: 'nobody' } } });
      const { code, out } = await shell(`"$BIN" -t -c ${file}`);
      assert.equal(code, 1, out);
      assert.match(out, /conf\.yaml:\d+:\d+: user nobody cannot reach .*app\.js; permissions of .*app\.js bar the way/);
    }
    chmodSync(path.join(own, 'app.js'), 0o644);
    assert.equal((await shell(`"$BIN" -t -c ${path.join(proxy.dir, 'conf.yaml')}`)).code, 0);
  } finally {
    proxy.killAll();
    rmSync(proxy.dir, { recursive: true });
  }
});

test('a start with a wrong configuration ends with 78, any other failure with 1', options, async () => {
  const proxy = new Proxy();
  proxy.port = await freePort();
  try {
    const file = configure(proxy, { apps: { web: { command: ['node', 'missing.js'] } } });
    const wrong = await shell(`"$BIN" -c ${file}`);
    assert.equal(wrong.code, 78, wrong.err);
    assert.match(wrong.err, /conf\.yaml:\d+:\d+: apps\.web\.command: there is no file "missing\.js" for node/);
    assert.equal((await shell(`"$BIN" -d -c ${file}`)).code, 78);
    assert.equal((await shell(`"$BIN" -t -c ${file}`)).code, 1);
    const command = await shell('"$BIN" -- node missing.js');
    assert.equal(command.code, 78);
    assert.match(command.err, /there is no file "missing\.js" for node/);
    assert.equal((await shell('"$BIN" -c /nowhere/conf.yaml')).code, 78);
  } finally {
    proxy.killAll();
    rmSync(proxy.dir, { recursive: true });
  }
});
