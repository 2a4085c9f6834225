// Starts the chat for a test, behind the proxy or plainly, and ends it without a trace.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));
export const binary = path.resolve(root, process.env.BIN ?? 'target/debug/pingora-unix-proxy');

/** Waits until `check` gives something true; its last error, or `what`, is the failure. */
export async function until(what, check, ms = 20_000) {
  const end = Date.now() + ms;
  for (let last; ; ) {
    try {
      const value = await check();
      if (value) return value;
    } catch (error) {
      last = error;
    }
    if (Date.now() > end) throw new Error(`waited ${ms} ms: ${what}`, { cause: last });
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export const alive = (pid) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

// Ports below 32768: the ones above may be taken by outgoing connections meanwhile.
async function freePort() {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 10_000);
    const probe = net.createServer().listen(port, '127.0.0.1');
    const free = await Promise.race([once(probe, 'listening').then(() => true), once(probe, 'error').then(() => false)]).catch(() => false);
    probe.close();
    if (free) return port;
  }
}

function replaced(text, pattern, by) {
  if (!pattern.test(text)) throw new Error(`conf/chat.yaml has no ${pattern}`);
  return text.replace(pattern, by);
}

// conf/chat.yaml with another port and a runtime directory of its own. The script's path in it is relative to
// the file, so the copy lies beside a link to examples/.
async function copyConfig(dir, port) {
  const text = await fs.readFile(path.join(root, 'conf/chat.yaml'), 'utf8');
  const config = path.join(dir, 'conf/chat.yaml');
  await fs.mkdir(path.dirname(config));
  await fs.symlink(path.join(root, 'examples'), path.join(dir, 'examples'));
  const moved = replaced(text, /127\.0\.0\.1:8000(?=")/, `127.0.0.1:${port}`);
  await fs.writeFile(config, `${moved}\nruntime_dir: ${path.join(dir, 'run')}\n`);
  return config;
}

/** `how` is 'proxy' or 'plain'. Gives { url, output(), stop() }. */
export async function startChat(how) {
  const dir = await fs.mkdtemp(path.join(os.tmpdir(), 'chat-'));
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const env = { ...process.env };
  delete env.NODE_APP_INSTANCE;
  if (how === 'plain') env.PORT = String(port);
  const [command, args] =
    how === 'proxy'
      ? [binary, ['-c', await copyConfig(dir, port)]]
      : [process.execPath, [path.join(root, 'examples/chat/server.js')]];

  const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  const keep = (chunk) => {
    output = (output + chunk).slice(-100_000);
  };
  child.stdout.on('data', keep);
  child.stderr.on('data', keep);
  const exited = new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => resolve(signal ?? code));
  });
  let ended = false;
  exited.then(() => {
    ended = true;
  });

  const stop = async () => {
    if (!ended) child.kill('SIGTERM');
    const late = setTimeout(() => child.kill('SIGKILL'), 30_000);
    const code = await exited;
    clearTimeout(late);
    await fs.rm(dir, { recursive: true });
    return code;
  };

  try {
    await until(
      `${url} answers`,
      async () => {
        if (ended) return true;
        return (await fetch(url, { signal: AbortSignal.timeout(2_000) })).ok;
      },
      60_000,
    );
    if (ended) throw new Error(`ended at once with ${await exited}`);
  } catch (error) {
    await stop();
    throw new Error(`the chat did not start: ${error.message}\n${output}`, { cause: error });
  }
  return { url, output: () => output, stop };
}
