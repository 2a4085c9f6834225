import assert from 'node:assert/strict';
import { until } from '../../e2e/lib/wait.mjs';
import { event, open } from '../lib/clients.mjs';

const flow = path => [
  { id: 'tab', type: 'tab', label: 'zoo' },
  { id: 'in', type: 'http in', z: 'tab', name: '', url: `/${path}`, method: 'get', upload: false, wires: [['fn']] },
  { id: 'fn', type: 'function', z: 'tab', name: '', func: 'msg.payload = { flow: "' + path + '", q: msg.req.query.q }; return msg;', outputs: 1, wires: [['out']] },
  { id: 'out', type: 'http response', z: 'tab', name: '', statusCode: '', headers: {}, wires: [] },
];

let deployed = 0;

/** Deploys by the admin API, as the editor does, and calls what it has deployed. */
async function deploy(target) {
  const path = `zoo-${++deployed}`;
  const { rev } = await target.json('/flows', { headers: { 'node-red-api-version': 'v2' } });
  await target.json('/flows', {
    method: 'POST',
    headers: { 'node-red-api-version': 'v2', 'node-red-deployment-type': 'full' },
    body: { rev, flows: flow(path) },
  });
  const called = await until(async () => {
    const answer = await target.get(`/${path}?q=1`);
    return answer.status === 200 && answer.text;
  });
  assert.deepEqual(JSON.parse(called), { flow: path, q: '1' });
}

/** The editor hears of what happens by a WebSocket. */
async function comms(target) {
  const socket = open(target, '/comms');
  try {
    await event(socket, 'open');
    const told = event(socket, 'message');
    socket.send(JSON.stringify({ subscribe: 'notification/#' }));
    assert.match(String((await told)[0]), /topic/);
  } finally {
    socket.terminate();
  }
}

/** A flow that was deployed before is there in the worker that comes next. */
async function lasting(target) {
  await deploy(target);
  const path = `/zoo-${deployed}`;
  return () => until(async () => (await target.get(path)).status === 200, { what: `${path} after the reload` });
}

export default {
  what: 'Node-RED: flows live in one worker and its directory',
  node: 22,
  start: { command: ['npx', 'node-red', '--userDir', '.'] },
  alone: ['npx', 'node-red', '--userDir', '.', '--port', '{port}'],
  workers: 1,
  state: ['flows.json', '.flows.json.backup', '.config.nodes.json', '.config.runtime.json', '.config.users.json', 'context', 'lib'],
  requests: [
    { path: '/', mask: [/\?v=[0-9a-z]+/g], expect: { contains: '<title>Node-RED</title>' } },
    { path: '/settings', expect: { contains: '"version":"5.0.7"' } },
    { path: '/nodes', headers: { accept: 'application/json' }, expect: { contains: '"http in"' } },
    { path: '/red/red.min.js', expect: { headers: { 'content-type': /javascript/ } } },
    { path: '/none', expect: { status: 404 } },
  ],
  load: [{ path: '/settings' }, { path: '/red/red.min.js' }],
  uses: { 'a flow that is deployed and called': deploy, 'the WebSocket of the editor': comms },
  lasting,
};
