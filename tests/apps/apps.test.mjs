// Every app in this directory, one after the other; ONLY=name,name/variant runs some. See README.md.

import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { needsProxy } from '../e2e/lib/proxy.mjs';
import { NotHere, zoo } from './lib/prepare.mjs';
import { runApp } from './lib/run.mjs';

/** With the installation of what is not in the cache. */
const LIMIT = 30 * 60_000;

async function all() {
  const found = [];
  for (const name of readdirSync(zoo).sort()) {
    const file = path.join(zoo, name, 'app.mjs');
    if (!existsSync(file)) continue;
    const { default: app } = await import(file);
    const variants = app.variants ? Object.entries(app.variants) : [[null, {}]];
    for (const [variant, more] of variants) found.push({ ...app, ...more, name, title: variant ? `${name}/${variant}` : name });
  }
  return found;
}

const only = process.env.ONLY?.split(',');
const chosen = (await all()).filter(({ name, title }) => !only || only.includes(name) || only.includes(title));
if (chosen.length === 0) throw new Error(`no app is called ${process.env.ONLY}`);

for (const app of chosen) {
  test(`${app.title}: ${app.what}`, { timeout: LIMIT, ...needsProxy }, async t => {
    try {
      const { workers, compared, answered, ms, differs } = await runApp(app);
      const uses = Object.keys(app.uses ?? {});
      const seconds = (ms / 1000).toFixed(1);
      console.log(`works: ${app.title}: workers: ${workers}; ${compared} requests compared; replaced in ${seconds} s, ${answered} requests meanwhile`);
      for (const use of uses) console.log(`works: ${app.title}: ${use}`);
      for (const difference of differs) console.log(`differs: ${app.title}: ${difference}`);
    } catch (error) {
      if (!(error instanceof NotHere)) throw error;
      console.log(`skipped: ${app.title}: ${error.message}`);
      t.skip(error.message);
    }
  });
}
