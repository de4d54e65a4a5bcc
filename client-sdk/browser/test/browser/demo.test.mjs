// `tidegate demo`: each of its pages opened and used in Chromium, beside publishers of the Rust SDK.
//
// SCREENSHOT=1 takes the documents' pictures anew.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { TIMEOUT, startChromium } from "./chromium.mjs";

const BINARY = process.env.BROKER_BIN ?? fileURLToPath(new URL("../../../../target/debug/tidegate", import.meta.url));
/** What a browser says by itself while nobody listens at the broker's address; no page can keep it from that. */
const NOBODY_LISTENS = /net::ERR_(CONNECTION_(REFUSED|RESET)|EMPTY_RESPONSE|INCOMPLETE_CHUNKED_ENCODING)|WebSocket connection to/;

let browser;
let context;
let demo;
let complaints;

before(async () => {
  browser = await startChromium();
  demo = await startDemo();
});

after(async () => {
  await browser?.close();
  await demo?.stop();
});

beforeEach(async () => {
  context = await browser.newContext({ viewport: { width: 1000, height: 680 } });
  context.setDefaultTimeout(TIMEOUT);
  complaints = [];
});

afterEach(() => context.close());

async function startDemo(port = 0) {
  const child = spawn(BINARY, ["demo", "--port", String(port)], { stdio: ["ignore", "ignore", "pipe"] });
  const exited = once(child, "exit");
  const url = await new Promise((resolve, reject) => {
    createInterface({ input: child.stderr }).on("line", (line) => {
      const found = line.match(/http:\/\/127\.0\.0\.1:\d+/);
      if (found) resolve(found[0]);
    });
    child.once("error", reject);
    exited.then(([code]) => reject(new Error(`the demo ended with ${code} before it listened`)));
  });
  return {
    url,
    port: Number(new URL(url).port),
    async stop() {
      child.kill("SIGTERM");
      await exited;
    },
  };
}

/** A tab with one of the demo's pages, connected. */
async function open(name, inside = context) {
  const page = await inside.newPage();
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("response", (response) => response.ok() || complaints.push(`${response.url()} ${response.status()}`));
  await page.goto(`${demo.url}/demo/${name}/`);
  await page.locator('#status[data-state="connected"]').waitFor();
  return page;
}

const number = async (page, id) => Number((await page.locator(`#${id}`).innerText()).replaceAll(",", ""));

/** Until the number shown at `id` is at least so large. */
async function reaches(page, id, least) {
  await page.waitForFunction(
    ([id, least]) => Number(document.getElementById(id).textContent.replaceAll(",", "")) >= least,
    [id, least],
  );
}

const picture = (page, name) =>
  process.env.SCREENSHOT && page.screenshot({ path: fileURLToPath(new URL(`../../../../docs/demo-${name}.png`, import.meta.url)) });

test("the start page leads to each of the four", async () => {
  const page = await context.newPage();
  await page.goto(`${demo.url}/demo/`);
  for (const name of ["chat", "dashboard", "telemetry", "game"]) {
    await page.locator(`.demos a[href="/demo/${name}/"]`).click();
    await page.locator(`nav a[aria-current="page"][href="/demo/${name}/"]`).waitFor();
    await page.locator('#status[data-state="connected"]').waitFor();
    await page.locator(".brand").click();
  }
});

// Chat

const lines = (page) => page.locator("#room ol:not([hidden]) .message .text");
const said = (page, text) => lines(page).filter({ hasText: text }).waitFor();

async function say(page, text) {
  await page.fill("#text", text);
  await page.keyboard.press("Enter");
}

test("two tabs of a chat talk to each other, and history is there after a reload", async () => {
  const [ines, jonas] = [await open("chat"), await open("chat")];
  await ines.fill("#name", "Ines");
  await jonas.fill("#name", "Jonas");
  await say(ines, "Is the gate open?");
  await said(jonas, "Is the gate open?");
  await say(jonas, "It never was.");
  await said(ines, "It never was.");
  // The bots answer whoever they hear.
  await said(ines, /Ines/);
  const order = async (page) => (await lines(page).allInnerTexts()).filter((text) => /gate open\?|never was/.test(text));
  assert.deepEqual(await order(ines), await order(jonas));
  await ines.reload();
  await said(ines, "It never was.");
  assert.deepEqual(await order(ines), await order(jonas));
  assert.equal(await ines.inputValue("#name"), "Ines");
  assert.deepEqual(complaints, []);
});

test("who scrolls up reads older messages, up to where the log begins", async () => {
  const page = await open("chat");
  await page.locator("#room .message").nth(29).waitFor({ state: "attached" });
  const begins = page.locator("#room ol:not([hidden]) .notice.start");
  while (!(await begins.count())) {
    const before = await lines(page).count();
    await page.locator("#room").evaluate((room) => (room.scrollTop = 0));
    // The last page may be empty but for the notice.
    await page.waitForFunction((before) => {
      const room = document.querySelector("#room ol:not([hidden])");
      return room.querySelectorAll(".message").length > before || room.querySelector(".notice.start");
    }, before);
  }
  assert.ok((await lines(page).count()) >= 120);
  // The bots' lines come in their order: nothing is doubled or left out where the pages meet.
  const first = (await lines(page).allInnerTexts()).slice(0, 120);
  assert.deepEqual(first.slice(0, 40), [...first.slice(20, 40), ...first.slice(20, 40)]);
  assert.deepEqual(first, Array.from({ length: 6 }, () => first.slice(0, 20)).flat());
  assert.deepEqual(complaints, []);
});

test("a tab that was offline gets what it missed, in order, once", async () => {
  const [away, other] = [await open("chat"), await open("chat")];
  await say(other, "before");
  await said(away, "before");
  await away.click("#offline");
  await away.locator('#status[data-state="disconnected"]').waitFor();
  for (const text of ["missed 1", "missed 2", "missed 3"]) await say(other, text);
  await said(other, "missed 3");
  await away.click("#offline");
  await said(away, "missed 3");
  await away.locator("#room ol:not([hidden]) .notice", { hasText: /You were offline for .* messages came meanwhile/ }).waitFor();
  await say(other, "after");
  await said(away, "after");
  const order = (await lines(away).allInnerTexts()).filter((text) => /^(before|missed \d|after)$/.test(text));
  assert.deepEqual(order, ["before", "missed 1", "missed 2", "missed 3", "after"]);
  assert.deepEqual(complaints, []);
});

test("what a short log no longer has for a tab that did not read stands there as a gap, and the count is exact", async () => {
  const [asleep, awake] = [await open("chat"), await open("chat")];
  const gauge = (page) => page.locator("#rooms button", { hasText: "Gauge" }).click();
  await gauge(asleep);
  await gauge(awake);
  await asleep.click("#sleep");
  // Longer than the log keeps, by what another tab was given: a reading a second.
  const last = (await lines(awake).count()) + 45;
  await lines(awake).nth(last).waitFor({ timeout: 5 * TIMEOUT });
  await asleep.click("#sleep");
  await asleep.locator("#room ol:not([hidden]) .notice.gap", { hasText: "the log no longer has them" }).first().waitFor();
  if (process.env.SCREENSHOT) {
    await asleep.locator("#room ol:not([hidden]) .notice.gap").first().evaluate((gap) => gap.scrollIntoView({ block: "center" }));
    await picture(asleep, "chat");
  }

  const flow = (page) =>
    page.locator("#room ol:not([hidden]) > li").evaluateAll((all) =>
      all.map((item) => ({
        text: item.querySelector(".text")?.textContent,
        missing: item.classList.contains("gap") ? Number(item.textContent.match(/^(\d+) message/)?.[1]) : 0,
      })),
    );
  // Everything that the one was given, the other was given or was told of.
  const whole = (await flow(awake)).filter(({ text }) => text).map(({ text }) => text);
  await asleep.waitForFunction(
    (text) => [...document.querySelectorAll("#room ol:not([hidden]) .text")].some((line) => line.textContent === text),
    whole.at(-1),
  );
  const parts = await flow(asleep);
  const start = whole.indexOf(parts.find(({ text }) => text).text);
  let at = start;
  for (const { text, missing } of parts) {
    at += missing;
    if (text === undefined) continue;
    if (at >= whole.length) break;
    assert.equal(text, whole[at], `after ${at - start} of the others'`);
    at += 1;
  }
  assert.ok(at >= whole.length);
  assert.deepEqual(complaints, []);
});

test("a page comes back to a broker that was stopped and started, and says that its log is another", async () => {
  const page = await open("chat");
  await page.locator("#room .message").nth(29).waitFor({ state: "attached" });
  const { port } = demo;
  await demo.stop();
  await page.locator('#status:not([data-state="connected"])').waitFor();
  demo = await startDemo(port);
  await page.locator('#status[data-state="connected"]').waitFor();
  await page.locator("#room .notice", { hasText: "The broker was restarted" }).first().waitFor();
  await say(page, "back again");
  await said(page, "back again");
  assert.deepEqual(complaints.filter((line) => !NOBODY_LISTENS.test(line)), []);
});

// Dashboard

test("the dashboard receives, merges what it does not read, and answers whatever it reads", async () => {
  const page = await open("dashboard");
  const read = (what) => page.getByText(what, { exact: true }).click();
  await reaches(page, "published", 1);
  await reaches(page, "received-all", 1000);
  // A page that reads 500 of 10,000 a second is not given the rest, and is told of it.
  await read("500 a second");
  await reaches(page, "merged-all", 1000 + (await number(page, "merged-all")));
  await reaches(page, "frames", 1);
  await page.waitForFunction(() => document.querySelector("#prices").width > 300);
  await read("nothing");
  await page.locator("#received", { hasText: /^0$/ }).waitFor();
  // It still draws, and answers.
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
  const before = await number(page, "received-all");
  const merged = await number(page, "merged-all");
  await read("everything");
  await reaches(page, "received-all", before + 1000);
  // What was merged meanwhile is told, once it reads on.
  await reaches(page, "merged-all", merged + 1);
  assert.equal(await number(page, "lost"), 0);
  assert.deepEqual(complaints, []);
});

// Telemetry

const devices = (page) => page.locator(".device").count();

test("telemetry shows the last value of every device at once, those of silent ones too", async () => {
  const page = await open("telemetry");
  await reaches(page, "first", 600);
  await page.waitForFunction(() => document.querySelectorAll(".device").length === 200);
  assert.equal(await page.locator(".city").count(), 8);
  // Whatever the flood pushes out of the log.
  await page.locator("#reach", { hasText: "s" }).waitFor();
  await page.reload();
  await reaches(page, "first", 600);
  assert.deepEqual(complaints, []);
});

test("a wildcard chooses what telemetry shows", async () => {
  const page = await open("telemetry");
  const choose = async (filter, count) => {
    await page.fill("#filter", filter);
    await page.keyboard.press("Enter");
    await page.waitForFunction((count) => document.querySelectorAll(".device b:not(:empty)").length === count, count);
    assert.equal(await devices(page), count, filter);
  };
  await choose("fleet.oslo.*.temperature", 25);
  assert.deepEqual(await page.locator(".city h3").allInnerTexts(), ["Oslo"]);
  await choose("fleet.*.d07.battery", 8);
  assert.match(await page.locator(".device b").first().innerText(), /^\d+ %$/);
  await choose("fleet.*.*.humidity", 200);
  await page.fill("#filter", "fleet..");
  await page.keyboard.press("Enter");
  await page.locator("#refused", { hasText: "Not a filter" }).waitFor();
  assert.equal(await devices(page), 200, "what was shown stays");
  assert.deepEqual(complaints, []);
});

test("the flood is merged for who reads slowly, and its gaps are counted", async () => {
  const page = await open("telemetry");
  await reaches(page, "flood-gaps", 500);
  await page.getByText("nothing", { exact: true }).click();
  await page.locator("#received", { hasText: /^0$/ }).waitFor();
  const gaps = await number(page, "flood-gaps");
  await page.getByText("500 a second", { exact: true }).click();
  await reaches(page, "flood-gaps", gaps + 500);
  await picture(page, "telemetry");
  assert.deepEqual(complaints, []);
});

// Game

const place = (page, boat) =>
  page.locator(`#boats li[data-boat="${boat}"]`).evaluate(({ dataset }) => ({ x: Number(dataset.x), y: Number(dataset.y) }));

/** Until a boat is elsewhere, as this page sees it. */
async function moves(page, boat, from) {
  await page.waitForFunction(
    ([boat, from]) => {
      const { x, y } = document.querySelector(`#boats li[data-boat="${boat}"]`)?.dataset ?? from;
      return Math.hypot(x - from.x, y - from.y) > 20;
    },
    [boat, from],
  );
}

test("a key moves the own boat in another tab, and a pointer does", async () => {
  const [mine, other] = [await open("game"), await open("game")];
  await mine.fill("#name", "Kittiwake");
  await mine.locator("#sea").focus();
  const boat = await mine.locator("#boats li.mine").getAttribute("data-boat");
  await other.locator(`#boats li[data-boat="${boat}"]`, { hasText: "Kittiwake" }).waitFor();
  // Two tabs and five bots.
  await other.waitForFunction(() => document.querySelectorAll("#boats li").length === 7);

  const still = await place(other, boat);
  await mine.keyboard.down("ArrowUp");
  await mine.keyboard.down("ArrowRight");
  await moves(other, boat, still);
  await mine.keyboard.up("ArrowUp");
  await mine.keyboard.up("ArrowRight");

  const { x, y, width, height } = await mine.locator("#sea").boundingBox();
  const there = await place(mine, boat);
  // To the farther side of a sea 1,200 wide, wherever that lies.
  const rightwards = there.x < 600;
  await mine.mouse.move(x + width * (rightwards ? 0.9 : 0.1), y + height / 2);
  await mine.mouse.down();
  await other.waitForFunction(
    ([boat, rightwards]) => {
      const x = Number(document.querySelector(`#boats li[data-boat="${boat}"]`)?.dataset.x ?? 600);
      return rightwards ? x > 700 : x < 500;
    },
    [boat, rightwards],
  );
  await mine.mouse.up();
  await mine.locator("#sea").blur();
  await picture(mine, "game");
  assert.deepEqual(complaints, []);
});

test("a tab that stops reading a game goes on in the present, and is told what was merged", async () => {
  const page = await open("game");
  await page.locator("#boats li").nth(5).waitFor();
  await page.click("#sleep");
  // The others fade: nothing is read of them.
  await page.waitForFunction(() => document.querySelectorAll("#boats li").length === 1);
  await page.click("#sleep");
  await page.locator("#boats li").nth(5).waitFor();
  await reaches(page, "merged", 1);
  assert.deepEqual(complaints, []);
});

test("a tab that is closed leaves the others' water", async () => {
  const [leaving, other] = [await open("game"), await open("game")];
  const boat = await leaving.locator("#boats li.mine").getAttribute("data-boat");
  await other.locator(`#boats li[data-boat="${boat}"]`).waitFor();
  await leaving.close();
  await other.locator(`#boats li[data-boat="${boat}"]`).waitFor({ state: "detached" });
});

// All

test("every page fits a phone and follows the colour scheme", async () => {
  const phone = await browser.newContext({ viewport: { width: 360, height: 740 }, colorScheme: "light", hasTouch: true });
  phone.setDefaultTimeout(TIMEOUT);
  for (const name of ["", "chat", "dashboard", "telemetry", "game"]) {
    const page = await phone.newPage();
    await page.goto(`${demo.url}/demo/${name}`);
    if (name) await page.locator('#status[data-state="connected"]').waitFor();
    if (name === "telemetry") await page.locator(".device").nth(199).waitFor();
    if (name === "game") await page.locator("#boats li").nth(5).waitFor();
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, `/demo/${name}`);
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await ground();
    await page.emulateMedia({ colorScheme: "dark" });
    assert.notEqual(await ground(), light, `/demo/${name}`);
    await page.close();
  }
  await phone.close();
});

if (process.env.SCREENSHOT) test("the dashboard's picture", async () => {
  const page = await open("dashboard");
  await page.setViewportSize({ width: 920, height: 720 });
  const read = (what) => page.getByText(what, { exact: true }).click();
  const total = async () => (await number(page, "received-all")) + (await number(page, "merged-all"));
  for (const [what, updates] of [["everything", 80_000], ["2,000 a second", 80_000], ["500 a second", 80_000], ["everything", 60_000], ["2,000 a second", 40_000]]) {
    await read(what);
    const from = await total();
    await page.waitForFunction(
      (wanted) => ["received-all", "merged-all"].reduce((sum, id) => sum + Number(document.getElementById(id).textContent.replaceAll(",", "")), 0) > wanted,
      from + updates,
    );
  }
  await picture(page, "dashboard");
});
