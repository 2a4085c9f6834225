// What people do with an app besides requests.

import assert from 'node:assert/strict';
import http from 'node:http';
import https from 'node:https';
import { io } from 'socket.io-client';
import WebSocket from 'ws';
import { range, until, within } from '../../e2e/lib/wait.mjs';

const ANSWER = 15_000;

/** The promise of an event; an 'error' before it fails. */
export const event = (emitter, name, errors = ['error']) =>
  within(ANSWER, `the event ${name}`, new Promise((resolve, reject) => {
    emitter.once(name, (...args) => resolve(args));
    for (const error of errors) emitter.once(error, reject);
  }));

export const open = (target, path, protocols = []) =>
  new WebSocket(`${target.ws}${path}`, protocols, { rejectUnauthorized: false, perMessageDeflate: false });

/** Opens a WebSocket, says something and returns what comes back. */
export async function webSocket(target, path, text) {
  const socket = open(target, path);
  try {
    await event(socket, 'open');
    const answer = event(socket, 'message');
    socket.send(text);
    return String((await answer)[0]);
  } finally {
    socket.terminate();
  }
}

/** A Socket.IO client of one transport, or of both as they come by default. Close it in the end. */
export function socketIo(target, { transports = ['polling', 'websocket'], namespace = '', keepAlive = true, ...more } = {}) {
  const { Agent } = target.scheme === 'https' ? https : http;
  const agent = new Agent({ keepAlive, rejectUnauthorized: false });
  const socket = io(`${target.url}${namespace}`, {
    forceNew: true,
    transports,
    agent,
    rejectUnauthorized: false,
    reconnectionDelay: 50,
    reconnectionDelayMax: 200,
    ...more,
  });
  const close = socket.close.bind(socket);
  socket.leave = () => {
    close();
    agent.destroy();
  };
  return socket;
}

/**
 * Several sessions at a time by one transport, each with acknowledged messages. `echo`: what an answer must be.
 * `patient` for apps that refuse a session now and then by themselves: its client tries again.
 */
export async function socketIoRoundTrips(target, transport, { message = 'echo', data = 'hello', echo, count = 6, patient = false, ...more } = {}) {
  await Promise.all(
    range(count).map(async n => {
      const socket = socketIo(target, { transports: [transport], ...more });
      try {
        if (patient) await until(() => socket.connected, { timeout: ANSWER, what: 'a session' });
        else await event(socket, 'connect', ['connect_error']);
        for (let i = 0; i < 5; i++) {
          const said = `${data} ${n}.${i}`;
          const asks = () => socket.timeout(patient ? 2000 : ANSWER).emitWithAck(message, said);
          const answer = await (patient ? until(asks, { timeout: ANSWER, what: 'an acknowledgement' }) : asks());
          assert.deepEqual(answer, echo ? echo(said) : said);
        }
        assert.equal(socket.io.engine.transport.name, transport);
      } finally {
        socket.leave();
      }
    }),
  );
}

/** Sessions of both transports that are open while workers are replaced; returns what sees that they are connected again. */
export async function lastingSession(target, { message = 'echo', data = 'still here', echo, patient = false, ...more } = {}) {
  const sockets = ['polling', 'websocket'].map(transport => socketIo(target, { transports: [transport], ...more }));
  const refused = [];
  for (const socket of sockets) socket.on('connect_error', error => refused.push(`${error.message} ${error.description ?? ''}`));
  await until(() => sockets.every(socket => socket.connected), { timeout: ANSWER, what: 'sessions' });
  const first = sockets.map(socket => socket.id);
  return async () => {
    try {
      for (const [n, socket] of sockets.entries()) {
        // An acknowledgement is lost with its session: whoever asks again gets one.
        const answer = await until(() => socket.timeout(2000).emitWithAck(message, data), { what: 'an answer to a session that began before' });
        assert.deepEqual(answer, echo ? echo(data) : data);
        assert.notEqual(socket.id, first[n], 'its worker was replaced');
      }
      if (!patient) assert.deepEqual(refused, [], 'no session was refused');
    } finally {
      for (const socket of sockets) socket.leave();
    }
  };
}

/** Fetches the scripts and styles that a page names, which only a build knows. */
export async function assetsOf(target, pattern, page = '/') {
  const { text } = await target.get(page);
  const paths = [...new Set([...text.matchAll(pattern)].map(([path]) => path.replaceAll('&amp;', '&').replace(/^\.\//, '/')))];
  assert.ok(paths.length > 0, `scripts and styles in ${text.slice(0, 1000)}`);
  for (const path of paths) {
    const asset = await target.get(path);
    assert.equal(asset.status, 200, path);
    assert.match(asset.headers['content-type'], /javascript|css/, path);
    assert.ok(asset.body.length > 0, path);
  }
}

/** That an answer comes in parts as the app makes them: the first of the texts is there before the other one is made. */
export async function inParts(target, path, first, then) {
  const chunks = await new Promise((resolve, reject) => {
    const got = [];
    const req = http.get({ host: '127.0.0.1', port: target.port, path, agent: false, timeout: ANSWER }, res => {
      res.on('data', chunk => got.push(String(chunk)));
      res.on('end', () => resolve(got));
      res.on('error', reject);
    });
    req.on('error', reject);
    req.on('timeout', () => req.destroy(new Error(`${path} took too long`)));
  });
  const [early, late] = [first, then].map(text => chunks.findIndex(chunk => chunk.includes(text)));
  assert.ok(early >= 0 && early < late, `"${first}" before "${then}" in ${chunks.length} parts`);
}
