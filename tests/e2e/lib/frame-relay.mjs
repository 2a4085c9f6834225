// A TCP relay that notes every HTTP/2 frame of both directions: what was really on the wire, and in which order.

import net from 'node:net';
import { PREFACE } from './frames.mjs';
import { until } from './wait.mjs';

/** Runs `body` with a relay before `port`: {port, connections, quiet()}. What comes is noted at once and passed on after `delay` ms. */
export async function withFrameRelay(port, { delay = 0 }, body) {
  const connections = [];
  const server = net.createServer({ allowHalfOpen: true }, client => connections.push(new Relayed(client, port, delay)));
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
  try {
    const quiet = () => until(() => connections.every(one => one.closed === 2), { what: 'the end of every relayed connection' });
    return await body({ port: server.address().port, connections, quiet });
  } finally {
    server.close();
    for (const one of connections) one.destroy();
  }
}

class Relayed {
  /** In the order in which they passed: {from: 'client' | 'server', at, type, flags, stream, payload}. */
  frames = [];
  closed = 0;
  #sockets;

  constructor(client, port, delay) {
    const server = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    this.#sockets = [client, server];
    // Timers of one length keep their order.
    const later = delay > 0 ? act => setTimeout(act, delay) : act => act();
    this.#pass('client', client, server, PREFACE.length, later);
    this.#pass('server', server, client, 0, later);
  }

  destroy() {
    for (const socket of this.#sockets) socket.destroy();
  }

  #pass(from, source, target, skip, later) {
    source.setNoDelay(true);
    let rest = Buffer.alloc(0);
    source.on('data', chunk => {
      later(() => target.write(chunk));
      rest = Buffer.concat([rest, chunk]);
      if (rest.length >= skip) {
        rest = this.#note(from, rest.subarray(skip));
        skip = 0;
      }
    });
    source.on('end', () => later(() => target.end()));
    source.on('error', error => {
      this.error ??= `${from}: ${error.code}`;
      later(() => target.destroy());
    });
    source.on('close', () => (this.closed += 1));
  }

  /** Notes whole frames; returns what is left. */
  #note(from, buffer) {
    while (buffer.length >= 9 && buffer.length >= 9 + buffer.readUIntBE(0, 3)) {
      const end = 9 + buffer.readUIntBE(0, 3);
      const [type, flags, stream] = [buffer[3], buffer[4], buffer.readUInt32BE(5) & 0x7fffffff];
      this.frames.push({ from, at: performance.now(), type, flags, stream, payload: Buffer.from(buffer.subarray(9, end)) });
      buffer = buffer.subarray(end);
    }
    return buffer;
  }
}
