// Sessions of TLS that are resumed, also by a process that took over.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import tls from 'node:tls';
import { freePort, needsUpgrade, withProxy } from './lib/proxy.mjs';
import { succeed } from './lib/steer.mjs';

const options = { timeout: 90_000, ...needsUpgrade };

async function secure(body) {
  const port = await freePort();
  const config = proxy => ({
    apps: { web: { script: './http.js' } },
    listeners: [{ address: `127.0.0.1:${proxy.port}` }, { address: `127.0.0.1:${port}`, tls: 'self-signed' }],
    state_dir: proxy.file('state'),
  });
  await withProxy(config, proxy => body(proxy, port));
}

/** A connection with one request; whether its session was resumed, and the tickets that it got. */
const connect = (port, { session, ...options } = {}) =>
  new Promise((resolve, reject) => {
    const tickets = [];
    const socket = tls.connect({ host: '127.0.0.1', port, servername: 'localhost', rejectUnauthorized: false, session, ...options });
    let text = '';
    let reused;
    socket.once('error', reject);
    socket.on('session', ticket => tickets.push(ticket));
    socket.once('secureConnect', () => {
      reused = socket.isSessionReused();
      socket.write('GET /pid HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
    });
    socket.on('data', data => (text += data));
    socket.once('close', () => resolve({ reused, tickets, status: Number(text.split(' ')[1]) }));
  });

for (const version of ['TLSv1.2', 'TLSv1.3']) {
  const only = { minVersion: version, maxVersion: version };
  test(`a session is resumed, also after three upgrades and a reload (${version})`, options, () =>
    secure(async (proxy, port) => {
      const first = await connect(port, only);
      assert.deepEqual([first.status, first.reused], [200, false]);
      const [ticket] = first.tickets;
      const again = await connect(port, { ...only, session: ticket });
      assert.deepEqual([again.status, again.reused], [200, true]);
      for (let n = 0; n < 3; n++) {
        const { code, err } = await proxy.upgrade();
        assert.equal(code, 0, err);
        const after = await connect(port, { ...only, session: ticket });
        assert.deepEqual([after.status, after.reused], [200, true], `upgrade ${n + 1}`);
      }
      await succeed(proxy, ['reload']);
      assert.equal((await connect(port, { ...only, session: ticket })).reused, true);
    }));

  test(`openssl resumes its session after an upgrade (${version})`, options, () =>
    secure(async (proxy, port) => {
      const file = proxy.file('session.pem');
      const client = (...more) =>
        new Promise(resolve => {
          const flag = version === 'TLSv1.2' ? '-tls1_2' : '-tls1_3';
          const args = ['s_client', '-connect', `127.0.0.1:${port}`, '-servername', 'localhost', flag, '-ign_eof', ...more];
          const child = execFile('openssl', args, { timeout: 15_000 }, (_, out) => resolve(out));
          child.stdin.end('GET /pid HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
        });
      assert.match(await client('-sess_out', file), /\nNew, TLSv1\.[23]/);
      assert.equal((await proxy.upgrade()).code, 0);
      const out = await client('-sess_in', file);
      assert.match(out, /\nReused, TLSv1\.[23]/);
      assert.match(out, /HTTP\/1\.1 200/);
    }));
}

test('a ticket of another proxy begins a session anew', options, async () => {
  let foreign;
  await secure(async (_, port) => {
    [foreign] = (await connect(port)).tickets;
  });
  await secure(async (_, port) => {
    const outcome = await connect(port, { session: foreign });
    assert.deepEqual([outcome.status, outcome.reused], [200, false]);
  });
});

test('the keys are in no file of the runtime directory and in no log', options, () =>
  secure(async (proxy, port) => {
    await connect(port);
    assert.equal((await proxy.upgrade()).code, 0);
    const files = readdirSync(proxy.runtime, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile());
    const state = files.map(entry => readFileSync(path.join(entry.parentPath ?? entry.path, entry.name), 'latin1')).join('\n');
    assert.doesNotMatch(`${state}${proxy.output}`, /ticket|TicketKeys|secret"/i);
  }));
