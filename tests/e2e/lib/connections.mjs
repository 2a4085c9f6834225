// Who holds which connection, as the kernel tells it.

import { readFileSync, readdirSync, readlinkSync } from 'node:fs';

const LISTEN = '0A';

/**
 * The server's ends of all connections to a local TCP port that a process has, half-closed ones too: from the client's
 * port to the socket's inode.
 */
export function connections(port) {
  const found = new Map();
  for (const table of ['tcp', 'tcp6']) {
    let text;
    try {
      text = readFileSync(`/proc/net/${table}`, 'latin1');
    } catch {
      continue;
    }
    for (const line of text.trim().split('\n').slice(1)) {
      const [, local, remote, state, , , , , , inode] = line.trim().split(/\s+/);
      if (state !== LISTEN && hex(local) === port && inode !== '0') found.set(hex(remote), Number(inode));
    }
  }
  return found;
}

const hex = address => parseInt(address.slice(address.lastIndexOf(':') + 1), 16);

/** The inodes of all sockets that a process has open; none if there is no such process. */
export function socketsOf(pid) {
  const found = new Set();
  let names = [];
  try {
    names = readdirSync(`/proc/${pid}/fd`);
  } catch {
    // It is gone.
  }
  for (const name of names) {
    try {
      const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${name}`));
      if (inode) found.add(Number(inode[1]));
    } catch {
      // Closed while we looked.
    }
  }
  return found;
}
