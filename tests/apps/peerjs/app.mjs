import assert from 'node:assert/strict';
import { event, open } from '../lib/clients.mjs';

let peers = 0;

/** What the library in the browser says to its server, but for WebRTC itself. */
async function join(target) {
  const id = `zoo-${process.pid}-${++peers}`;
  const socket = open(target, `/zoo/peerjs?key=peerjs&id=${id}&token=t${peers}&version=1.5.5`);
  const said = [];
  socket.on('message', data => said.push(JSON.parse(data)));
  const hears = async type => {
    while (!said.some(message => message.type === type)) await event(socket, 'message');
    return said.find(message => message.type === type);
  };
  await hears('OPEN');
  return { id, hears, say: message => socket.send(JSON.stringify(message)), leave: () => socket.terminate() };
}

async function meeting(target) {
  const [ada, bob] = [await join(target), await join(target)];
  try {
    ada.say({ type: 'HEARTBEAT' });
    ada.say({ type: 'OFFER', src: ada.id, dst: bob.id, payload: { sdp: 'v=0', connectionId: 'dc_1', type: 'data' } });
    const offer = await bob.hears('OFFER');
    assert.deepEqual([offer.src, offer.payload.sdp], [ada.id, 'v=0']);
    bob.say({ type: 'ANSWER', src: bob.id, dst: ada.id, payload: { sdp: 'v=1', connectionId: 'dc_1', type: 'data' } });
    assert.equal((await ada.hears('ANSWER')).src, bob.id);
    const { text } = await target.get('/zoo/peerjs/peers');
    assert.ok([ada.id, bob.id].every(id => text.includes(id)), text);
  } finally {
    for (const peer of [ada, bob]) peer.leave();
  }
}

export default {
  what: 'PeerJS server: peers meet in the memory of one worker',
  // Its own affinity would be the pair of peers, which no request names.
  start: { command: ['npx', 'peerjs', '--port', '9000', '--path', '/zoo', '--allow_discovery'] },
  alone: ['npx', 'peerjs', '--port', '{port}', '--path', '/zoo', '--allow_discovery'],
  workers: 1,
  ready: '/zoo',
  requests: [
    { path: '/zoo', expect: { contains: 'PeerJS' } },
    { path: '/zoo/peerjs/id', mask: [/^[0-9a-f-]{36}$/g] },
    { path: '/zoo/peerjs/peers', expect: { contains: '[]' } },
    { path: '/none', expect: { status: 404 } },
  ],
  uses: { 'two peers that find each other': meeting },
};
