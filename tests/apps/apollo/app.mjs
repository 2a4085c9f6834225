import assert from 'node:assert/strict';
import { createClient } from 'graphql-ws';
import { WebSocket } from 'ws';
import { until } from '../../e2e/lib/wait.mjs';

const query = (text, variables) => ({ path: '/graphql', method: 'POST', body: { query: text, variables } });
const client = (target, more) => createClient({ url: `${target.ws}/graphql`, webSocketImpl: WebSocket, lazy: false, ...more });

async function countdown(target) {
  const graphql = client(target);
  try {
    const got = [];
    for await (const { data } of graphql.iterate({ query: 'subscription { countdown(from: 3) }' })) got.push(data.countdown);
    assert.deepEqual(got, [3, 2, 1, 0]);
  } finally {
    await graphql.dispose();
  }
}

/** A mutation and who subscribed to it meet on one connection, whichever worker has it. */
async function published(target) {
  const graphql = client(target);
  try {
    const added = graphql.iterate({ query: 'subscription { bookAdded { title } }' });
    const got = added.next();
    let seen = false;
    got.then(() => (seen = true));
    // What is published before the subscription stands is lost: so it is said until it was heard.
    await until(async () => {
      const mutation = graphql.iterate({ query: 'mutation { addBook(title: "Emma") { title } }' });
      await mutation.next();
      return seen;
    });
    assert.equal((await got).value.data.bookAdded.title, 'Emma');
    await added.return();
  } finally {
    await graphql.dispose();
  }
}

/** A client that is told to retry subscribes anew when its worker goes. */
async function lasting(target) {
  const closes = [];
  const graphql = client(target, {
    retryAttempts: 20,
    retryWait: () => new Promise(resolve => setTimeout(resolve, 50)),
    shouldRetry: () => true,
    on: { closed: ({ code }) => closes.push(code) },
  });
  await new Promise(resolve => graphql.on('connected', resolve));
  return async () => {
    try {
      await until(() => closes.length > 0, { what: 'the end of a connection to a worker that was replaced' });
      assert.deepEqual([...new Set(closes)].filter(code => code !== 1012 && code !== 1001), [], 'codes of closed connections');
      const { value } = await graphql.iterate({ query: '{ worker }' }).next();
      assert.ok(value.data.worker > 0);
    } finally {
      await graphql.dispose();
    }
  };
}

export default {
  what: 'Apollo Server with subscriptions by graphql-ws',
  start: { command: ['npm', 'start'] },
  workers: 2,
  ready: '/graphql?query=%7B__typename%7D&x=1',
  readyStatus: 400, // Without a header of its own, Apollo takes it for a forged one.
  requests: [
    { ...query('{ books { title author } }'), name: 'a query', expect: { contains: '{"data":{"books":[{"title":"The Awakening","author":"Kate Chopin"}]}}' } },
    { ...query('mutation($t: String!) { addBook(title: $t) { title } }', { t: 'Emma' }), name: 'a mutation', expect: { contains: 'Emma' } },
    { ...query('{ nothing }'), name: 'a query that is not valid', mask: [/"stacktrace":\[[^\]]*\]/g], expect: { status: 400, contains: 'GRAPHQL_VALIDATION_FAILED' } },
    { path: '/graphql?query=%7B__typename%7D', name: 'a query by GET', headers: { 'apollo-require-preflight': '1' }, expect: { contains: '{"data":{"__typename":"Query"}}' } },
    { path: '/graphql', name: 'the landing page', headers: { accept: 'text/html' }, expect: { contains: '<!DOCTYPE html>' }, mask: [/nonce="?[0-9a-f]+/g, /'nonce-[^']*'/g] },
    { path: '/graphql', name: 'a preflight', method: 'OPTIONS', headers: { origin: 'http://zoo', 'access-control-request-method': 'POST' }, expect: { status: 204 } },
  ],
  load: [{ ...query('{ books { title } }'), expect: { contains: 'The Awakening' } }],
  uses: { 'a subscription': countdown, 'a subscription to what a mutation publishes': published },
  lasting,
};
