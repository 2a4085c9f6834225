// That the harness sees what it is to see: differences, failed requests, reasons that no longer hold, installations that fail.

import assert from 'node:assert/strict';
import http from 'node:http';
import test from 'node:test';
import { freePort } from '../e2e/lib/proxy.mjs';
import { Alone } from './lib/alone.mjs';
import { Load } from './lib/behind.mjs';
import { ask, derived, differences } from './lib/compare.mjs';
import { environmentFor, isOfTheMachine } from './lib/prepare.mjs';
import { judge } from './lib/run.mjs';
import { Target } from './lib/target.mjs';

/** Runs `body` with the target of a server that answers so. */
async function served(listener, body, alone = false) {
  const server = http.createServer(listener);
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
  try {
    return await body(new Target({ port: server.address().port, alone }));
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

const app = { name: 'planted', requests: [{ path: '/' }, { path: '/other', mask: [/nonce-\d+/g] }] };

/** What is found between two servers, each given by what it does to an answer. */
const between = (one, other, about = app) =>
  served(one, alone => served(other, async behind => differences(about, await ask(alone, about), await ask(behind, about), { alone, behind })), true);

const answer = (change = () => {}) => (request, response) => {
  response.setHeader('x-of', 'the app');
  response.setHeader('set-cookie', ['a=1', 'b=2']);
  change(request, response);
  response.end(request.url === '/other' ? `nonce-${String(Math.random()).slice(2)} on ${request.headers.host}` : 'hello');
};

test('two servers that answer alike but for masks and ports do not differ', async () => {
  assert.deepEqual(await between(answer(), answer()), []);
});

test('a field more, a field less, another value, another body and another status are differences', async () => {
  const planted = {
    'x-more: undefined alone, "1" behind the proxy': (_, response) => response.setHeader('x-more', '1'),
    'x-of: "the app" alone, undefined behind the proxy': (_, response) => response.removeHeader('x-of'),
    'set-cookie: "a=1,b=2" alone, "a=1" behind the proxy': (_, response) => response.setHeader('set-cookie', ['a=1']),
    'body: from byte 0 of 5 and 6': (_, response) => response.write('!'),
  };
  for (const [text, change] of Object.entries(planted)) {
    const [found] = await between(answer(), answer(change));
    assert.equal(found?.request, 'GET /', text);
    assert.ok(found.text.includes(text), found.text);
  }
  const failing = between(answer(), answer((_, response) => (response.statusCode = 502)));
  await assert.rejects(failing, /GET \/ behind the proxy: 502/);
});

test('what a browser asks besides is compared, too', async () => {
  const tagged = answer((_, response) => response.setHeader('etag', '"1"'));
  await served(tagged, async target => {
    const about = { requests: [{ path: '/' }, { path: '/', method: 'POST' }, { path: '/other', mask: [/nonce-\d+/g] }] };
    const names = derived(await ask(target, about), about, target).map(({ name }) => name);
    assert.deepEqual(names, ['GET /, compressed', 'GET /, by HEAD', 'GET /, unless it changed', 'GET /other, compressed']);
  });
});

test('a difference must be expected, and an expected one must be there', () => {
  const found = [{ request: 'GET /', text: 'x-of: "a" alone, "b" behind the proxy' }];
  assert.throws(() => judge(app, found), /does not answer as it does alone/);
  const expected = { 'GET /': { differs: 'a reason', seen: /"b" behind/ } };
  assert.deepEqual(judge({ ...app, expected }, found), ['GET /: a reason']);
  assert.throws(() => judge({ ...app, expected }, []), /has had its day/);
  assert.throws(() => judge({ ...app, expected: { 'GET /': { differs: 'a reason', seen: /"c" behind/ } } }, found));
});

test('the load counts refused connections, wrong answers and cut ones', async () => {
  let n = 0;
  const bad = (request, response) => {
    n++;
    if (n % 9 === 0) request.socket.destroy();
    else if (n % 9 === 3) response.writeHead(503).end();
    else if (n % 9 === 6) response.end('of somebody else');
    else response.end('hello');
  };
  await served(bad, async target => {
    const load = new Load(target, [{ path: '/', expect: { contains: 'hello' } }]);
    await load.more(60);
    await load.stop();
    for (const kind of [/ECONNRESET/, /: 503 /, /no "hello" in/]) assert.ok(load.failed.some(text => kind.test(text)), `${kind} in ${load.failed}`);
  });
  const nobody = new Load(new Target({ port: await freePort() }), [{ path: '/' }]);
  await nobody.more(4);
  await nobody.stop();
  assert.equal(nobody.done, 0);
  assert.match(nobody.failed[0], /ECONNREFUSED/);
});

test('an app that ends at its start is not waited for', async () => {
  const broken = { name: 'broken', start: { command: ['node', '-e', 'console.log("as planned"); process.exit(3)'] } };
  const process_ = await new Alone().start(broken, { cwd: '/', env: environmentFor(broken), ports: {} });
  await assert.rejects(process_.ready(new Target({ port: process_.port }), broken, 10_000), /it ended: {"code":3/);
  await process_.stop();
});

test('only what the machine lacks is a reason to skip an app', () => {
  const of = text => isOfTheMachine(new Error(text));
  assert.ok(of('npm ci ended with 1; npm error code ENOTFOUND'));
  assert.ok(of('npm ci was not done within 600 s'));
  assert.ok(!of('npm ci ended with 1; npm error code EUSAGE npm error `npm ci` can only install packages when'));
});
