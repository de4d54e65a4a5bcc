// A page that reads slowly holds the broker, not its own memory: 100,000 messages pass it by under each policy, its heap
// stays flat, and what it got and the gaps it was told add up to what was published.

import assert from "node:assert/strict";
import { test } from "node:test";
import { startPublisher } from "./broker.mjs";
import { faultsOfToldFlow } from "./tally.mjs";
import { all, stage } from "./stage.mjs";

const here = stage();
const LAST = 100_000;
/** What 100,000 messages would take, if the page held them, is some 30 MB. */
const MOST_GROWTH = 2 * 1024 * 1024;

/** Bytes of live objects, buffers among them. */
async function heap({ page }) {
  const devtools = await page.context().newCDPSession(page);
  await devtools.send("HeapProfiler.collectGarbage");
  const { usedSize, backingStorageSize = 0 } = await devtools.send("Runtime.getHeapUsage");
  await devtools.detach();
  return usedSize + backingStorageSize;
}

/** By how many bytes its heap has grown since it was `before`. */
const growth = async (tab, before) => (await heap(tab)) - before;

const pull = ({ page }, count) => page.evaluate(([count, last]) => tab.pull(count, last), [count, LAST]);

for (const { name, options, log, keyed, check } of [
  {
    name: "drop_oldest: what the lane let go of is told where it is missing",
    options: { overflow: "drop_oldest", limit: 100 },
    check: { mostGiven: 2000 },
  },
  {
    name: "latest: what newer values took the place of is told",
    options: { overflow: "latest" },
    keyed: true,
    check: { placed: false, mostGiven: 2000 },
  },
  {
    name: "catch_up: what the log let go of is told, and no more",
    options: { overflow: "catch_up" },
    log: '[{name = "default", max_bytes = "1MiB", max_age = "1h"}]',
    check: { leastGiven: 2000 },
  },
  {
    name: "catch_up, with a log that holds it all: it is slow, and loses nothing",
    options: { overflow: "catch_up" },
    check: { leastGiven: LAST },
  },
]) {
  test(name, async () => {
    await here.start(log && { STREAMS: log });
    const tabs = [];
    // Directly, and by the fallback.
    for (const upgrade of ["pass", "refuse"]) {
      here.proxy.upgrade = upgrade;
      const tab = await here.openTab({ read: "pulled", options: { ...options, credit: 100 }, filter: "flood" });
      await tab.subscribed();
      tabs.push(tab);
    }
    const publisher = startPublisher(here.broker, "flood", { keyed });
    publisher.publish(1, 1000, (n) => n % 10);
    await all(tabs, (tab) => pull(tab, 10));
    const before = await all(tabs, heap);

    publisher.publish(1001, LAST, (n) => n % 10);
    const published = publisher.end();
    let isPublished = false;
    published.then(() => (isPublished = true), () => {});
    // So many at the most, however long the publishing takes beside this.
    for (let n = 0; n < 500 && !isPublished; n += 1) await all(tabs, (tab) => pull(tab, 1));
    await published;
    for (const [index, tab] of tabs.entries()) {
      const grown = await growth(tab, before[index]);
      assert.ok(grown < MOST_GROWTH, `the heap grew by ${grown} bytes, from ${before[index]}`);
    }

    await all(tabs, (tab) => pull(tab, Infinity));
    for (const entries of await all(tabs, (tab) => tab.entries())) {
      assert.deepEqual(faultsOfToldFlow(entries, { last: LAST, placed: check.placed ?? true }), []);
      const given = entries.filter(({ type }) => type === "message").length;
      assert.ok(given >= (check.leastGiven ?? 100) && given <= (check.mostGiven ?? LAST), `${given} were given`);
    }
  });
}

test("the measure notices a page that holds what it has not read", async () => {
  await here.start();
  const tab = await here.openTab({ read: "pulled", options: { credit: LAST }, filter: "flood" });
  await tab.subscribed();
  const before = await heap(tab);
  const publisher = startPublisher(here.broker, "flood");
  publisher.publish(1, LAST);
  await publisher.end();
  // Its answer comes behind everything that was published before.
  await tab.page.evaluate(() => tab.client.publish("other", 1));
  const grown = await growth(tab, before);
  assert.ok(grown > 2 * MOST_GROWTH, `the heap grew by ${grown} bytes only`);
});
