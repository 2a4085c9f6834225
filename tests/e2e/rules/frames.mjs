// HTTP/2 frame by frame, for what Node.js would not send. It reads no more of answers than their status.

import { frame, PREFACE } from '../lib/frames.mjs';
import { Raw } from '../lib/http.mjs';
import { connect } from '../lib/tls.mjs';
import { sleep } from '../lib/wait.mjs';
import { outcome } from './outcome.mjs';

const DATA = 0;
const HEADERS = 1;
const RST_STREAM = 3;
const SETTINGS = 4;
const GOAWAY = 7;
const CONTINUATION = 9;
const END_STREAM = 1;
const ACK = 1;
const END_HEADERS = 4;
const PADDED = 8;
const PRIORITY = 32;
const PROTOCOL_ERROR = 1;
const HEADER_TABLE_SIZE = 1;

/** RFC 7541, 5.1, with the bits of the prefix that are taken. */
function integer(value, bits, first = 0) {
  const most = (1 << bits) - 1;
  if (value < most) return Buffer.from([first | value]);
  const bytes = [first | most];
  for (value -= most; value >= 128; value >>= 7) bytes.push((value & 127) | 128);
  return Buffer.from([...bytes, value]);
}

const string = text => Buffer.concat([integer(Buffer.byteLength(text, 'latin1'), 7), Buffer.from(text, 'latin1')]);
/** A field without the tables and without Huffman's code. */
const literal = ([name, value]) => Buffer.concat([Buffer.from([0]), string(name), string(value)]);
const block = fields => Buffer.concat(fields.map(literal));

const STATIC = { 8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500 };

/** The status of an answer's field block, whose first field it is. */
function statusOf(bytes) {
  let at = 0;
  while ((bytes[at] & 0xe0) === 0x20) at++;
  if (bytes[at] & 0x80) return STATIC[bytes[at] & 0x7f];
  const value = bytes.subarray(at + 2, at + 2 + (bytes[at + 1] & 0x7f));
  if (!(bytes[at + 1] & 0x80)) return Number(value.toString('latin1'));
  // Huffman's code of the digits (RFC 7541, appendix B).
  let bits = [...value].map(byte => byte.toString(2).padStart(8, '0')).join('');
  let digits = '';
  while (digits.length < 3) {
    const long = bits.startsWith('011') || bits.startsWith('010') ? 6 : 5;
    const code = parseInt(bits.slice(0, long), 2);
    digits += long === 5 ? code : code - 0b011001 + 3;
    bits = bits.slice(long);
  }
  return Number(digits);
}

export class Frames {
  static async open(port, secure = false) {
    const frames = new Frames();
    frames.raw = secure ? Raw.over(await connect(port, { ALPNProtocols: ['h2'] })) : await Raw.connect(port);
    frames.raw.socket.on('error', () => {});
    // No dynamic table: each field block stands alone.
    const settings = Buffer.alloc(6);
    settings.writeUInt16BE(HEADER_TABLE_SIZE, 0);
    frames.raw.write(Buffer.concat([Buffer.from(PREFACE), frame(SETTINGS, 0, 0, settings)]));
    // Between the frames of a head nothing else may be sent, so the acknowledgement goes first.
    while (!frames.greeted) await frames.next(5000);
    return frames;
  }

  static fields({ method = 'GET', path, host, fields = [] }) {
    return block([[':method', method], [':scheme', 'http'], [':authority', host], [':path', path], ...fields.map(([name, value]) => [name.toLowerCase(), value])]);
  }

  headers(request, flags = END_HEADERS | END_STREAM, stream = 1) {
    this.raw.write(frame(HEADERS, flags, stream, Frames.fields(request)));
  }

  more(fields, stream = 1) {
    this.raw.write(frame(CONTINUATION, 0, stream, block(fields)));
  }

  /** The next frame; null at the connection's end. */
  async next(timeout) {
    try {
      const head = await this.raw.take(9, 'a frame', timeout);
      const payload = await this.raw.take(head.readUIntBE(0, 3), 'its payload', timeout);
      const got = { type: head[3], flags: head[4], stream: head.readUInt32BE(5) & 0x7fffffff, payload };
      if (got.type === SETTINGS && !(got.flags & ACK)) {
        this.raw.write(frame(SETTINGS, ACK, 0));
        this.greeted = true;
      }
      return got;
    } catch (error) {
      if (!this.raw.ended) throw error;
      if (!this.greeted) throw new Error('the connection ended before SETTINGS');
      return null;
    }
  }

  /** What becomes of a stream. A protocol error is this path's 400, and the connection's end its 408: the head was never whole. */
  async answer(stream = 1, { timeout = 8000, late = false } = {}) {
    const from = performance.now();
    let status = null;
    let goaway = false;
    for (;;) {
      const got = await this.next(timeout);
      if (!got) return outcome(from, late && !status ? { status: 408, ended: true, told: `the connection's end${goaway ? ' after GOAWAY' : ''}` } : { status, ended: true });
      if (got.type === GOAWAY) goaway = true;
      if (got.stream !== stream) continue;
      if (got.type === HEADERS && !status) {
        const skip = (got.flags & PADDED ? 1 : 0) + (got.flags & PRIORITY ? 5 : 0);
        status = statusOf(got.payload.subarray(skip));
      }
      if (got.type === RST_STREAM) {
        const code = got.payload.readUInt32BE(0);
        if (status) return outcome(from, { status });
        return outcome(from, { status: code === PROTOCOL_ERROR ? 400 : null, told: `RST_STREAM ${code}` });
      }
      if ((got.type === HEADERS || got.type === DATA) && got.flags & END_STREAM) return outcome(from, { status });
    }
  }

  /** A head whose end never comes. */
  async drip(request) {
    this.headers(request, END_STREAM);
    let over = false;
    const more = (async () => {
      // A handful of these frames is too many for some libraries, whatever they hold.
      for (let n = 0; n < 3 && !over && !this.raw.ended; n++) {
        this.more([['x-more', '1']]);
        await sleep(400);
      }
    })();
    try {
      return await this.answer(1, { late: true });
    } finally {
      over = true;
      await more;
    }
  }

  close() {
    this.raw.destroy();
  }
}
