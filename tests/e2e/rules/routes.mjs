// What a route does beside naming an app.

import assert from 'node:assert/strict';
import { json, shown } from './outcome.mjs';

const NO_BODY = 'an upgrade request has no body';
const IS_GET = 'an upgrade is a GET';

/** Of the host web.example, beside the app's own. */
export const routes = [
  { host: 'web.example', path: '/stripped', strip_prefix: '/stripped', app: 'web' },
  { host: 'web.example', path: '/moved', redirect: { to: '/new{rest}{query}', status: 308 } },
  { host: 'web.example', path: '/fixed', answer: { status: 403, body: 'closed' } },
  { host: 'web.example', path: '/closed', maintenance: true, app: 'web' },
  { host: 'web.example', path: '/little', limits: { body_size: '10b' }, strip_prefix: '/little', app: 'web' },
];

export const routed = [
  {
    name: 'a route takes a prefix off the path, and the worker is told',
    app: 'web',
    act: at => at.ask({ path: '/stripped/head?a=%2F', fields: [['X-Forwarded-Prefix', '/evil']] }),
    expect: result => {
      assert.equal(result.status, 200, shown(result));
      const { url, raw } = json(result);
      assert.equal(url, '/head?a=%2F');
      assert.equal(raw[raw.findIndex(name => name.toLowerCase() === 'x-forwarded-prefix') + 1], '/stripped');
    },
  },
  {
    name: 'a route redirects',
    app: 'web',
    act: at => at.ask({ path: '/moved/x?y=1' }),
    expect: result => {
      assert.equal(result.status, 308, shown(result));
      assert.equal(result.headers.location, '/new/x?y=1');
    },
  },
  {
    name: 'a route answers by itself, and the connection goes on',
    app: 'web',
    not: { upgrade: IS_GET },
    act: async at => {
      const client = await at.open();
      return [await client.ask({ path: '/fixed' }), await client.ask({ path: '/ok' })];
    },
    expect: ([fixed, next]) => {
      assert.equal(fixed.status, 403, shown(fixed));
      assert.equal(fixed.body.toString(), 'closed');
      assert.equal(next.status, 200, shown(next));
    },
  },
  ...['/x/..%2ffixed', '/fixed/../ok', '/fixed%2fx', '/fixed;x', '/%2566ixed'].map(path => ({
    name: `${path}: a path that may be that of another route is a 400`,
    app: 'web',
    act: at => at.ask({ path }),
    expect: result => assert.equal(result.status, 400, shown(result)),
  })),
  {
    name: '//%66ixed is matched as /fixed',
    app: 'web',
    act: at => at.ask({ path: '//%66ixed' }),
    expect: result => assert.equal(result.status, 403, shown(result)),
  },
  {
    name: 'a route in maintenance is a 503, to be tried again later',
    app: 'web',
    act: at => at.ask({ path: '/closed/x' }),
    expect: result => {
      assert.equal(result.status, 503, shown(result));
      assert.equal(result.headers['retry-after'], '120');
    },
  },
  {
    name: 'a body beyond the limit of its route is a 413',
    app: 'web',
    not: { upgrade: NO_BODY },
    act: at => at.ask({ method: 'POST', path: '/little/length', body: 'x'.repeat(11) }),
    expect: result => assert.equal(result.status, 413, shown(result)),
  },
  {
    name: 'an error is JSON for who asks for JSON',
    app: 'web',
    act: at => at.ask({ path: '/closed', fields: [['Accept', 'application/json']] }),
    expect: result => {
      assert.match(result.headers['content-type'], /^application\/json/, shown(result));
      assert.equal(JSON.parse(result.body.toString()).status, 503);
    },
  },
];
