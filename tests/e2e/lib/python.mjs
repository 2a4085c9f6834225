// A Python with the packages of apps/python, made once in tests/e2e/.venv; or with other packages elsewhere.

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { apps, suiteDir } from './proxy.mjs';

const run = promisify(execFile);

/** The interpreter's path, or undefined where there is no python3 at all. */
export async function python({ dir = suiteDir, requirements = path.join(apps, 'python/requirements.txt') } = {}) {
  const venv = path.join(dir, '.venv');
  const interpreter = path.join(venv, 'bin/python');
  const stamp = path.join(venv, `made-${createHash('sha256').update(readFileSync(requirements)).digest('hex').slice(0, 16)}`);
  if (existsSync(stamp) && existsSync(interpreter)) return interpreter;
  try {
    await run('python3', ['--version']);
  } catch {
    return undefined;
  }
  rmSync(venv, { recursive: true, force: true });
  try {
    await run('python3', ['-m', 'venv', venv], { timeout: 120_000 });
    await run(interpreter, ['-m', 'pip', 'install', '--quiet', '-r', requirements], { timeout: 240_000 });
  } catch (error) {
    throw new Error(`cannot make ${venv} (on Debian: apt-get install python3-venv): ${error.message}`);
  }
  writeFileSync(stamp, '');
  return interpreter;
}
