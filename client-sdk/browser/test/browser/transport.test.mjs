// Where a WebSocket cannot be had, 10,000 messages pass all the same: whole, by server-sent events and requests.

import assert from "node:assert/strict";
import { test } from "node:test";
import { startBroker } from "./broker.mjs";
import { assertWhole } from "./chromium.mjs";
import { LAST, all, reach, stage } from "./stage.mjs";

const here = stage();
const QUICKLY = { SERVER__RECONNECT_WINDOW: '["0s", "200ms"]' };

const runsOn = async (tabs, name) => {
  await all(tabs, (tab) => tab.until(name, (tab, name) => tab.client.transport === name, name));
};

test("it runs on a WebSocket where one can be had, and says so", async () => {
  await here.start();
  const tabs = await here.twoTabs();
  await runsOn(tabs, "websocket");
  assert.deepEqual((await tabs[0].states()).at(-1), { state: "connected", transport: "websocket" });
});

for (const [habit, what] of [
  ["refuse", "a proxy answers the upgrade with 403"],
  ["strip", "a proxy passes the upgrade on as a plain request"],
  ["swallow", "a proxy takes the upgrade and never answers"],
  ["reset", "a firewall resets every line that asks for the upgrade"],
]) {
  test(`from the start ${what}`, async () => {
    await here.start();
    here.proxy.upgrade = habit;
    const tabs = await here.twoTabs();
    await runsOn(tabs, "sse");
    assert.deepEqual((await tabs[0].states()).at(-1), { state: "connected", transport: "sse" });
    here.publisher.publish(1, LAST - 1);
    await here.finish(tabs);
    await all(tabs, (tab) => assertWhole(tab, LAST));
  });
}

for (const [what, before] of [
  ["the browser has no WebSocket", () => delete globalThis.WebSocket],
  [
    "the WebSocket constructor throws",
    () => {
      globalThis.WebSocket = class {
        constructor() {
          throw new DOMException("blocked by the policy of your company", "SecurityError");
        }
      };
    },
  ],
]) {
  test(`${what}: the fallback starts at once`, async () => {
    await here.start();
    const tabs = await here.twoTabs({ before });
    await runsOn(tabs, "sse");
    for (const tab of tabs) {
      // No failure, and so no wait, stands between the two.
      assert.deepEqual(await tab.states(), [{ state: "connecting" }, { state: "connected", transport: "sse" }]);
    }
    here.publisher.publish(1, LAST - 1);
    await here.finish(tabs);
    await all(tabs, (tab) => assertWhole(tab, LAST));
    assert.deepEqual(tabs.flatMap(({ complaints }) => complaints), []);
  });
}

for (const habit of ["refuse", "swallow"]) {
  test(`midway the open WebSockets are cut, and new ones blocked (${habit})`, async () => {
    await here.start(QUICKLY);
    const tabs = await here.twoTabs();
    await runsOn(tabs, "websocket");
    here.publisher.publish(1, 4000);
    await reach(tabs, 1000);
    here.proxy.upgrade = habit;
    here.proxy.cutWebSockets();
    here.publisher.publish(4001, 8000);
    await runsOn(tabs, "sse");
    here.publisher.publish(8001, LAST - 1);
    await here.finish(tabs);
    await all(tabs, (tab) => assertWhole(tab, LAST));
  });
}

test("the fallback leads back: a minute later the next connection tries a WebSocket again", async () => {
  await here.start(QUICKLY);
  here.proxy.upgrade = "refuse";
  const tabs = await here.twoTabs({
    before: () => {
      const now = Date.now;
      globalThis.later = 0;
      Date.now = () => now() + globalThis.later;
    },
  });
  await runsOn(tabs, "sse");
  const asked = () => here.proxy.requests.filter((line) => line.startsWith("GET /ws")).length;
  const minuteLater = () => all(tabs, ({ page }) => page.evaluate(() => void (globalThis.later += 60_000)));
  let connections = 1;
  const reconnect = async () => {
    here.proxy.cut();
    connections++;
    await all(tabs, (tab) =>
      tab.until(
        `connection ${connections}`,
        (tab, connections) => tab.states.filter(({ state }) => state === "connected").length >= connections,
        connections,
      ),
    );
  };
  const transports = () => all(tabs, (tab) => tab.transport());

  here.publisher.publish(1, 3000);
  await reach(tabs, 1000);
  assert.equal(asked(), 2);
  await reconnect();
  assert.deepEqual([asked(), await transports()], [2, ["sse", "sse"]], "within the minute");
  await minuteLater();
  await reconnect();
  assert.deepEqual([asked(), await transports()], [4, ["sse", "sse"]], "a minute later, and still blocked");
  here.publisher.publish(3001, 6000);
  await reach(tabs, 4000);
  here.proxy.upgrade = "pass";
  await minuteLater();
  assert.deepEqual([asked(), await transports()], [4, ["sse", "sse"]], "a connection that works is left alone");
  await reconnect();
  assert.deepEqual([asked(), await transports()], [6, ["websocket", "websocket"]], "another minute later");
  here.publisher.publish(6001, LAST - 1);
  await here.finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
});

test("a subscription in bincode goes on in JSON where the WebSocket is blocked midway", async () => {
  await here.start(QUICKLY);
  const tabs = await here.twoTabs({ codec: "bincode" });
  await runsOn(tabs, "websocket");
  here.publisher.publish(1, 4000);
  await reach(tabs, 1000);
  here.proxy.upgrade = "refuse";
  here.proxy.cutWebSockets();
  await runsOn(tabs, "sse");
  here.publisher.publish(4001, LAST - 1);
  await here.finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
});

test("the fallback's lines are cut again and again", async () => {
  await here.start(QUICKLY);
  here.proxy.upgrade = "refuse";
  const tabs = await here.twoTabs();
  for (let n = 1; n < LAST - 1000; n += 1000) {
    here.publisher.publish(n, n + 999);
    await Promise.race(tabs.map((tab) => tab.reaches(n + 300)));
    here.proxy.cut();
  }
  here.publisher.publish(LAST - 999, LAST - 1);
  await here.finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
  await runsOn(tabs, "sse");
});

test("on the fallback the broker is killed and started again", async () => {
  await here.start(QUICKLY);
  here.proxy.upgrade = "refuse";
  const tabs = await here.twoTabs();
  here.publisher.publish(1, 6000);
  await reach(tabs, 2000);
  await here.broker.kill();
  here.publisher.publish(6001, 8000);
  here.broker = await startBroker({ port: here.broker.port, options: QUICKLY });
  here.publisher.publish(8001, LAST - 1);
  await here.finish(tabs);
  await all(tabs, (tab) => assertWhole(tab, LAST));
  assert.deepEqual(await all(tabs, (tab) => tab.resets()), [1, 1]);
});

for (const upgrade of ["pass", "refuse"]) {
  const transport = upgrade === "pass" ? "websocket" : "sse";
  test(`what a page publishes over ${transport} through cuts comes once, and in order`, async () => {
    await here.start(QUICKLY);
    here.proxy.upgrade = upgrade;
    const [writer, ...readers] = [await here.openTab({ filter: "other" }), ...(await here.twoTabs())];
    await writer.subscribed();
    const published = writer.page.evaluate(async () => {
      const acks = [];
      for (let n = 1; n <= 2000; n++) acks.push(tab.client.publish("numbers", n));
      return (await Promise.all(acks)).map(({ offset }) => offset);
    });
    for (const n of [100, 600, 1200]) {
      await readers[0].reaches(n);
      here.proxy.cut();
    }
    assert.deepEqual(await published, Array.from({ length: 2000 }, (_, index) => index + 1));
    await reach(readers, 2000);
    await all(readers, (tab) => assertWhole(tab, 2000));
  });
}
