// The console page in a real browser, against the real broker.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { publishFromOutside, startBroker } from "./broker.mjs";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
/** What a browser says by itself while nobody listens at the broker's address; no page can keep it from that. */
const NOBODY_LISTENS = /^WebSocket connection to 'ws:.*' failed: /;

/** So slow is no machine; whoever waits longer waits for nothing. */
const TIMEOUT = 120_000;

let browser;
let broker;
let page;
/** Whatever the page must not cause: a line in the browser's console, an exception, a request that failed. */
let complaints;

before(async () => {
  browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS, timeout: TIMEOUT });
});

after(() => browser?.close());

beforeEach(async () => {
  broker = await startBroker();
  page = await browser.newPage({ viewport: { width: 1280, height: 860 } });
  page.setDefaultTimeout(TIMEOUT);
  complaints = [];
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("requestfailed", (request) => complaints.push(`${request.url()} ${request.failure()?.errorText}`));
  page.on("response", (response) => response.ok() || complaints.push(`${response.url()} ${response.status()}`));
  await page.goto(broker.url);
  await page.locator('#status[data-state="connected"]').waitFor();
});

afterEach(async () => {
  await page.close();
  await broker.stop();
});

const says = (selector, text) => page.locator(selector, { hasText: text }).first().waitFor();
const figure = (selector) => page.locator(selector).innerText();

/** The figures of a page are written four times a second: waits until this one is. */
async function figureBecomes(selector, text) {
  await page.waitForFunction(([s, t]) => document.querySelector(s)?.textContent === t, [selector, text]);
}

async function subscribe(filter, { from = "live", overflow = "", limit = "", credit = "256" } = {}) {
  const cards = await page.locator(".subscription").count();
  await page.fill('#subscribe [name="filter"]', filter);
  await page.selectOption('#subscribe [name="from"]', from);
  await page.selectOption('#subscribe [name="overflow"]', overflow);
  await page.fill('#subscribe [name="limit"]', limit);
  await page.fill('#subscribe [name="credit"]', credit);
  await page.click('#subscribe button[type="submit"]');
  const card = page.locator(".subscription").nth(cards);
  await card.locator('.lag:not([data-lag="waiting"])').waitFor();
  return card;
}

async function publish(topic, payload, { kind = "json", times = "1" } = {}) {
  await page.fill('#publish [name="topic"]', topic);
  await page.fill('#publish [name="payload"]', payload);
  await page.selectOption('#publish [name="kind"]', kind);
  await page.fill('#publish [name="times"]', times);
  await page.click('#publish button[type="submit"]');
}

function rows() {
  return page.locator("#log .row").evaluateAll((all) =>
    all.map((row) => ({
      kind: ["message", "gap", "notice"].find((kind) => row.classList.contains(kind)),
      offset: Number(row.querySelector(".offset").textContent),
      topic: row.querySelector(".topic").textContent,
      marks: row.querySelector(".subs").textContent,
      text: row.querySelector(".payload").textContent,
    })),
  );
}

test("a new user subscribes, publishes and sees the message, with the form as it stands", async () => {
  await page.click('#subscribe button[type="submit"]');
  await says(".subscription .lag", "live");
  await page.click('#publish button[type="submit"]');
  await says("#publish-result", /^Acknowledged at offset 1 .*matched 1, queued 1/);
  await says("#log .row.message .payload", '{"text":"hello"}');
  assert.deepEqual(await rows(), [
    { kind: "message", offset: 1, topic: "chat.room1", marks: "#1", text: '{"text":"hello"}' },
  ]);
  await figureBecomes(".subscription .received", "1");
  assert.match(await figure(".subscription .latency"), /^\d+(\.\d)? ms$/);
  assert.match(await figure(".subscription .position"), /^[0-9a-f]{16}:1$/);
  assert.deepEqual(complaints, []);
});

test("messages of every kind come from other clients, and a number keeps all its digits", async () => {
  await subscribe("kinds.>");
  await publishFromOutside(broker.url, [
    { topic: "kinds.text", text: "two\nlines <b>" },
    { topic: "kinds.binary", binary: "AAEC", key: "k1" },
  ]);
  await publish("kinds.json", '{"n":\n12345678901234567890}');
  await says("#log .row.message .topic", "kinds.json");
  const [text, binary, json] = await rows();
  assert.equal(text.text, "two\nlines <b>");
  assert.equal(binary.text, "3 B  AAEC");
  assert.equal(json.text, '{"n":12345678901234567890}');
  assert.deepEqual(complaints, []);
});

test("a message that two subscriptions take is shown once, with both their marks", async () => {
  await subscribe("a.*");
  await subscribe("a.>");
  await publish("a.b", "1");
  await says("#log .row.message .payload", "1");
  await publish("a.b.c", "2");
  await says("#log .row.message .payload", "2");
  assert.deepEqual(
    (await rows()).map(({ topic, marks }) => [topic, marks]),
    [["a.b", "#1#2"], ["a.b.c", "#2"]],
  );
  assert.deepEqual(complaints, []);
});

test("a paused subscription holds back, and what its policy drops stands as a gap in its place", async () => {
  const card = await subscribe("ticks", { overflow: "drop_oldest", limit: "5", credit: "10" });
  await card.locator(".pause").click();
  await says(".lag", "paused");
  await publishFromOutside(broker.url, Array.from({ length: 50 }, (_, n) => ({ topic: "ticks", json: n })));
  await says(".lag", "credit used up");
  await card.locator(".pause").click();
  await says("#log .row.message .payload", "49");

  const shown = await rows();
  const before = shown.slice(0, 10);
  const after = shown.slice(-5);
  const gaps = shown.slice(10, -5).map(({ kind, text }) => {
    assert.equal(kind, "gap");
    const [, count, from, to] = text.match(/^(\d+) messages? not delivered, offsets? (\d+)(?: to (\d+))?: .* \(drop_oldest\)$/);
    return { count: Number(count), from: Number(from), to: Number(to ?? from) };
  });
  assert.deepEqual(before.map(({ offset }) => offset), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  assert.deepEqual(after.map(({ offset }) => offset), [46, 47, 48, 49, 50]);
  assert.deepEqual([gaps[0].from, gaps.at(-1).to], [11, 45]);
  assert.equal(gaps.reduce((sum, { count }) => sum + count, 0), 35);
  await figureBecomes(".subscription .gaps", `${gaps.length} (35 messages)`);
  assert.deepEqual(complaints, []);
});

test("the policies stand side by side: each tells in its own way what a paused page missed", async () => {
  await page.fill('#subscribe [name="filter"]', "race");
  await page.selectOption('#subscribe [name="from"]', "live");
  await page.fill('#subscribe [name="limit"]', "4");
  await page.fill('#subscribe [name="credit"]', "1");
  await page.click("#compare");
  await page.locator('.subscription .lag[data-lag="live"]').nth(3).waitFor();
  await page.click("#pause");
  const messages = Array.from({ length: 40 }, (_, n) => ({ topic: "race", json: n, key: "k" }));
  await publishFromOutside(broker.url, messages);
  await page.click("#pause");
  const cards = page.locator(".subscription");
  const ends = async (policy, received, missed) => {
    const card = cards.filter({ hasText: `${policy}, 4` });
    await card.locator(".received", { hasText: new RegExp(`^${received}$`) }).waitFor();
    await card.locator(".gaps", { hasText: missed ? `(${missed} messages)` : /^0$/ }).waitFor();
  };
  await ends("catch_up", 40, 0);
  await ends("drop_oldest", 5, 35);
  await ends("drop_newest", 5, 35);
  await ends("latest", 2, 38);
  assert.deepEqual(complaints, []);
});

test("the chart says in words what it draws", async () => {
  const label = page.locator("#chart");
  assert.equal(await label.getAttribute("aria-label"), "Messages a second: no subscription");
  await subscribe("rate");
  const rate = () =>
    page.evaluate(() => {
      const [, rate] = document.querySelector("#chart").ariaLabel.match(/^Messages a second: #1 ([\d,]+) a second$/) ?? [];
      return Number(rate?.replaceAll(",", ""));
    });
  // It is of the last second alone: published until it is seen.
  const deadline = Date.now() + TIMEOUT;
  do {
    assert.ok(Date.now() < deadline, "the chart tells of nothing");
    await publish("rate", "1", { times: "100" });
  } while (!((await rate()) > 0));
  const drawn = await page.evaluate(() => {
    const { width, height } = document.querySelector("#chart");
    const pixels = document.querySelector("#chart").getContext("2d").getImageData(0, 0, width, height).data;
    return pixels.some((value) => value > 0);
  });
  assert.ok(drawn);
  assert.deepEqual(complaints, []);
});

test("ten thousand messages pass through whole, and the page keeps the newest rows only", async () => {
  await subscribe("flood", { overflow: "catch_up", credit: "1024" });
  await publish("flood", '{"burst": true}', { times: "10000" });
  await says("#publish-result", "10,000 acknowledged, the last at offset 10000");
  await figureBecomes(".subscription .received", "10,000");
  const shown = await rows();
  assert.equal(shown.length, 500);
  assert.equal(shown.at(-1).offset, 10_000);
  assert.equal(await figure("#gaps"), "0");
  assert.deepEqual(complaints, []);
});

test("what the broker refuses is told beside the form", async () => {
  await page.fill('#subscribe [name="filter"]', "a..b");
  await page.click('#subscribe button[type="submit"]');
  await says("#subscribe-result.error", "1201 filter_invalid");
  assert.equal(await page.locator(".subscription").count(), 0);
  await publish("a b", "1");
  await says("#publish-result.error", "1200 topic_invalid");
  await publish("a", "{");
  await says("#publish-result.error", "not JSON");
  assert.deepEqual(complaints, []);
});

test("a page that was away gets what it missed, once and in order", async () => {
  await subscribe("away.>");
  await publish("away.a", "1");
  await says("#log .row.message .payload", "1");
  await page.click("#connect");
  await page.locator('#status[data-state="closed"]').waitFor();
  await publishFromOutside(broker.url, [{ topic: "away.a", json: 2 }, { topic: "away.b", json: 3 }]);
  await page.click("#connect");
  await says("#log .row.message .payload", "3");
  await publish("away.a", "4");
  await says("#log .row.message .payload", "4");
  assert.deepEqual((await rows()).map(({ kind, text }) => `${kind} ${text}`), [1, 2, 3, 4].map((n) => `message ${n}`));
  assert.deepEqual(complaints, []);
});

test("the page comes back to a broker that was restarted, and tells that the log began anew", async () => {
  await subscribe("again.>");
  await publish("again.a", "1");
  await says("#log .row.message .payload", "1");
  const connection = await figure("#connection");
  await broker.stop();
  await page.locator('#status:not([data-state="connected"])').waitFor();
  broker = await startBroker(broker.port);
  await page.locator('#status[data-state="connected"]').waitFor();
  await says("#log .row.gap .payload", "the log began anew");
  assert.notEqual(await figure("#connection"), connection);
  const whileAway = complaints.splice(0).filter((line) => !NOBODY_LISTENS.test(line));
  assert.deepEqual(whileAway, []);

  await says(".lag", "live");
  await publish("again.a", "2");
  await says("#log .row.message .payload", "2");
  assert.deepEqual(complaints, []);
});

test("an ended subscription is given nothing more", async () => {
  const card = await subscribe("end.>");
  await publish("end.a", "1");
  await says("#log .row.message .payload", "1");
  await card.locator(".unsubscribe").click();
  await says("#no-subscriptions", "None yet");
  await publish("end.a", "2");
  await says("#publish-result", /at offset 2 .*matched 0/);
  assert.equal((await rows()).length, 1);
  assert.deepEqual(complaints, []);
});

test("it fits a phone, goes by keyboard, and follows the colour scheme", async () => {
  await page.setViewportSize({ width: 360, height: 740 });
  await page.focus('#subscribe [name="filter"]');
  await page.keyboard.press("Enter");
  await says(".subscription .lag", "live");
  await page.focus('#publish [name="payload"]');
  await page.keyboard.press("Control+Enter");
  await says("#log .row.message .payload", "hello");
  await page.focus("#log");
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("Enter");
  await page.locator("#log .row.open.current").waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);

  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.emulateMedia({ colorScheme: "light" });
  const light = await ground();
  await page.emulateMedia({ colorScheme: "dark" });
  assert.notEqual(await ground(), light);
  assert.deepEqual(complaints, []);
});

test("the browser finds its icon", async () => {
  for (const path of ["favicon.ico", await page.getAttribute('link[rel="icon"]', "href")]) {
    const answer = await page.request.get(`${broker.url}/${path}`);
    assert.equal(answer.status(), 200);
    assert.match(answer.headers()["content-type"], /^image\/svg\+xml/);
  }
});

// Not a test: SCREENSHOT=1 takes the README's picture anew.
if (process.env.SCREENSHOT) test("the README's picture", async () => {
  await page.emulateMedia({ colorScheme: "light" });
  await subscribe("chat.>");
  const prices = await subscribe("prices.*", { overflow: "drop_oldest", limit: "3", credit: "2" });
  await publishFromOutside(broker.url, [
    { topic: "chat.room1", json: { from: "ada", text: "high water at six?" } },
    { topic: "chat.room2", json: { from: "tide", text: "gate is open" } },
    { topic: "prices.eur", json: { bid: 1.0841, ask: 1.0843 }, key: "eur" },
  ]);
  // A minute of the chart without a line says nothing.
  for (let second = 0; second < 24; second += 1) {
    const rate = Math.round(24 + 16 * Math.sin(second / 3));
    await publishFromOutside(broker.url, Array.from({ length: rate }, (_, n) => ({ topic: "chat.room2", json: { n } })));
    await page.waitForTimeout(500);
  }
  await prices.locator(".pause").click();
  const ticks = Array.from({ length: 18 }, (_, n) => ({ topic: "prices.eur", json: { bid: 1.0842 + n / 1e4 }, key: "eur" }));
  await publishFromOutside(broker.url, ticks);
  await prices.locator(".pause").click();
  await says("#log .row.gap .payload", "not delivered");
  await publish("chat.room1", '{"from": "ada", "text": "then nothing is lost in silence"}');
  await says("#log .row.message .payload", "in silence");
  await page.waitForTimeout(1500);
  await page.screenshot({ path: fileURLToPath(new URL("../../../docs/console.png", import.meta.url)) });
});

test("the README's lines of plain WebSocket show what was published before they came", async () => {
  const readme = await readFile(new URL("../../../README.md", import.meta.url), "utf8");
  const [, code] = readme.match(/```js\n([^]*?)```/);
  await publishFromOutside(broker.url, [{ topic: "chat.room1", json: { text: "hello" } }]);
  const logged = new Promise((resolve) => {
    page.on("console", async (message) => {
      const frame = await message.args()[0].jsonValue();
      if (frame.op === "message") resolve(frame);
    });
  });
  await page.evaluate(code.replace("127.0.0.1:7400", new URL(broker.url).host));
  const { topic, offset, json } = await logged;
  assert.deepEqual({ topic, offset, json }, { topic: "chat.room1", offset: 1, json: { text: "hello" } });
});
