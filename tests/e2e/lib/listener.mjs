// A web server of the test's own that keeps what it is sent.

import http from 'node:http';
import https from 'node:https';
import { until } from './wait.mjs';

export class Listener {
  /** `status` may be a function of the number of the request, from 0. */
  static async start({ status = 204, tls } = {}) {
    const listener = new Listener();
    listener.requests = [];
    const handle = (req, res) => {
      const chunks = [];
      req.on('data', chunk => chunks.push(chunk));
      req.on('end', () => {
        const code = typeof status === 'function' ? status(listener.requests.length) : status;
        const body = JSON.parse(Buffer.concat(chunks).toString('utf8'));
        listener.requests.push({ at: performance.now(), method: req.method, url: req.url, headers: req.headers, status: code, body });
        res.statusCode = code;
        res.end();
      });
    };
    listener.server = tls ? https.createServer(tls, handle) : http.createServer(handle);
    await new Promise(resolve => listener.server.listen(0, '127.0.0.1', resolve));
    listener.port = listener.server.address().port;
    return listener;
  }

  /** What was taken, in order: the bodies of requests answered with success. */
  get taken() {
    return this.requests.filter(request => request.status < 300);
  }

  /** The first taken notice that fits, past or coming. */
  notice(fits, { timeout = 20_000, what = 'a notice' } = {}) {
    const seen = () => this.requests.map(({ body }) => `${body.status} ${body.kind}`).join(', ');
    return until(() => this.taken.find(({ body }) => fits(body)), { timeout, what: () => `${what}; so far: ${seen()}` });
  }

  async end() {
    this.server.closeAllConnections();
    await new Promise(resolve => this.server.close(resolve));
  }
}

/** Runs `body` with a listener of its own. */
export async function withListener(options, body) {
  const listener = await Listener.start(options);
  try {
    return await body(listener);
  } finally {
    await listener.end();
  }
}
