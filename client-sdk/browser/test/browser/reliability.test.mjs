// Two tabs and a publisher of the Rust SDK: 10,000 messages, in order, none lost or doubled, whatever happens to the
// network, the broker or the tab.

import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { startBroker, startPublisher } from "./broker.mjs";
import { assertWhole, openTab, startChromium, startFreezableChromium } from "./chromium.mjs";
import { startProxy } from "./proxy.mjs";
import { startSite } from "./site.mjs";

const TOPIC = "numbers";
const LAST = 10_000;

let browser;
let site;
let context;
let broker;
let proxy;
let publisher;

before(async () => {
  browser = await startChromium();
  site = await startSite();
});

after(async () => {
  await browser?.close();
  await site?.stop();
});

beforeEach(async () => {
  context = await browser.newContext();
});

afterEach(async () => {
  await publisher?.kill();
  await context.close();
  await proxy?.stop();
  await broker?.stop();
  publisher = proxy = broker = undefined;
});

async function start(options = {}) {
  broker = await startBroker({ options });
  proxy = await startProxy(broker.port);
  publisher = startPublisher(broker, TOPIC);
}

/** One reads as an iterator, one by callbacks; both by way of the proxy, unless told otherwise. */
async function twoTabs({ inside = context, ...more } = {}) {
  const tabs = [];
  for (const read of ["iterator", "callbacks"]) {
    const tab = await openTab(inside, site, { url: proxy.url, filter: TOPIC, read, ...more });
    tabs.push(tab);
    await tab.subscribed();
  }
  return tabs;
}

const all = (tabs, does) => Promise.all(tabs.map(does));
const reach = (tabs, n) => all(tabs, (tab) => tab.reaches(n));

/** The last message goes when all else is there, so that whatever came twice has come before it. */
async function finish(tabs) {
  await reach(tabs, LAST - 1);
  publisher.publish(LAST, LAST);
  await reach(tabs, LAST);
  await publisher.end();
}

test("nothing happens: 10,000 messages pass whole, and a tab that loses, doubles or swaps one is noticed", async () => {
  await start();
  const tabs = await twoTabs();
  const bad = await openTab(context, site, {
    url: proxy.url,
    filter: TOPIC,
    before: () => {
      let held = [];
      globalThis.sabotage = (entry) => {
        if (entry.n === 1000) return [];
        if (entry.n === 2000) return [entry, entry];
        if (entry.n === 3000) return void (held = [entry]) ?? [];
        return [entry, ...held.splice(0)];
      };
    },
  });
  await bad.subscribed();
  publisher.publish(1, LAST - 1);
  await finish([...tabs, bad]);
  await all(tabs, (tab) => assertWhole(tab, LAST));
  await assert.rejects(assertWhole(bad, LAST), /behind 999: 1001 came[^]*behind 2000: 2000 came again[^]*behind 2999: 3001 came/);
  assert.deepEqual(tabs.flatMap(({ complaints }) => complaints), []);
});

test("the network goes offline and comes back", async () => {
  // So long a wait for the second try that only the browser's word `online` can be what ends it.
  await start({ SERVER__RECONNECT_WINDOW: '["10m", "10m"]' });
  const tabs = await twoTabs();
  publisher.publish(1, 4000);
  await reach(tabs, 1000);
  await context.setOffline(true);
  proxy.down = true;
  proxy.cut();
  publisher.publish(4001, 8000);
  await all(tabs, (tab) => tab.until("it has tried in vain", (tab) => tab.client.state === "connecting"));
  proxy.down = false;
  await context.setOffline(false);
  publisher.publish(8001, LAST - 1);
  await finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
});

test("lines are cut again and again", async () => {
  await start({ SERVER__RECONNECT_WINDOW: '["0s", "200ms"]' });
  const tabs = await twoTabs();
  for (let n = 1; n < LAST - 1000; n += 1000) {
    publisher.publish(n, n + 999);
    await Promise.race(tabs.map((tab) => tab.reaches(n + 300)));
    proxy.cut();
  }
  publisher.publish(LAST - 999, LAST - 1);
  await finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
});

test("the network falls silent without a word, and comes back as another", async () => {
  await start({ WEBSOCKET__PING_INTERVAL: "1s", WEBSOCKET__PONG_TIMEOUT: "1s", SERVER__RECONNECT_WINDOW: '["0s", "200ms"]' });
  const tabs = await twoTabs();
  publisher.publish(1, 4000);
  await reach(tabs, 1000);
  proxy.silent = true;
  publisher.publish(4001, 8000);
  // No byte ever comes again on the old lines: who waits for a mark, in vain, finds out.
  await all(tabs, (tab) => tab.until("the silence is noticed", (tab) => tab.client.state === "connecting"));
  proxy.cut();
  proxy.silent = false;
  publisher.publish(8001, LAST - 1);
  await finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
});

test("the broker is killed and started again: what is lost or doubled stands beside a reset", async () => {
  const options = { SERVER__RECONNECT_WINDOW: '["0s", "500ms"]' };
  await start(options);
  const tabs = await twoTabs();
  publisher.publish(1, 6000);
  await reach(tabs, 2000);
  await broker.kill();
  publisher.publish(6001, 8000);
  broker = await startBroker({ port: broker.port, options });
  publisher.publish(8001, LAST - 1);
  await finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
  assert.deepEqual(await all(tabs, (tab) => tab.resets()), [1, 1]);
});

test("a tab that is frozen for 30 s has everything once it thaws, and holds up no other", async (t) => {
  const freezable = await startFreezableChromium();
  t.after(() => freezable.close());
  await start({ WEBSOCKET__PING_INTERVAL: "5s", WEBSOCKET__PONG_TIMEOUT: "5s", SERVER__RECONNECT_WINDOW: '["0s", "500ms"]' });
  const tabs = await twoTabs({ inside: freezable.context });
  const [frozen, awake] = tabs;
  publisher.publish(1, 2000);
  await reach(tabs, 2000);
  const devtools = await freezable.context.newCDPSession(frozen.page);
  await devtools.send("Page.setWebLifecycleState", { state: "frozen" });
  const thaw = delay(30_000);
  publisher.publish(2001, LAST - 1);
  await awake.reaches(LAST - 1);
  await thaw;
  assert.equal(await frozen.page.evaluate(() => tab.last), 2000, "the tab was not frozen");
  await devtools.send("Page.setWebLifecycleState", { state: "active" });
  await finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
});

test("a reload resumes from the position that the page kept", async () => {
  await start();
  const tabs = await twoTabs();
  for (const n of [1, 3001, 6001]) {
    publisher.publish(n, n + 2999);
    await reach(tabs, n + 500);
    await all(tabs, ({ page }) => page.reload());
  }
  publisher.publish(9001, LAST - 1);
  await finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
});

test("a page that comes back from the back/forward cache goes on where it was", async () => {
  await start();
  const tabs = await twoTabs();
  publisher.publish(1, 4000);
  await reach(tabs, 1000);
  await all(tabs, ({ page }) => page.goto(`${site.url}/elsewhere.html`));
  publisher.publish(4001, 8000);
  await all(tabs, ({ page }) => page.goBack({ waitUntil: "commit" }));
  publisher.publish(8001, LAST - 1);
  await finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
  assert.deepEqual(await all(tabs, ({ page }) => page.evaluate(() => tab.restored)), [1, 1]);
});
