// The paths that a request may take, and the proxies on which the table asks.

import { alive, freePort, startProxy } from '../lib/proxy.mjs';
import { alone, upgraded } from '../lib/handoff.mjs';
import { request } from '../lib/http.mjs';
import { workers } from '../lib/steer.mjs';
import { listener } from '../lib/tls.mjs';
import { range, until } from '../lib/wait.mjs';
import { Http1, Upgrade } from './http1.mjs';
import { speaking } from './config.mjs';
import { Http2 } from './http2.mjs';

/** `http`: who carries plain requests (server.http); `two`: HTTP/2; `secure`: over TLS; `protocol`: what the workers speak, if not HTTP/1; `upgrades`, `adopted`: what else a rule may have to know. */
export const paths = {
  http1: { http: 'own', client: Http1 },
  http2: { http: 'own', client: Http2, two: true },
  'tls-http1': { http: 'own', client: Http1, secure: true },
  'tls-http2': { http: 'own', client: Http2, two: true, secure: true },
  'http2-workers': { http: 'own', client: Http2, two: true, protocol: 'http2' },
  upgrade: { http: 'own', client: Upgrade, upgrades: true },
  adopted: { http: 'own', client: Http1, adopted: true },
  'pingora-http1': { http: 'pingora', client: Http1 },
  'pingora-http2': { http: 'pingora', client: Http2, two: true },
};

/**
 * A proxy on a configuration, after an upgrade: the connections of the path `adopted` were opened before it, and each
 * has carried a request.
 */
export async function prepared(config, { connections, http = 'own', protocol, host, ready = {} }) {
  const [metrics, tlsPort] = [await freePort(), await freePort()];
  const proxy = await startProxy(
    at => ({
      ...(protocol ? speaking(protocol, config) : config)(at),
      ...(http === 'own' ? {} : { server: { http } }),
      listeners: [{ address: `127.0.0.1:${at.port}`, h2c: true }, listener(at, tlsPort)],
      metrics: { address: `127.0.0.1:${metrics}` },
    }),
    { ready: false },
  );
  try {
    Object.assign(proxy, { metrics, tlsPort });
    await until(async () => (await request(proxy.port, { path: '/pid', headers: { host } })).status === 200, { timeout: 60_000, what: 'the first app' });
    await ready.then?.(proxy);
    proxy.adopted = [];
    for (const _ of range(connections)) {
      const client = await Http1.open(proxy.port);
      await client.ask({ path: '/pid', host });
      proxy.adopted.push(client);
    }
    if (connections) {
      await upgraded(proxy);
      await alone(proxy);
    }
    return proxy;
  } catch (error) {
    proxy.show();
    await proxy.stop().catch(() => {});
    throw error;
  }
}

/** What a cell sees: its path to the app of its rule. */
export class At {
  opened = [];

  constructor(name, proxy, app) {
    Object.assign(this, paths[name], { name, proxy, app, host: `${app}.example` });
  }

  async open() {
    let client;
    if (this.adopted) {
      client = this.proxy.adopted.pop();
      if (!client) throw new Error('no adopted connection is left: raise `connections` of the rule');
    } else {
      client = await this.client.open(this.secure ? this.proxy.tlsPort : this.proxy.port, this.secure);
    }
    this.opened.push(client);
    const whole = request => ({ path: '/ok', host: this.host, ...request });
    const fill = fn => (first, ...more) => fn.call(client, Array.isArray(first) ? first.map(whole) : whole(first), ...more);
    for (const way of ['start', 'ask', 'together', 'drip', 'broken', 'stall']) client[way] = fill(client.constructor.prototype[way]);
    return client;
  }

  /** One request on a connection of its own. */
  async ask(asked) {
    const client = await this.open();
    return client.ask(asked);
  }

  /** By HTTP/1, whatever the path: to prepare a cell and to look behind it. */
  async direct(path, options = {}) {
    return request(this.proxy.port, { path, ...options, headers: { host: this.host, ...options.headers } });
  }

  workers() {
    return workers(this.proxy, this.app);
  }

  /** Requests and tunnels that the app's workers have. */
  async leases() {
    return (await this.workers()).reduce((sum, worker) => sum + worker.active + worker.parked, 0);
  }

  quiet() {
    return until(async () => (await this.leases()) === 0, { timeout: 5000, what: 'no worker of the app to be busy' });
  }

  ready(count) {
    return until(async () => {
      const all = await this.workers();
      return all.length === count && all.every(worker => worker.state === 'ready' && alive(worker.pid)) && all;
    }, { timeout: 20_000, what: `${count} workers to be ready` });
  }

  /** The counters of the app, by metric and labels. */
  async counters() {
    const page = (await request(this.proxy.metrics, { path: '/metrics' })).text;
    const found = {};
    for (const [, name, labels, value] of page.matchAll(/^pingora_unix_proxy_(\w+)\{(.*)\} (\d+)$/gm)) {
      if (labels.includes(`app="${this.app}"`)) found[`${name} ${[...labels.matchAll(/(code|reason)="(\w+)"/g)].map(match => match[2])}`.trim()] = Number(value);
    }
    return found;
  }

  /** A counter of the proxy's own. */
  async total(name) {
    const page = (await request(this.proxy.metrics, { path: '/metrics' })).text;
    return Number(new RegExp(`^pingora_unix_proxy_${name} (\\d+)$`, 'm').exec(page)?.[1]);
  }

  close() {
    for (const client of this.opened) client.close();
  }
}
