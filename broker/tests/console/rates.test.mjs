// The rates behind the console's chart, without a browser.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Rates, SLICES, SLICE_MS, ceiling } from "../../console/rates.js";

test("what grew in a slice is its rate, a second", () => {
  const rates = new Rates();
  const subscription = { received: 0, missed: 0 };
  rates.sample(0, [subscription]);
  subscription.received = 30;
  subscription.missed = 4;
  rates.sample(SLICE_MS - 1, [subscription]);
  rates.sample(SLICE_MS, [subscription]);
  const line = rates.lines.get(subscription);
  assert.equal(line.length, SLICES - 1);
  assert.deepEqual(line.at(-1), [60, 8]);
  assert.deepEqual(line.at(-2), [0, 0]);
});

test("a tab that slept shows nothing for that time, and loses no count", () => {
  const rates = new Rates();
  const subscription = { received: 0, missed: 0 };
  rates.sample(0, [subscription]);
  subscription.received = 10;
  rates.sample(3 * SLICE_MS, [subscription]);
  rates.sample(4 * SLICE_MS, [subscription]);
  const line = rates.lines.get(subscription);
  assert.deepEqual(line.slice(-4), [[0, 0], [0, 0], [0, 0], [20, 0]]);
});

test("memory does not grow with time, nor with subscriptions that are gone", () => {
  const rates = new Rates();
  const first = { received: 1, missed: 0 };
  rates.sample(0, [first]);
  rates.sample(1e9, [first]);
  assert.equal(rates.lines.get(first).length, SLICES - 1);
  rates.sample(2e9, []);
  assert.equal(rates.lines.size, 0);
});

test("the axis ends at a round number", () => {
  assert.deepEqual([0, 10, 11, 21, 99, 100, 5001].map(ceiling), [10, 10, 20, 50, 100, 100, 10_000]);
});
