// A hand-written Engine.IO polling client, for the shapes that no client library of today sends: JSONP, the binary
// payloads of 1.x, and each request on a connection of its own.

import assert from 'node:assert/strict';
import { request } from './http.mjs';

const SEPARATOR = '\x1e';

/** The packets in the body of a polling answer, as strings like `42["event"]`. */
export function decode(body, { eio, jsonp = false }) {
  let text = body.toString('utf8');
  if (jsonp) {
    const match = /^(?:\/\*\*\/)?___eio\[\d+\]\((".*")\);?$/s.exec(text);
    assert.ok(match, `a JSONP answer, not ${text.slice(0, 100)}`);
    text = JSON.parse(match[1]);
  } else if (body[0] === 0 || body[0] === 1) {
    return decodeBinary(body);
  }
  if (eio === 4) return text.split(SEPARATOR);
  const packets = [];
  while (text) {
    const at = text.indexOf(':');
    const length = Number(text.slice(0, at));
    assert.ok(at > 0 && length >= 0, `a payload of EIO 3, not ${text.slice(0, 100)}`);
    packets.push(text.slice(at + 1, at + 1 + length));
    text = text.slice(at + 1 + length);
  }
  return packets;
}

/** 1.x without `b64=1`: 0, the length as one byte per digit, 255, the packet. */
function decodeBinary(body) {
  const packets = [];
  for (let at = 0; at < body.length;) {
    assert.equal(body[at], 0, 'a string packet');
    const end = body.indexOf(255, at);
    const length = Number([...body.subarray(at + 1, end)].join(''));
    packets.push(body.subarray(end + 1, end + 1 + length).toString('utf8'));
    at = end + 1 + length;
  }
  return packets;
}

export const encode = (packet, eio) => (eio === 4 ? packet : `${packet.length}:${packet}`);

export class Polling {
  /** `eio` 3 or 4; `query` is added to every request. */
  constructor(port, { eio = 4, path = '/socket.io/', jsonp = false, query = {}, headers = {}, agent = false } = {}) {
    Object.assign(this, { port, eio, path, jsonp, query, headers, agent });
    this.pids = new Set();
    this.packets = [];
  }

  url(extra = {}) {
    const query = new URLSearchParams({ EIO: this.eio, transport: 'polling', ...this.query, ...extra });
    if (this.jsonp) query.set('j', '0');
    if (this.sid) query.set('sid', this.sid);
    return `${this.path}?${query}`;
  }

  async send(method, options = {}) {
    const answer = await request(this.port, { method, path: this.url(), agent: this.agent, ...options, headers: { ...this.headers, ...options.headers } });
    if (answer.headers['x-pid']) this.pids.add(Number(answer.headers['x-pid']));
    return answer;
  }

  async poll() {
    const answer = await this.send('GET');
    assert.equal(answer.status, 200, `GET ${this.url()} -> ${answer.status} ${answer.text}`);
    const packets = decode(answer.body, this);
    this.packets.push(...packets);
    return { answer, packets };
  }

  async post(packet) {
    const payload = encode(packet, this.eio);
    const answer = this.jsonp
      ? await this.send('POST', { headers: { 'content-type': 'application/x-www-form-urlencoded' }, body: `d=${encodeURIComponent(payload)}` })
      : await this.send('POST', { headers: { 'content-type': 'text/plain;charset=UTF-8' }, body: payload });
    assert.equal(answer.status, 200, `POST ${this.url()} -> ${answer.status} ${answer.text}`);
    assert.equal(answer.text, 'ok');
  }

  async handshake() {
    const { packets, answer } = await this.poll();
    assert.equal(packets[0][0], '0', `an open packet, not ${packets[0]}`);
    this.sid = JSON.parse(packets[0].slice(1)).sid;
    this.handshakeAnswer = answer;
    // Since protocol 5 (EIO 4) the client asks for the default namespace.
    if (this.eio === 4) await this.post('40');
    return this.sid;
  }

  /** Polls until an event `name` is there; returns its first argument. */
  async event(name) {
    for (let polls = 0; polls < 20; polls++) {
      for (let i = 0; i < this.packets.length; i++) {
        const packet = this.packets[i];
        if (packet === '2') await this.post('3');
        if (!packet.startsWith('42')) continue;
        const [event, data] = JSON.parse(packet.slice(2));
        if (event !== name) continue;
        this.packets.splice(0, i + 1);
        return data;
      }
      this.packets.length = 0;
      await this.poll();
    }
    throw new Error(`no event ${name} in 20 polls`);
  }

  async emit(name, data) {
    await this.post(`42${JSON.stringify([name, data])}`);
  }

  async close() {
    await this.post('1').catch(() => {});
  }
}
