// No SDK: what a bare EventSource gets of a topic, and gets again after a cut, by `Last-Event-ID` alone.

import assert from "node:assert/strict";
import { test } from "node:test";
import { TOPIC, stage } from "./stage.mjs";

const here = stage();

test("a bare EventSource has every message once, in order, over cuts of its line", async () => {
  await here.start();
  const page = await here.context.newPage();
  page.setDefaultTimeout(60_000);
  await page.goto(`${here.site.url}/elsewhere.html`);
  await page.evaluate((url) => {
    globalThis.got = [];
    globalThis.opened = 0;
    globalThis.source = new EventSource(url);
    source.onopen = () => (opened += 1);
    source.onmessage = ({ data }) => got.push(JSON.parse(data).offset);
    source.addEventListener("gap", ({ data }) => got.push(data));
  }, `${here.proxy.url}/v1/subscribe?filter=${TOPIC}&from=beginning`);
  for (let round = 1; round <= 3; round += 1) {
    here.publisher.publish(round * 1000 - 999, round * 1000);
    await page.waitForFunction((n) => got.length >= n, round * 1000 - 500);
    here.proxy.cut();
    await page.waitForFunction((n) => opened > n, round);
  }
  here.publisher.publish(3001, 4000);
  await page.waitForFunction(() => got.length >= 4000);
  assert.deepEqual(await page.evaluate(() => got), Array.from({ length: 4000 }, (_, n) => n + 1));
  await here.publisher.end();
});
