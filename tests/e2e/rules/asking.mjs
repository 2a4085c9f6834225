// What several rules do.

import { readFileSync } from 'node:fs';
import { range } from '../lib/wait.mjs';

/** Which workers had a request, in their order. */
export function noted(at, name) {
  let all = '';
  try {
    all = readFileSync(at.proxy.file(`${at.app}.notes`), 'utf8');
  } catch {
    // None so far.
  }
  return all.split('\n').filter(line => line.startsWith(`${name} `)).map(line => Number(line.split(' ')[1]));
}

/** Asks so often, on one connection after the other if the path has only one request for each. */
export async function often(at, times, asked) {
  const client = await at.open();
  const results = [];
  for (const _ of range(times)) results.push(await client.ask(asked));
  return results;
}

/** A session of Engine.IO: its id, and its worker. */
export async function session(at) {
  const opened = await at.direct('/socket.io/?EIO=4&transport=polling');
  return { sid: JSON.parse(opened.text.slice(1)).sid, pid: Number(opened.headers['x-pid']) };
}

/** A request of a session, as its path makes it: a packet that is posted, or the upgrade to WebSocket. */
export const ofSession = (at, sid, packet = '40') => at.upgrades
  ? { path: `/socket.io/?EIO=4&transport=websocket&sid=${sid}` }
  : { method: 'POST', path: `/socket.io/?EIO=4&transport=polling&sid=${sid}`, body: packet };
