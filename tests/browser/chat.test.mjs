// The example chat in a real browser: behind the proxy (BIN, conf/chat.yaml) and as a plain Node app.
// TARGET=plain leaves the proxy out. Screenshots for people to look at go to SCREENSHOTS, else to a fixed place in
// the temporary directory; both names are printed.

import assert from 'node:assert/strict';
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { chromium } from 'playwright-core';
import { alive, startChat, until } from './server.mjs';

const WORKERS = 3; // as conf/chat.yaml says
const screenshots = process.env.SCREENSHOTS ?? path.join(os.tmpdir(), 'pingora-unix-proxy-screenshots');
let browser;

before(async () => {
  await fs.mkdir(screenshots, { recursive: true });
  // The profile directory is new each time: Playwright makes it and removes it.
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
});

after(() => browser?.close());

// A tab with the chat in it, connected and upgraded; what went wrong in it is kept in `faults`.
async function openTab(context, url, faults) {
  const tab = await context.newPage();
  tab.on('pageerror', (error) => faults.push(String(error)));
  tab.on('console', (line) => line.type() === 'error' && faults.push(line.text()));
  await tab.goto(url);
  await tab.locator('body[data-state="connected"]').waitFor();
  await tab.locator('body[data-transport="websocket"]').waitFor();
  return tab;
}

async function shownWorker(tab) {
  const { slot, pid } = await tab.evaluate(() => ({ ...document.body.dataset }));
  const facts = await tab.getByRole('region', { name: 'Your connection' }).innerText();
  assert.match(facts, new RegExp(`\\b${pid}\\b`), 'the page shows the process id');
  return { slot, pid: Number(pid) };
}

async function say(tab, text) {
  await tab.getByLabel('Message', { exact: true }).fill(text);
  await tab.getByRole('button', { name: 'Send' }).click();
}

const messagesIn = (tab) => tab.locator('.message .body').allInnerTexts();

async function bothTalk(one, two) {
  await say(one, 'Hello from the first tab');
  await until('the second tab got it', async () => (await messagesIn(two)).includes('Hello from the first tab'));
  await say(two, 'And hello from the second');
  await until('the first tab got it', async () => (await messagesIn(one)).includes('And hello from the second'));
}

async function picture(tab, name) {
  const file = path.join(screenshots, `${name}.png`);
  // Fonts drawn, colours faded in.
  await tab.waitForTimeout(400);
  await tab.screenshot({ path: file });
  console.log(`screenshot: ${file}`);
}

describe('behind the proxy', { skip: process.env.TARGET === 'plain' && 'TARGET=plain', timeout: 180_000 }, () => {
  let chat;
  let context;
  const faults = [];
  const pids = new Set();

  before(async () => {
    chat = await startChat('proxy');
    context = await browser.newContext({ viewport: { width: 1100, height: 720 } });
  });

  after(async () => {
    await context?.close();
    if (!chat) return;
    const code = await chat.stop();
    assert.equal(code, 0, `the proxy ended with ${code}:\n${chat.output()}`);
    assert.deepEqual([...pids].filter(alive), [], 'no worker is left');
  });

  it('two tabs on one worker chat with each other over WebSocket', async () => {
    const bySlot = new Map();
    let pair;
    // Of WORKERS + 1 tabs two must share a worker, wherever the balance sends them.
    for (let n = 0; n <= WORKERS && !pair; n++) {
      const tab = await openTab(context, chat.url, faults);
      const { slot, pid } = await shownWorker(tab);
      assert.match(slot, /^[0-2]$/);
      assert.ok(alive(pid), `worker ${pid} runs`);
      assert.equal(await tab.locator('#slot').innerText(), slot);
      pids.add(pid);
      if (bySlot.has(slot)) pair = [bySlot.get(slot), tab];
      else bySlot.set(slot, tab);
    }
    assert.ok(pair, 'two tabs share a worker');
    const [one, two] = pair;
    assert.deepEqual(await shownWorker(one), await shownWorker(two));

    await one.getByLabel('Name', { exact: true }).fill('Ada');
    await one.getByLabel('Name', { exact: true }).press('Enter');
    await two.locator('#people li', { hasText: /^Ada$/ }).waitFor();
    await bothTalk(one, two);
    await two.bringToFront();
    await picture(two, 'proxy');

    // Whoever sits on another worker has not heard of it yet.
    for (const other of bySlot.values()) {
      if (other !== one) assert.deepEqual(await messagesIn(other), []);
    }
    assert.deepEqual(faults, []);
  });

  it('a new session finds a worker again', async () => {
    const tab = await openTab(context, chat.url, faults);
    const sidBefore = await tab.evaluate(() => socket.id);
    await tab.getByRole('button', { name: 'New session' }).click();
    await until('a new session', async () => ![undefined, sidBefore].includes(await tab.evaluate(() => socket.id)));
    await tab.locator('body[data-state="connected"][data-transport="websocket"]').waitFor();
    pids.add((await shownWorker(tab)).pid);
    assert.deepEqual(faults, []);
  });
});

describe('as a plain Node app', { timeout: 120_000 }, () => {
  let chat;
  const faults = [];

  before(async () => {
    chat = await startChat('plain');
  });

  after(async () => {
    if (!chat) return;
    assert.equal(await chat.stop(), 0, chat.output());
  });

  it('two tabs chat, light and dark', async () => {
    const light = await browser.newContext({ viewport: { width: 1100, height: 720 }, colorScheme: 'light' });
    const dark = await browser.newContext({ viewport: { width: 1100, height: 720 }, colorScheme: 'dark' });
    const one = await openTab(light, chat.url, faults);
    const two = await openTab(dark, chat.url, faults);
    assert.equal((await shownWorker(one)).slot, '');
    await bothTalk(one, two);
    await picture(one, 'light');
    await picture(two, 'dark');
    await light.close();
    await dark.close();
    assert.deepEqual(faults, []);
  });

  it('shows what people write as text, and no more of it than it should', async () => {
    const context = await browser.newContext();
    const evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>';
    const one = await openTab(context, chat.url, faults);
    const two = await openTab(context, chat.url, faults);
    await one.getByLabel('Name', { exact: true }).fill('<b>Eve</b>');
    await one.getByLabel('Name', { exact: true }).press('Enter');
    await two.locator('#people li', { hasText: '<b>Eve</b>' }).waitFor();
    await say(one, evil);
    await until('the text as it is', async () => (await messagesIn(two)).includes(evil));
    assert.equal(await two.title(), 'Chat');
    assert.equal(await two.locator('.message img, .message script, .message b b').count(), 0);

    // Straight to the server, past the page's own limits.
    const answers = await one.evaluate(async () => {
      const tell = (event, value) => socket.timeout(5000).emitWithAck(event, value);
      const long = await tell('message', 'x'.repeat(10_000));
      const odd = [];
      for (const value of [null, 7, {}, ['a'], '', ' \n ', '\u202e']) odd.push(await tell('message', value));
      const name = await tell('rename', `${'n'.repeat(90)}\u0000`);
      socket.emit('message', 'without an answer wanted');
      socket.emit('rename');
      const many = [];
      for (let i = 0; i < 12; i++) many.push(await tell('message', `flood ${i}`));
      return { long: long.message.text.length, odd, name: name.name, refused: many.filter((a) => a.error).length };
    });
    assert.equal(answers.long, 500);
    assert.ok(answers.odd.every((a) => a.error), JSON.stringify(answers.odd));
    assert.equal(answers.name, 'n'.repeat(24));
    assert.ok(answers.refused >= 4, `${answers.refused} refused`);
    await context.close();
    assert.deepEqual(faults, []);
  });

  it('fits a phone', async () => {
    const context = await browser.newContext({ viewport: { width: 360, height: 640 }, hasTouch: true, isMobile: true });
    const tab = await openTab(context, chat.url, faults);
    await say(tab, `A long word: ${'w'.repeat(120)}`);
    await until('it is shown', async () => (await messagesIn(tab)).some((text) => text.startsWith('A long word')));
    assert.equal(await tab.evaluate(() => document.documentElement.scrollWidth), 360);
    for (const id of ['#text', '#send', '#slot', '#transport', '#state']) {
      assert.ok(await tab.locator(id).isVisible(), `${id} is visible`);
      const box = await tab.locator(id).boundingBox();
      assert.ok(box.y >= 0 && box.y + box.height <= 640, `${id} is on the screen`);
    }
    await picture(tab, 'phone');
    await context.close();
    assert.deepEqual(faults, []);
  });
});

describe('when the server goes away', { timeout: 120_000 }, () => {
  it('says so', async () => {
    const chat = await startChat('plain');
    const context = await browser.newContext();
    const tab = await openTab(context, chat.url, []);
    assert.equal(await chat.stop(), 0, chat.output());
    await tab.locator('#state', { hasText: /trying again/ }).waitFor();
    assert.ok(await tab.getByRole('button', { name: 'Send' }).isDisabled());
    await context.close();
  });
});
