import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
let published = 0;

async function token(target) {
  const name = `zoo${process.pid}x${published}`;
  const body = { name, password: 'secret-zoo' };
  const answer = await target.json(`/-/user/org.couchdb.user:${name}`, { method: 'PUT', body });
  return answer.token;
}

/** npm itself publishes a package and installs it somewhere else. */
async function publishAndInstall(target) {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'zoo-npm-'));
  const name = `zoo-package-${process.pid}-${++published}`;
  const npm = (args, cwd) =>
    run('npm', [...args, '--registry', target.url, '--userconfig', path.join(dir, 'npmrc'), '--cache', path.join(dir, 'cache')], { cwd, timeout: 60_000 });
  try {
    writeFileSync(path.join(dir, 'npmrc'), `//${target.host}/:_authToken=${await token(target)}\nupdate-notifier=false\n`);
    writeFileSync(path.join(dir, 'package.json'), JSON.stringify({ name, version: '1.2.3', main: 'index.js' }));
    writeFileSync(path.join(dir, 'index.js'), `module.exports = ${JSON.stringify('z'.repeat(200_000))};\n`);
    await npm(['publish'], dir);
    const user = mkdtempSync(path.join(dir, 'user-'));
    writeFileSync(path.join(user, 'package.json'), '{}');
    await npm(['install', name], user);
    assert.equal(JSON.parse(readFileSync(path.join(user, 'node_modules', name, 'package.json'))).version, '1.2.3');
    assert.ok(readFileSync(path.join(user, 'node_modules', name, 'index.js')).length > 200_000);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

export default {
  what: 'Verdaccio: packages lie in one directory, whose list one worker keeps',
  node: 22,
  start: { command: ['npx', 'verdaccio', '--config', 'config.yaml'] },
  alone: ['npx', 'verdaccio', '--config', 'config.yaml', '--listen', 'http://127.0.0.1:{port}'],
  workers: 1,
  state: ['storage', 'htpasswd'],
  ready: '/-/ping',
  requests: [
    { path: '/-/ping' },
    { path: '/', expect: { contains: 'The zoo' }, mask: [/"timeOffset":\d+/g] },
    { path: '/no-such-package', expect: { status: 404, contains: 'no such package' } },
    { path: '/-/whoami', headers: { authorization: 'Bearer wrong' }, expect: { contains: '{}' } },
    { path: '/-/static/favicon.ico' },
  ],
  load: [{ path: '/-/ping' }, { path: '/' }],
  uses: { 'a package that npm publishes and installs': publishAndInstall },
};
