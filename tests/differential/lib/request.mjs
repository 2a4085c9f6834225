// A request: what it means, and how it is written.

import { createHash } from 'node:crypto';

const latin1 = text => Buffer.from(text, 'latin1');

/**
 * `line`: {method, target, version}; `fields`: [{name, value, before, after}], the blanks around the value; `body`: see
 * bodies.mjs. `must` is 'served', 'refused' or 'either'. A request with `meaning: false` is only held to the account:
 * nobody says what it means.
 */
export class Request {
  line = { method: 'GET', target: '/', version: '1.1' };
  fields = [];
  body = { kind: 'none', payload: Buffer.alloc(0), wire: Buffer.alloc(0) };
  must = 'served';
  meaning = true;
  /** What is odd about it. */
  labels = [];
  /** Stands before the request line. */
  lead = '';
  /** Changes of the written head, one after the other. */
  rewrites = [];
  /** Changes of the written request. */
  distortions = [];

  constructor(id, server) {
    this.id = id;
    this.server = server;
    this.path = `/to-${server}`;
    this.host = `${server}.test`;
  }

  add(name, value, { before = ' ', after = '' } = {}) {
    this.fields.push({ name, value, before, after });
    return this;
  }

  /** Names what is odd, and what must come of it. */
  odd(label, must = 'either', meaning = true) {
    if (label) this.labels.push(label);
    if (this.must === 'served' || must === 'refused') this.must = must;
    this.meaning &&= meaning;
    return this;
  }

  get isOdd() {
    return this.must !== 'served';
  }

  /** It is answered before its body has come. */
  get isEarly() {
    return this.body.payload.length > 0 && this.fields.some(({ name, value }) => /^x-mode$/i.test(name) && value !== '');
  }

  get name() {
    return this.labels.join(' + ') || 'plain';
  }

  head() {
    const { method, target, version } = this.line;
    const fields = this.fields.map(({ name, value, before, after }) => `${name}:${before}${value}${after}\r\n`).join('');
    const text = `${method} ${target} HTTP/${version}\r\n${fields}\r\n`;
    return this.lead + this.rewrites.reduce((head, rewrite) => rewrite(head), text);
  }

  bytes() {
    this.written ??= this.distortions.reduce((all, distort) => distort(all), Buffer.concat([latin1(this.head()), this.body.wire]));
    return this.written;
  }

  get sha1() {
    return createHash('sha1').update(this.body.payload).digest('hex');
  }
}

/** A request that leads to `server` by name and path. */
export function plain(id, server, { method = 'GET', target, version = '1.1' } = {}) {
  const request = new Request(id, server);
  request.line = { method, target: target ?? request.path, version };
  return request.add('Host', request.host).add('X-Case', id);
}

/** Written by hand: the bytes are those given, with `@` for the fields that lead to the server and number the request. */
export function written(id, server, text, must = 'either') {
  const request = new Request(id, server);
  request.must = must;
  request.meaning = false;
  request.written = latin1(text.replaceAll('@', () => `Host: ${server}.test\r\nX-Case: ${id}`));
  return request;
}
