// Drives pipelines through the proxy, and keeps account of what came of each request.

import { request as get } from '../../e2e/lib/http.mjs';
import { Connection } from './client.mjs';
import { complainsRightly, refusesRightly } from './known.mjs';
import { differences, trailers } from './meaning.mjs';

/** Pipelines on one connection, at most. */
const REUSES = 20;

/** Pingora's carrier knows no pipelining: one request after the other. */
function inParts(pipeline) {
  if (process.env.HTTP !== 'pingora') return [pipeline];
  return pipeline.requests.map(request => ({ ...pipeline, requests: [request], cuts: pipeline.cuts.filter(cut => cut < request.bytes().length) }));
}

export class Findings {
  #kinds = new Map();

  /** `request` shows the smallest input of its kind. */
  add(kind, server, request, detail = '') {
    const key = `${server}: ${kind}`;
    const found = this.#kinds.get(key) ?? { count: 0, labels: new Map() };
    this.#kinds.set(key, found);
    found.count += 1;
    const label = request?.name ?? 'no request of ours';
    found.labels.set(label, (found.labels.get(label) ?? 0) + 1);
    const size = request?.bytes().length ?? 0;
    if (!found.input || size < found.size) Object.assign(found, { size, detail, id: request?.id, input: request?.bytes().toString('latin1', 0, 600) ?? '' });
  }

  get count() {
    return [...this.#kinds.values()].reduce((sum, { count }) => sum + count, 0);
  }

  get kinds() {
    return [...this.#kinds.keys()];
  }

  show() {
    return [...this.#kinds].sort(([, a], [, b]) => b.count - a.count).map(([kind, { count, labels, detail, input, id }]) => {
      const common = [...labels].sort(([, a], [, b]) => b - a).slice(0, 8).map(([label, n]) => `${n} ${label}`).join('; ');
      return `${count} x ${kind}\n    of: ${common}\n    as ${id}: ${JSON.stringify(input)}\n    ${detail}`;
    }).join('\n');
  }
}

export class Run {
  findings = new Findings();
  counts = { requests: 0, judged: 0, pipelines: 0, served: 0, refused: 0, closed: 0, rightly: 0, unserved: 0 };
  /** Requests by their number, and how many answers of an app named it. */
  #requests = new Map();
  #echoes = new Map();
  deepest = 0;

  constructor(port, servers) {
    this.port = port;
    this.servers = servers;
  }

  /** Pipelines of `next()` until it returns nothing, on `width` connections at a time. */
  async drive(next, width = 16) {
    await Promise.all(Array.from({ length: width }, async () => {
      let connection;
      for (let pipeline = next(); pipeline; pipeline = next()) {
        if (!connection || connection.ended || connection.used >= REUSES) {
          connection?.close();
          connection = await Connection.open(this.port);
        }
        for (const part of inParts(pipeline)) {
          connection ??= await Connection.open(this.port);
          if (await this.#one(connection, part)) connection = undefined;
        }
      }
      connection?.close();
    }));
  }

  async #one(connection, { requests, cuts }) {
    for (const request of requests) this.#requests.set(request.id, request);
    const bytes = Buffer.concat(requests.map(request => request.bytes()));
    const stays = !requests.some(request => request.isOdd);
    const odd = requests.findIndex(request => request.isOdd);
    const isSure = ({ length }) => odd < 0 || length < odd || (length > odd && requests[odd].meaning);
    const { answers, closed, overdue } = await connection.exchange(bytes, cuts, requests.length, { stays, isSure });
    if (process.env.TRACE) console.log(JSON.stringify({ sent: bytes.toString('latin1'), cuts, answers }, null, 1));
    this.counts.requests += requests.length;
    this.counts.pipelines += 1;
    if (overdue) this.findings.add('the connection did not end', requests[0].server, requests.find(r => r.isOdd) ?? requests.at(-1));
    this.#judge(requests, answers, connection.last);
    connection.last = requests.at(-1);
    return closed;
  }

  /** `last` is the request before these on their connection. */
  #judge(requests, answers, last) {
    let over = false;
    requests.forEach((request, i) => {
      const answer = answers[i];
      request.outcome = over ? 'over' : answer?.by ?? 'none';
      this.counts.judged += over ? 0 : 1;
      if (over) this.counts.unserved += 1;
      else if (request.isOdd) this.#odd(request, answer);
      else this.#ordinary(request, answer, requests.slice(0, i), requests[i - 1] ?? last);
      over ||= !answer || answer.close;
    });
    for (const answer of answers) {
      if (answer.by !== 'app') continue;
      const { id, nth } = answer.echo;
      this.deepest = Math.max(this.deepest, nth ?? 0);
      this.#echoes.set(id, (this.#echoes.get(id) ?? 0) + 1);
    }
  }

  #ordinary(request, answer, earlier, last) {
    const { findings } = this;
    const before = earlier.findLast(r => r.isOdd);
    // What came before may have been read as another request, by all alike: the account tells.
    if (before && (!before.meaning || answer?.echo?.id !== request.id)) return;
    if (!answer) {
      if (!last?.isEarly) return void findings.add('no answer', request.server, request);
      return void findings.add('an answer before the body did not say that the connection ends', last.server, last);
    }
    if (answer.by !== 'app') {
      if (refusesRightly(request, { server: request.server, ...answer })) return void (this.counts.rightly += 1);
      return void findings.add(`ordinary request: ${answer.by} says ${answer.status} ${answer.detail ?? ''}`, request.server, request, answer.text);
    }
    this.counts.served += 1;
    if (answer.echo.id !== request.id) return void findings.add('the answer to another request', request.server, request, answer.echo.id);
    for (const difference of differences(request, answer.echo)) findings.add(kindOf(difference), request.server, request, difference);
  }

  #odd(request, answer) {
    const { findings, counts } = this;
    if (!answer) {
      counts.closed += 1;
      return;
    }
    if (answer.by === 'proxy' && ![502, 503, 504].includes(answer.status)) return void (counts.refused += 1);
    if (answer.by !== 'app') {
      if (refusesRightly(request, { server: request.server, ...answer })) return void (counts.rightly += 1);
      return void findings.add(`${answer.by} says ${answer.status} ${answer.detail ?? ''} to what was passed on`, request.server, request, answer.text);
    }
    counts.served += 1;
    if (request.must === 'refused') return void findings.add('passed on, should be refused', request.server, request);
    const found = request.meaning ? differences(request, answer.echo) : trailers(answer.echo);
    for (const difference of found) findings.add(kindOf(difference), request.server, request, difference);
  }

  /** After all: what the servers say that they have seen, against what came back. */
  async settle() {
    const counts = new Map();
    for (const server of this.servers) {
      const report = await this.#report(server);
      if (report.complained > report.complaints.length) this.findings.add('more complaints than are told', server);
      for (const { code, last, near = '' } of report.complaints) {
        // Of the head that it stumbled over, or of the one before.
        const request = this.#requests.get(/x-case: *(\w+)/i.exec(near)?.[1]) ?? this.#requests.get(last);
        if (!complainsRightly({ code, near })) this.findings.add(`Node complains: ${code}`, server, request, near);
      }
      for (const [id, { begun, ended }] of Object.entries(report.seen)) {
        const sum = counts.get(id) ?? { begun: 0, ended: 0, server };
        counts.set(id, { begun: sum.begun + begun, ended: sum.ended + ended, server });
      }
    }
    for (const [id, count] of counts) this.#balance(id, count);
    this.#requests.clear();
    this.#echoes.clear();
  }

  async #report(server) {
    const answer = await get(this.port, { path: '/report', headers: { host: `${server}.test`, 'x-report': 'yes' } });
    if (answer.status !== 200) throw new Error(`no report of ${server}: ${answer.status} ${answer.text}`);
    return answer.json;
  }

  #balance(id, { begun, ended, server }) {
    const echoes = this.#echoes.get(id) ?? 0;
    const request = this.#requests.get(id) ?? this.#requests.get(id.replace(/^s/, ''));
    if (id !== 'none' && begun > Math.max(1, echoes)) this.findings.add(`read ${begun} times, answered ${echoes} times`, server, request, id);
    if (ended > echoes) this.findings.add(`read whole ${ended} times, answered ${echoes} times`, server, request, id);
    if (begun > 0 && request?.id === id && request.outcome === 'over') this.findings.add('read although the connection was over', server, request, id);
    if (id.startsWith('s') && begun > echoes) this.findings.add('a smuggled request was read', server, request, id);
  }
}

const kindOf = difference => difference.replace(/^([\w -]+): .*/s, 'read otherwise: $1');
