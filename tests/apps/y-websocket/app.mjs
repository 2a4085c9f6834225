import assert from 'node:assert/strict';
import WebSocket from 'ws';
import { WebsocketProvider } from 'y-websocket';
import * as Y from 'yjs';
import { range, until } from '../../e2e/lib/wait.mjs';

// Each provider listens for the end of this process.
process.setMaxListeners(0);
let rooms = 0;

/** A client of a document. The parameter names its room to the proxy, as the path does to the server. */
function join(target, room) {
  const doc = new Y.Doc();
  const provider = new WebsocketProvider(target.ws, room, doc, {
    WebSocketPolyfill: WebSocket,
    // Else clients of one process tell each other, without a server.
    disableBc: true,
    params: { room },
    maxBackoffTime: 200,
  });
  return { doc, provider, text: doc.getText('zoo'), leave: () => (provider.destroy(), doc.destroy()) };
}

const synced = clients => until(() => clients.every(({ provider }) => provider.synced), { what: 'documents that are synced' });
const reads = (clients, wanted) =>
  until(() => clients.every(({ text }) => text.toString() === wanted), { what: () => `"${wanted}" in ${clients.map(({ text }) => text.toString())}` });

/** Two clients write into one document, and a third finds it there; many rooms, so that every worker has some. */
const document = target =>
  Promise.all(
    range(6).map(async () => {
      const room = `room-${++rooms}-${process.pid}`;
      const clients = [join(target, room), join(target, room)];
      try {
        await synced(clients);
        clients[0].text.insert(0, 'hello ');
        await reads(clients, 'hello ');
        clients[1].text.insert(6, 'zoo');
        await reads(clients, 'hello zoo');
        clients[0].provider.awareness.setLocalStateField('user', { name: 'Ada' });
        const sees = () => [...clients[1].provider.awareness.getStates().values()].some(state => state.user?.name === 'Ada');
        await until(sees, { what: 'the presence of the other' });
        clients.push(join(target, room));
        await reads(clients, 'hello zoo');
      } finally {
        for (const client of clients) client.leave();
      }
    }),
  );

/** Clients whose worker goes meet again at the next one, with all that they had. */
async function lasting(target) {
  const room = `lasting-${process.pid}`;
  const clients = [join(target, room), join(target, room)];
  await synced(clients);
  clients[0].text.insert(0, 'before');
  await reads(clients, 'before');
  return async () => {
    try {
      await synced(clients);
      clients[1].text.insert(6, ' and after');
      await reads(clients, 'before and after');
      assert.equal(clients[0].provider.wsconnected, true);
    } finally {
      for (const client of clients) client.leave();
    }
  };
}

export default {
  what: 'y-websocket: a room lives in one worker, which a parameter of its clients leads to',
  start: { command: ['npm', 'start'], affinity: { query: 'room' } },
  workers: 2,
  env: { HOST: 'localhost' },
  requests: [{ path: '/', expect: { contains: 'okay' } }],
  uses: { 'documents that are synced between clients': document },
  lasting,
};
