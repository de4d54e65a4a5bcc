// Two tabs and a publisher of the Rust SDK: 10,000 messages, in order, none lost or doubled, whatever happens to the
// network, the broker or the tab.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { startBroker } from "./broker.mjs";
import { assertWhole, startFreezableChromium } from "./chromium.mjs";
import { LAST, all, reach, stage } from "./stage.mjs";

const here = stage();

test("nothing happens: 10,000 messages pass whole, and a tab that loses, doubles or swaps one is noticed", async () => {
  await here.start();
  const tabs = await here.twoTabs();
  const bad = await here.openTab({
    before: () => {
      let held = [];
      globalThis.sabotage = (entry) => {
        if (entry.n === 1000) return [];
        if (entry.n === 2000) return [entry, entry];
        if (entry.n !== 3000) return [entry, ...held.splice(0)];
        held = [entry];
        return [];
      };
    },
  });
  await bad.subscribed();
  here.publisher.publish(1, LAST - 1);
  await here.finish([...tabs, bad]);
  await all(tabs, (tab) => assertWhole(tab, LAST));
  await assert.rejects(assertWhole(bad, LAST), /behind 999: 1001 came[^]*behind 2000: 2000 came again[^]*behind 2999: 3001 came/);
  assert.deepEqual(tabs.flatMap(({ complaints }) => complaints), []);
});

test("the network goes offline and comes back", async () => {
  // So long a wait for the second try that only the browser's word `online` can be what ends it.
  await here.start({ SERVER__RECONNECT_WINDOW: '["10m", "10m"]' });
  const tabs = await here.twoTabs();
  here.publisher.publish(1, 4000);
  await reach(tabs, 1000);
  await here.context.setOffline(true);
  here.proxy.down = true;
  here.proxy.cut();
  here.publisher.publish(4001, 8000);
  await all(tabs, (tab) => tab.until("it has tried in vain", (tab) => tab.client.state === "connecting"));
  here.proxy.down = false;
  await here.context.setOffline(false);
  here.publisher.publish(8001, LAST - 1);
  await here.finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
});

test("lines are cut again and again", async () => {
  await here.start({ SERVER__RECONNECT_WINDOW: '["0s", "200ms"]' });
  const tabs = await here.twoTabs();
  for (let n = 1; n < LAST - 1000; n += 1000) {
    here.publisher.publish(n, n + 999);
    await Promise.race(tabs.map((tab) => tab.reaches(n + 300)));
    here.proxy.cut();
  }
  here.publisher.publish(LAST - 999, LAST - 1);
  await here.finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
});

test("the network falls silent without a word, and comes back as another", async () => {
  await here.start({ WEBSOCKET__PING_INTERVAL: "1s", WEBSOCKET__PONG_TIMEOUT: "1s", SERVER__RECONNECT_WINDOW: '["0s", "200ms"]' });
  const tabs = await here.twoTabs();
  here.publisher.publish(1, 4000);
  await reach(tabs, 1000);
  here.proxy.silent = true;
  here.publisher.publish(4001, 8000);
  // No byte ever comes again on the old lines: who waits for a mark, in vain, finds out.
  await all(tabs, (tab) => tab.until("the silence is noticed", (tab) => tab.client.state === "connecting"));
  here.proxy.cut();
  here.proxy.silent = false;
  here.publisher.publish(8001, LAST - 1);
  await here.finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
});

test("the broker is killed and started again: what is lost or doubled stands beside a reset", async () => {
  const options = { SERVER__RECONNECT_WINDOW: '["0s", "500ms"]' };
  await here.start(options);
  const tabs = await here.twoTabs();
  here.publisher.publish(1, 6000);
  await reach(tabs, 2000);
  await here.broker.kill();
  here.publisher.publish(6001, 8000);
  here.broker = await startBroker({ port: here.broker.port, options });
  here.publisher.publish(8001, LAST - 1);
  await here.finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
  assert.deepEqual(await all(tabs, (tab) => tab.resets()), [1, 1]);
});

test("tabs that are frozen for 30 s, on each transport, have everything once they thaw, and hold up no other", async (t) => {
  const freezable = await startFreezableChromium();
  t.after(() => freezable.close());
  await here.start({ WEBSOCKET__PING_INTERVAL: "5s", WEBSOCKET__PONG_TIMEOUT: "5s", SERVER__RECONNECT_WINDOW: '["0s", "500ms"]' });
  const open = async (read, transport) => {
    const tab = await here.openTab({ inside: freezable.context, read, client: { transports: [transport] } });
    await tab.subscribed();
    assert.equal(await tab.transport(), transport);
    return tab;
  };
  const frozen = [await open("iterator", "websocket"), await open("iterator", "sse"), await open("callbacks", "sse")];
  const awake = await open("callbacks", "websocket");
  const tabs = [...frozen, awake];
  here.publisher.publish(1, 2000);
  await reach(tabs, 2000);
  const live = async (state) => {
    for (const { page } of frozen) {
      const devtools = await freezable.context.newCDPSession(page);
      await devtools.send("Page.setWebLifecycleState", { state });
    }
  };
  await live("frozen");
  const thaw = delay(30_000);
  here.publisher.publish(2001, LAST - 1);
  await awake.reaches(LAST - 1);
  await thaw;
  for (const { page } of frozen) assert.equal(await page.evaluate(() => tab.last), 2000, "the tab was not frozen");
  await live("active");
  await here.finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
});

test("a reload resumes from the position that the page kept", async () => {
  await here.start();
  const tabs = await here.twoTabs();
  for (const n of [1, 3001, 6001]) {
    await all(tabs, ({ page }) => page.evaluate((n) => (tab.reloadAt = n), n + 500));
    const reloaded = all(tabs, ({ page }) => page.waitForEvent("load"));
    here.publisher.publish(n, n + 2999);
    await reloaded;
    await reach(tabs, n + 1000);
  }
  here.publisher.publish(9001, LAST - 1);
  await here.finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
});

test("a page that comes back from the back/forward cache goes on where it was", async () => {
  await here.start();
  const tabs = await here.twoTabs();
  here.publisher.publish(1, 4000);
  await reach(tabs, 1000);
  await all(tabs, ({ page }) => page.goto(`${here.site.url}/elsewhere.html`));
  here.publisher.publish(4001, 8000);
  await all(tabs, ({ page }) => page.goBack({ waitUntil: "commit" }));
  here.publisher.publish(8001, LAST - 1);
  await here.finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
  assert.deepEqual(await all(tabs, ({ page }) => page.evaluate(() => tab.restored)), [1, 1]);
});
