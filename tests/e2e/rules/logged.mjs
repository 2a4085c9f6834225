// What the access log says of each path.

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { shown } from './outcome.mjs';
import { until } from '../lib/wait.mjs';

/** Its path in the proxy's directory. */
export const ACCESS_LOG = 'access.log';

function entries(at, name) {
  const file = at.proxy.file(ACCESS_LOG);
  const lines = existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(0, -1) : [];
  return lines.filter(line => line.includes(name)).map(line => JSON.parse(line));
}

/** Asks for a path with a name of its own; the request's lines. */
async function logged(at, asked) {
  const name = `logged.${at.app}.${at.name}`;
  const client = await at.open();
  const result = await client.ask({ path: `${asked}?name=${name}&token=geheim` });
  // A tunnel's line comes at its end.
  if (at.upgrades) at.close();
  await until(() => entries(at, name).length > 0, { what: `the line of ${name}` });
  return { result, lines: entries(at, name) };
}

export const log = [
  {
    name: 'the access log has one line of a request, with its worker and without its secrets',
    app: 'web',
    act: at => logged(at, '/ok'),
    expect: ({ result, lines: [one, ...more] }, at) => {
      assert.equal(result.status, 200, shown(result));
      assert.deepEqual(more, []);
      assert.deepEqual([one.status, one.answered_by, one.app, one.generation], [at.upgrades ? 101 : 200, 'worker', 'web', 1], JSON.stringify(one));
      assert.deepEqual([one.method, one.path, one.protocol], ['GET', '/ok', at.two ? 'HTTP/2.0' : 'HTTP/1.1']);
      assert.ok(one.slot < 2 && one.client === '127.0.0.1' && one.query.endsWith('&token=REDACTED'), JSON.stringify(one));
      assert.ok(one.total >= one.queue && one.first_byte > 0, JSON.stringify(one));
    },
  },
  {
    name: 'the access log says why the proxy answered in a worker\'s place',
    app: 'strict',
    act: at => logged(at, '/hang'),
    expect: ({ result, lines: [one, ...more] }) => {
      assert.equal(result.status, 504, shown(result));
      assert.deepEqual(more, []);
      assert.deepEqual([one.status, one.answered_by, one.reason, one.app, one.slot], [504, 'proxy', 'no_answer', 'strict', 0], JSON.stringify(one));
      assert.ok(one.total >= 1, JSON.stringify(one));
    },
  },
  {
    name: 'the access log has what no route takes',
    app: 'nowhere',
    act: at => logged(at, '/ok'),
    expect: ({ result, lines: [one, ...more] }) => {
      assert.equal(result.status, 404, shown(result));
      assert.deepEqual(more, []);
      assert.deepEqual([one.status, one.answered_by, one.host, one.app], [404, 'proxy', 'nowhere.example', undefined], JSON.stringify(one));
    },
  },
];
