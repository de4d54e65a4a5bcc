// Whose pages may connect, and what the others' developers read. The pages take the SDK straight from the broker.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { TIMEOUT } from "./chromium.mjs";
import { stage } from "./stage.mjs";

const here = stage();
let page;
/** What stands on the console of the browser. */
let said;

beforeEach(async () => {
  page = await here.context.newPage();
  page.setDefaultTimeout(TIMEOUT);
  said = [];
  page.on("console", (message) => said.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => said.push(`exception: ${error}`));
});

async function start(options) {
  await here.start(options);
  here.site.broker = here.proxy.url;
}

/** Publishes until the page shows it: when its subscription begins is its own affair. */
async function showsWhatIsPublished() {
  const publish = async () => {
    await fetch(`${here.broker.url}/v1/topics/chat.room1`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: '{"text":"hello"}',
    }).then((response) => assert.equal(response.status, 200));
    return (await page.locator("body").innerText()).includes("hello");
  };
  const deadline = Date.now() + TIMEOUT;
  while (!(await publish())) assert.ok(Date.now() < deadline, `the page shows nothing:\n${said.join("\n")}`);
}

test("a page of another loopback port has live messages with three lines, straight from the broker", async () => {
  await start();
  await page.goto(`${here.site.url}/three-lines.html`);
  await showsWhatIsPublished();
  assert.deepEqual(said, []);
});

test("a page of the broker's own origin needs no address, in bincode too", async () => {
  await start();
  await page.goto(here.broker.url);
  const got = await page.evaluate(async () => {
    const { Client } = await import("/client.js");
    const { bincode } = await import("/client-bincode.js");
    const got = [];
    for (const codec of [undefined, bincode]) {
      const client = new Client("", { codec });
      const name = codec ? "bincode" : "default";
      const items = client.subscribe(`own.${name}`, { from: "beginning" })[Symbol.asyncIterator]();
      await client.publish(`own.${name}`, { name });
      got.push((await items.next()).value.data.name);
      client.close();
    }
    return got;
  });
  assert.deepEqual(got, ["default", "bincode"]);
  assert.deepEqual(said, []);
});

test("a page from a foreign origin is refused, and its developer reads why on the console", async () => {
  await start();
  await page.goto(`${here.site.foreignUrl}/three-lines.html`);
  const isReason = (line) => line.includes("allowed_origins");
  while (!said.some(isReason)) {
    await page.waitForEvent("console").catch(() => assert.fail(`no reason on the console:\n${said.join("\n")}`));
  }
  const reason = said.find(isReason);
  assert.match(reason, /^(error|warning): /);
  assert.ok(reason.includes(`"${here.site.foreignUrl}" may not connect: add it to server.allowed_origins`), reason);
});

test("a page from a foreign origin is told why by the state, and does not knock again", async () => {
  await start();
  const tab = await here.openTab({ on: here.site.foreignUrl });
  await tab.until("it has given up", (tab) => tab.client.state === "disconnected");
  const state = (await tab.states()).at(-1);
  assert.equal(state.code, 4500);
  assert.match(state.reason, /may not connect: add it to server\.allowed_origins/);
  assert.equal(state.retry, undefined);
  assert.equal(await tab.page.evaluate(() => tab.subscription.state), "unsubscribed");
});

for (const upgrade of ["pass", "refuse"]) {
  const transport = upgrade === "pass" ? "websocket" : "sse";
  test(`a page from a foreign origin that the operator allows connects, over ${transport}`, async () => {
    await start({ SERVER__ALLOWED_ORIGINS: JSON.stringify([here.site.foreignUrl]) });
    here.proxy.upgrade = upgrade;
    const tab = await here.openTab({ on: here.site.foreignUrl });
    await tab.subscribed();
    assert.equal(await tab.transport(), transport);
    here.publisher.publish(1, 10);
    await tab.reaches(10);
    await page.goto(`${here.site.foreignUrl}/three-lines.html`);
    await showsWhatIsPublished();
  });
}
