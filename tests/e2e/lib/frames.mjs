// HTTP/2 by hand, for clients that do what Node's own would not: never read, open windows wide, reset at once.

import { Raw } from './http.mjs';

export const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
export const TYPE = { data: 0, headers: 1, reset: 3, settings: 4, ping: 6, goaway: 7, window: 8 };
export const FLAG = { endStream: 1, ack: 1 };
export const CODE = { noError: 0, cancel: 8, enhanceYourCalm: 11 };

export function frame(type, flags, stream, payload = Buffer.alloc(0)) {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

const numbers = (...values) => {
  const all = Buffer.alloc(4 * values.length);
  values.forEach((value, at) => all.writeUInt32BE(value, 4 * at));
  return all;
};

const text = value => Buffer.concat([Buffer.from([value.length]), Buffer.from(value, 'latin1')]);

/** A GET, in literals that no table takes in; names and values under 127 bytes. */
export const get = (stream, path) =>
  frame(TYPE.headers, 0x5, stream, Buffer.concat(
    [[':method', 'GET'], [':scheme', 'http'], [':path', path], [':authority', 'x.example']].flatMap(([name, value]) => [Buffer.from([0]), text(name), text(value)])));

export const settings = (...pairs) => frame(TYPE.settings, 0, 0, Buffer.concat(pairs.map(([key, value]) => {
  const pair = Buffer.alloc(6);
  pair.writeUInt16BE(key, 0);
  pair.writeUInt32BE(value, 2);
  return pair;
})));

export const reset = (stream, code = CODE.cancel) => frame(TYPE.reset, 0, stream, numbers(code));
export const window = (stream, increment) => frame(TYPE.window, 0, stream, numbers(increment));

/** A connection by prior knowledge; `frames()` are those that have come. */
export class Frames {
  static async connect(port, { initial = 65535, connection = 0, ...options } = {}) {
    const one = new Frames();
    one.raw = await Raw.connect(port, options);
    one.raw.socket.on('error', () => {});
    one.raw.write(Buffer.concat([PREFACE, settings([4, initial]), connection ? window(0, connection) : Buffer.alloc(0)]));
    return one;
  }

  write(...frames) {
    this.raw.write(Buffer.concat(frames));
  }

  /** Every frame so far: {type, flags, stream, length, payload}. */
  async frames() {
    const buffer = await this.raw.need(all => all, 'what has come', 1000).catch(() => this.raw.buffer);
    const found = [];
    for (let at = 0; at + 9 <= buffer.length;) {
      const length = buffer.readUIntBE(at, 3);
      if (at + 9 + length > buffer.length) break;
      found.push({ type: buffer[at + 3], flags: buffer[at + 4], stream: buffer.readUInt32BE(at + 5) & 0x7fffffff, length, payload: buffer.subarray(at + 9, at + 9 + length) });
      at += 9 + length;
    }
    return found;
  }

  /** The code of the last GOAWAY that is an error, if there was one. */
  async goaway() {
    const codes = (await this.frames()).filter(({ type }) => type === TYPE.goaway).map(({ payload }) => payload.readUInt32BE(4));
    return codes.find(code => code !== CODE.noError) ?? codes[0];
  }

  get closed() {
    return this.raw.ended;
  }

  destroy() {
    this.raw.destroy();
  }
}
