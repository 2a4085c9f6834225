// A client's connection: writes a pipeline in pieces, and says who gave each of the answers.

import net from 'node:net';

/** So long without an answer that must come; longer than a request waits in the proxy's queue. */
const PATIENCE = 15_000;
/** So long without an answer that need not come, because what was sent may be no whole request: the connection is half-closed then. */
const SILENCE = 300;

export class Connection {
  #chunks = [];
  #held = Buffer.alloc(0);
  #wake = () => {};
  answers = [];
  ended = false;
  used = 0;

  static async open(port) {
    const connection = new Connection();
    await new Promise((resolve, reject) => {
      connection.socket = net.connect({ host: '127.0.0.1', port, allowHalfOpen: true }, resolve);
      connection.socket.once('error', reject);
    });
    connection.socket.setNoDelay(true);
    connection.socket.on('data', chunk => {
      connection.#chunks.push(chunk);
      connection.#read();
    });
    for (const event of ['end', 'close', 'error']) connection.socket.on(event, () => connection.#finish());
    return connection;
  }

  /**
   * Writes the bytes, waits for `count` answers or for the end; then, unless the connection goes on, for its end.
   * `isSure` says whether, after those that came, one more answer must come. Returns `{answers, closed, overdue}`.
   */
  async exchange(bytes, cuts, count, { stays, isSure }) {
    this.used += 1;
    this.answers = [];
    let at = 0;
    for (const cut of [...cuts, bytes.length]) {
      if (this.ended) break;
      this.socket.write(bytes.subarray(at, cut));
      at = cut;
      if (cut < bytes.length) await new Promise(setImmediate);
    }
    await this.#until(() => this.answers.length >= count, () => (isSure(this.answers) ? PATIENCE : SILENCE));
    const whole = this.answers.length >= count && !this.ended && !this.answers.some(answer => answer.close);
    if (whole && stays) return { answers: this.answers, closed: false };
    this.socket.end();
    await this.#until(() => false, () => PATIENCE);
    const overdue = !this.ended;
    this.socket.destroy();
    return { answers: this.answers, closed: true, overdue };
  }

  close() {
    this.socket.destroy();
  }

  /** Until it is so, or the end, or nothing has come for as long as `silence()` says. */
  async #until(look, silence) {
    while (!look() && !this.ended) {
      const moved = await new Promise(resolve => {
        const timer = setTimeout(() => resolve(false), silence());
        this.#wake = () => {
          clearTimeout(timer);
          resolve(true);
        };
      });
      if (!moved) return;
    }
  }

  #finish() {
    if (this.ended) return;
    this.ended = true;
    this.#read();
    if (this.#held.length > 0) this.answers.push({ by: 'cut', status: 0, text: this.#held.toString('latin1', 0, 200) });
    // An end without an answer, and then more of it, is no answer.
    this.#held = Buffer.alloc(0);
    this.#wake();
  }

  #read() {
    if (this.#chunks.length > 0) {
      this.#held = Buffer.concat([this.#held, ...this.#chunks]);
      this.#chunks = [];
    }
    for (let taken = read(this.#held, this.ended); taken; taken = read(this.#held, this.ended)) {
      this.#held = this.#held.subarray(taken.length);
      if (taken.answer) this.answers.push(taken.answer);
      if (this.#held.length === 0) break;
    }
    this.#wake();
  }
}

/** The first answer in the bytes, once it is whole. */
function read(bytes, ended) {
  // What begins as TLS is told so in TLS.
  if (bytes[0] === 21 && bytes.length >= 7) return { length: 7, answer: { by: 'proxy', status: 400, close: true, detail: 'an alert of TLS' } };
  const end = bytes.indexOf('\r\n\r\n');
  if (end < 0) return undefined;
  const head = bytes.toString('latin1', 0, end);
  const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(head)?.[1]);
  if (!status) return { length: bytes.length, answer: { by: 'nobody', status: 0, text: head.slice(0, 200) } };
  if (status < 200 && status !== 101) return { length: end + 4 };
  const value = name => new RegExp(`\r\n${name}: *([^\r]*)`, 'i').exec(head)?.[1];
  const echo = value('x-echo');
  const headOnly = echo !== undefined && echo !== '1';
  const stated = value('content-length');
  let length = bytes.length - end - 4;
  // Refusals of a HEAD, and Node's own, have no body; more may follow.
  const follows = bytes.toString('latin1', end + 4, end + 11) === 'HTTP/1.';
  if (headOnly || follows || (ended && length === 0)) length = 0;
  else if (/chunked/i.test(value('transfer-encoding'))) length = chunksLength(bytes.subarray(end + 4));
  else if (stated !== undefined) length = Number(stated);
  else if (!ended && status !== 101) return undefined;
  if (bytes.length - end - 4 < length) return undefined;
  const body = bytes.toString('utf8', end + 4, end + 4 + length);
  return { length: end + 4 + length, answer: judge(status, head, echo, headOnly, body) };
}

/** How far a body in chunks goes; beyond all there is while it is not whole. Only refusals of servers come so. */
function chunksLength(bytes) {
  let at = 0;
  for (let end = bytes.indexOf('\r\n'); end >= 0; end = bytes.indexOf('\r\n', at)) {
    const size = parseInt(bytes.toString('latin1', at, end), 16);
    at = end + 4 + size;
    if (size === 0) return at;
  }
  return Infinity;
}

function judge(status, head, echo, headOnly, body) {
  const close = /\r\nconnection: *close/i.test(head);
  if (echo !== undefined) return { by: 'app', status, close, echo: JSON.parse(headOnly ? decodeURIComponent(echo) : body) };
  const own = /^(\d{3}) [^\n]*\n\n([^\n]*)\n$/.exec(body);
  if (own && Number(own[1]) === status) return { by: 'proxy', status, close: true, detail: own[2] };
  // The same without its body, to a HEAD.
  if (body === '' && /\r\ncache-control: no-store/i.test(head) && /\r\nx-request-id:/i.test(head)) return { by: 'proxy', status, close: true, detail: '' };
  return { by: 'server', status, close, text: `${head}\n${body}`.slice(0, 300) };
}
