// A client of apps/grpc-worker.js: each call to its end, with all that came.

import { createRequire } from 'node:module';
import { within } from './wait.mjs';

const require = createRequire(import.meta.url);
export const grpc = require('@grpc/grpc-js');
const { service } = require('../apps/grpc-worker.js');
const Echo = grpc.makeGenericClientConstructor(service, 'Echo');

export const connect = (port, options = {}) =>
  new Echo(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), {
    // A channel of its own, so that each client is a connection.
    'grpc.use_local_subchannel_pool': 1, 'grpc.max_receive_message_length': 16 << 20, 'grpc.enable_retries': 0, 'grpc.initial_reconnect_backoff_ms': 100, ...options,
  });

export function metadata(fields = {}) {
  const made = new grpc.Metadata();
  for (const [key, value] of Object.entries(fields)) made.set(key, value);
  return made;
}

/**
 * Makes a call: `kind` is unary, collect, spread or talk; `message` for those that send one, `send(call)` for those that send many.
 * {code, details, initial, trailing, messages}; initial and trailing are metadata as objects.
 */
export function call(client, kind, { message = Buffer.from('hello'), send, fields, deadline, onCall, timeout = 30_000 } = {}) {
  const meta = metadata(fields);
  const options = deadline ? { deadline: Date.now() + deadline } : {};
  const done = new Promise(resolve => {
    const outcome = { messages: [] };
    const take = (error, answer) => answer !== undefined && outcome.messages.push(answer);
    const made = {
      unary: () => client.unary(message, meta, options, take),
      collect: () => client.collect(meta, options, take),
      spread: () => client.spread(message, meta, options),
      talk: () => client.talk(meta, options),
    }[kind]();
    made.on('metadata', found => (outcome.initial = found.getMap()));
    made.on('error', () => {});
    made.on('data', data => outcome.messages.push(data));
    made.on('status', ({ code, details, metadata: found }) => setImmediate(() => resolve({ ...outcome, code, name: grpc.status[code], details, trailing: found.getMap() })));
    send?.(made, outcome);
    onCall?.(made, outcome);
  });
  return within(timeout, `the end of ${kind}`, done);
}
