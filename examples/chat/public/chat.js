'use strict';

// What others write reaches the page only as text (textContent), never as HTML.

const SHOWN = 200; // messages and events kept on the page

const $ = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

const people = new Map(); // socket id -> name
let me = null; // { id, name }
let worker = null; // { slot, pid }
let online = 0;

const remembered = {
  get name() {
    try { return sessionStorage.getItem('name') || ''; } catch { return ''; }
  },
  set name(name) {
    try { sessionStorage.setItem('name', name); } catch { /* private window */ }
  },
};

const socket = io({
  auth: (send) => send({ name: remembered.name }),
  reconnectionDelay: 300,
  reconnectionDelayMax: 3000,
});

// ---- state of the connection

function show(state, text) {
  document.body.dataset.state = state;
  $('state').textContent = text;
  $('send').disabled = state !== 'connected';
}

function showTransport(name) {
  document.body.dataset.transport = name ?? '';
  for (const step of document.querySelectorAll('.step')) {
    const now = step.dataset.step === name;
    step.classList.toggle('now', now);
    if (now) step.setAttribute('aria-current', 'step');
    else step.removeAttribute('aria-current');
  }
}

function showWorker({ slot, pid }) {
  $('slot').textContent = slot ?? 'single';
  $('pid').textContent = pid;
  Object.assign(document.body.dataset, { slot: slot ?? '', pid });
  // The golden angle keeps neighbouring slots far apart on the colour wheel.
  const hue = slot === null ? 264 : (264 + Number(slot) * 137.5) % 360;
  document.documentElement.style.setProperty('--hue', hue.toFixed(1));
  document.title = slot === null ? 'Chat' : `Chat, worker ${slot}`;
}

const workerText = ({ slot, pid }) => (slot === null ? `process ${pid}` : `worker ${slot}, process ${pid}`);

socket.on('connect', () => {
  const { engine } = socket.io;
  showTransport(engine.transport.name);
  engine.on('upgrade', (transport) => showTransport(transport.name));
});

socket.on('disconnect', (reason) => {
  showTransport(null);
  // Everything else is retried by the client itself.
  if (reason === 'io server disconnect') socket.connect();
  show('connecting', 'connection lost, trying again');
});

socket.io.on('reconnect_attempt', (attempt) => show('connecting', `trying again (${attempt})`));
socket.on('connect_error', () => {
  if (!socket.active) show('offline', 'refused by the server');
});
window.addEventListener('offline', () => show('offline', 'this device is offline'));

socket.on('welcome', (welcome) => {
  const moved = worker && (worker.pid !== welcome.worker.pid || worker.slot !== welcome.worker.slot);
  ({ you: me, worker, online } = welcome);
  showWorker(worker);

  people.clear();
  people.set(me.id, me.name);
  for (const { id, name } of welcome.people) people.set(id, name);
  showPeople();

  $('name').value = me.name;
  $('name').maxLength = welcome.limits.name;
  $('text').maxLength = welcome.limits.message;
  remembered.name = remembered.name || me.name;

  $('messages').replaceChildren();
  for (const message of welcome.history) addMessage(message);
  addEvent(`${moved ? 'Now' : 'You are'} on ${workerText(worker)}`, 'worker');
  show('connected', 'connected');
});

// ---- people

socket.on('joined', ({ id, name, online: count }) => {
  people.set(id, name);
  online = count;
  showPeople();
  addEvent(`${name} came in`);
});
socket.on('renamed', ({ id, name }) => {
  const before = people.get(id);
  people.set(id, name);
  showPeople();
  if (before) addEvent(`${before} is now ${name}`);
});
socket.on('left', ({ id, name, online: count }) => {
  people.delete(id);
  online = count;
  showPeople();
  addEvent(`${name} left`);
});

function showPeople() {
  $('online').textContent = online;
  const rows = Array.from(people, ([id, name]) => make('li', id === me.id ? 'me' : '', name));
  if (online > people.size) rows.push(make('li', 'more', `and ${online - people.size} more`));
  $('people').replaceChildren(...rows);
}

// ---- messages

socket.on('message', addMessage);

function addMessage({ from, text, at }) {
  const item = make('li', from.id === me.id ? 'message mine' : 'message');
  const by = make('span', 'by');
  const clock = new Date(at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
  by.append(make('b', '', from.name), ` ${clock}`);
  item.append(by, make('p', 'body', text));
  add(item);
}

function addEvent(text, kind = '') {
  add(make('li', `event ${kind}`, text));
}

function add(item) {
  const scroll = $('scroll');
  const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
  const list = $('messages');
  list.append(item);
  while (list.childElementCount > SHOWN) list.firstElementChild.remove();
  if (atEnd || item.classList.contains('mine')) scroll.scrollTop = scroll.scrollHeight;
}

// Asks the server; its refusal, or its silence, is shown.
async function ask(event, value) {
  $('error').textContent = '';
  try {
    const answer = await socket.timeout(5000).emitWithAck(event, value);
    if (!answer.error) return answer;
    $('error').textContent = answer.error;
  } catch {
    $('error').textContent = 'The server did not answer.';
  }
  return null;
}

$('say').addEventListener('submit', async (submit) => {
  submit.preventDefault();
  const field = $('text');
  const text = field.value.trim();
  if (!text || $('send').disabled) return;
  $('send').disabled = true;
  const answer = await ask('message', text);
  $('send').disabled = document.body.dataset.state !== 'connected';
  if (!answer) return;
  addMessage(answer.message);
  field.value = '';
  field.focus();
});

$('text').addEventListener('keydown', (key) => {
  if (key.key !== 'Enter' || key.shiftKey || key.isComposing) return;
  key.preventDefault();
  $('say').requestSubmit();
});

$('name').addEventListener('change', async () => {
  const wish = $('name').value.trim();
  const answer = socket.connected && wish ? await ask('rename', wish) : null;
  if (answer) {
    remembered.name = wish;
    me.name = answer.name;
    people.set(me.id, me.name);
    showPeople();
  }
  if (me) $('name').value = me.name;
});
$('name').addEventListener('keydown', (key) => {
  if (key.key !== 'Enter') return;
  key.preventDefault();
  $('text').focus();
});

$('again').addEventListener('click', () => {
  socket.disconnect();
  show('connecting', 'connecting');
  socket.connect();
});

// The list of people is open where there is room for it.
const wide = window.matchMedia('(min-width: 721px)');
const fit = () => { $('people-box').open = wide.matches; };
wide.addEventListener('change', fit);
fit();
