// Installs and builds an app in a folder outside of git, once for each state of its sources.
//
// `target/apps/NAME` (or `$APPS/NAME`) is a copy of the app's folder. `.state.json` there says for which sources, steps and
// Node.js it was made. What is installed stays as long as the package files do.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, openSync, closeSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const zoo = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
export const cache = path.resolve(process.env.APPS ?? path.join(zoo, '../../target/apps'));

const INSTALL_LIMIT = 10 * 60_000;
const BUILD_LIMIT = 10 * 60_000;
const PACKAGE_FILES = new Set(['package.json', 'package-lock.json', 'pnpm-lock.yaml', 'pnpm-workspace.yaml', 'yarn.lock', '.npmrc']);
/** Written by the harness or by people; no app sees it. */
const NOT_COPIED = new Set(['app.mjs', 'node_modules']);

/** Nobody is to be told that a test runs, and nothing is to look for news. */
export const QUIET = {
  ASTRO_TELEMETRY_DISABLED: '1',
  CHECKPOINT_DISABLE: '1',
  COREPACK_ENABLE_DOWNLOAD_PROMPT: '0',
  DISABLE_OPENCOLLECTIVE: '1',
  DO_NOT_TRACK: '1',
  NEXT_TELEMETRY_DISABLED: '1',
  NO_COLOR: '1',
  NO_UPDATE_NOTIFIER: '1',
  NUXT_TELEMETRY_DISABLED: '1',
  npm_config_audit: 'false',
  npm_config_fund: 'false',
  npm_config_update_notifier: 'false',
};

/** That an app cannot be had on this machine: its test is skipped, and says so. */
export class NotHere extends Error {}

/** The directory of the Node.js that an app wants: the running one's, or a newer one that came with the zoo's packages. */
export function nodeFor(app) {
  const have = Number(process.versions.node.split('.')[0]);
  if (!app.node || have >= app.node) return path.dirname(process.execPath);
  const bin = path.join(zoo, `node_modules/node-24-${process.arch}/bin`);
  if (app.node > 24 || !existsSync(path.join(bin, 'node'))) throw new NotHere(`it needs Node.js ${app.node}, this is ${process.version}`);
  return bin;
}

const OF_THE_RUNNER = new Set(['INIT_CWD', 'NODE_APP_INSTANCE', 'NODE_ENV', 'NODE_OPTIONS', 'NODE_PATH', 'NODE_TEST_CONTEXT', 'NODE_V8_COVERAGE', 'PORT']);

/** What an app's processes find: its Node.js first, the zoo's pnpm and yarn last. */
export function environmentFor(app) {
  const PATH = [nodeFor(app), process.env.PATH, path.join(zoo, 'node_modules/.bin')].join(path.delimiter);
  const env = { ...process.env, ...QUIET, PATH };
  delete env.FORCE_COLOR;
  for (const name of Object.keys(env)) {
    // The runner's own, and npm's when it has started the runner.
    if (OF_THE_RUNNER.has(name) || /^npm_(?!config_)/.test(name)) delete env[name];
  }
  return env;
}

const filesIn = (dir, under = '') =>
  readdirSync(path.join(dir, under), { withFileTypes: true }).flatMap(entry => {
    if (under === '' && NOT_COPIED.has(entry.name)) return [];
    const at = path.join(under, entry.name);
    return entry.isDirectory() ? filesIn(dir, at) : [at];
  });

/** The app's files, from name to place: its own, on top of those of the app that it is like. */
function sourcesOf(app) {
  const folders = [app.like ?? [], app.name].flat().map(name => path.join(zoo, name));
  return new Map(folders.flatMap(dir => filesIn(dir).map(name => [name, path.join(dir, name)])));
}

function digest(sources, ...more) {
  const hash = createHash('sha256');
  for (const [name, at] of [...sources].sort()) hash.update(`${name}\0`).update(readFileSync(at));
  return hash.update(JSON.stringify(more)).digest('hex');
}

function installStep(app, sources) {
  if (app.install) return app.install;
  if (sources.has('package-lock.json')) return [['npm', 'ci']];
  if (sources.has('pnpm-lock.yaml')) return [['pnpm', 'install', '--frozen-lockfile']];
  if (sources.has('yarn.lock')) return [['yarn', 'install', '--frozen-lockfile', '--non-interactive']];
  return [];
}

/** npm says first what is wrong and then how it is used; compilers say it last. */
function outcomeOf(log) {
  const text = readFileSync(log, 'utf8');
  const at = text.indexOf('npm error code');
  return at >= 0 ? text.slice(at, at + 1200) : text.slice(-3000);
}

/** Runs a step at low priority; its output goes to the log. */
function run(step, { cwd, env, limit, log }) {
  const [command, ...args] = step;
  const out = openSync(log, 'a');
  writeFileSync(out, `$ ${step.join(' ')}\n`);
  return new Promise((resolve, reject) => {
    const child = spawn('nice', ['-n', '15', command, ...args], { cwd, env, stdio: ['ignore', out, out], detached: true });
    const kill = () => process.kill(-child.pid, 'SIGKILL');
    const timer = setTimeout(kill, limit);
    process.once('exit', kill);
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      clearTimeout(timer);
      process.off('exit', kill);
      closeSync(out);
      if (code === 0) return resolve();
      const why = signal === 'SIGKILL' ? `was not done within ${limit / 1000} s` : `ended with ${code ?? signal}`;
      reject(new Error(`${step.join(' ')} ${why}; ${log}:\n${outcomeOf(log)}`));
    });
  });
}

/** A registry that is not there, a full disk or a slow machine; a wrong lock file is a mistake of the zoo. */
export const isOfTheMachine = error =>
  /\b(ENOTFOUND|EAI_AGAIN|ECONN\w+|ETIMEDOUT|ENETUNREACH|ENOSPC|E40[134]|ETARGET|EBADENGINE|ENOENT)\b|was not done within/.test(error.message);

const firstLines = error => error.message.split('\n').filter(Boolean).slice(0, 4).join(' | ');

/** The folder in which the app is ready to be started. */
export async function prepare(app) {
  const sources = sourcesOf(app);
  const dir = path.join(cache, app.name);
  const log = `${dir}.log`;
  const stateFile = path.join(dir, '.state.json');
  const install = installStep(app, sources);
  const build = app.build ?? [];
  const packages = new Map([...sources].filter(([name]) => PACKAGE_FILES.has(path.basename(name))));
  const env = { ...environmentFor(app), ...app.buildEnv };
  const node = nodeFor(app);
  const wanted = {
    packages: digest(packages, install, node, process.version),
    sources: digest(sources, build, app.buildEnv),
  };
  const state = existsSync(stateFile) ? JSON.parse(readFileSync(stateFile, 'utf8')) : {};
  if (state.packages === wanted.packages && state.sources === wanted.sources) return dir;
  const started = performance.now();
  clear(dir, state.packages === wanted.packages ? ['node_modules'] : []);
  mkdirSync(dir, { recursive: true });
  writeFileSync(log, '');
  for (const [name, at] of sources) cpSync(at, path.join(dir, name));
  if (state.packages !== wanted.packages) {
    for (const step of install) {
      await run(step, { cwd: dir, env, limit: INSTALL_LIMIT, log }).catch(error => {
        throw isOfTheMachine(error) ? new NotHere(`it cannot be installed: ${firstLines(error)}`) : error;
      });
    }
  }
  writeFileSync(stateFile, JSON.stringify({ packages: wanted.packages }));
  for (const step of build) await run(step, { cwd: dir, env, limit: BUILD_LIMIT, log });
  writeFileSync(stateFile, JSON.stringify(wanted));
  console.log(`prepared: ${app.name} (${Math.round((performance.now() - started) / 1000)} s)`);
  return dir;
}

function clear(dir, keep) {
  if (!existsSync(dir) || !statSync(dir).isDirectory()) return;
  for (const name of readdirSync(dir)) if (!keep.includes(name)) rmSync(path.join(dir, name), { recursive: true, force: true });
}
