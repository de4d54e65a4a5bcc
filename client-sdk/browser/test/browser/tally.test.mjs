// The checks notice: each flow here is whole but for one fault.

import assert from "node:assert/strict";
import { test } from "node:test";
import { faultsOfToldFlow, faultsOfWholeFlow } from "./tally.mjs";

const message = (n) => ({ type: "message", n, offset: n });
const gap = (from, to, more = {}) => ({ type: "gap", from, to, count: to - from + 1, reason: "overflow", ...more });
const messages = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => message(from + index));
const reset = { type: "reset", reason: "epoch" };
const resumed = { type: "resumed" };

const whole = (entries, last = 100) => faultsOfWholeFlow(entries, { last });
const told = (entries, options = {}) => faultsOfToldFlow(entries, { last: 100, ...options });

function notices(faults, pattern) {
  assert.equal(faults.length, 1, faults.join("\n"));
  assert.match(faults[0], pattern);
}

test("a whole flow has no fault, a resume and a reset in it are none", () => {
  assert.deepEqual(whole(messages(1, 100)), []);
  assert.deepEqual(whole([...messages(1, 40), resumed, ...messages(41, 100)]), []);
  assert.deepEqual(whole([...messages(1, 40), reset, ...messages(41, 100)]), []);
});

test("one lost message is noticed, wherever it stood", () => {
  notices(whole([...messages(1, 40), ...messages(42, 100)]), /^behind 40: 42 came, and 1 before it did not$/);
  notices(whole(messages(2, 100)), /^the start: 2 came, and 1 before it did not$/);
  notices(whole(messages(1, 99)), /^the flow ends behind 99, and not with 100$/);
  notices(whole([]), /^the flow ends the start/);
  notices(whole([...messages(1, 40), resumed, ...messages(42, 100)]), /42 came/);
});

test("one doubled message is noticed", () => {
  notices(whole([...messages(1, 40), message(40), ...messages(41, 100)]), /^behind 40: 40 came again/);
  notices(whole([...messages(1, 40), resumed, ...messages(40, 100)]), /^behind 40: 40 came again/);
  notices(whole([...messages(1, 100), message(100)]), /^behind 100: 100 came again/);
});

test("two messages that changed places are noticed", () => {
  const swapped = [...messages(1, 40), message(42), message(41), ...messages(43, 100)];
  assert.deepEqual(whole(swapped).map((fault) => fault.slice(0, 12)), ["behind 40: 4", "behind 42: 4", "behind 41: 4"]);
});

test("a gap in a flow that must be whole is noticed, though it tells the truth", () => {
  const honest = whole([...messages(1, 40), gap(41, 50), ...messages(51, 100)]);
  assert.deepEqual(honest.map((fault) => fault.slice(0, 12)), ["behind 40: a", "behind 40: 5"]);
});

test("a loss or a double is forgiven beside a reset, and nowhere else", () => {
  const epoch = { type: "gap", reason: "epoch" };
  assert.deepEqual(whole([...messages(1, 40), reset, epoch, ...messages(51, 100)]), []);
  assert.deepEqual(whole([...messages(1, 40), reset, ...messages(31, 100)]), []);
  notices(whole([...messages(1, 40), reset, ...messages(51, 60), ...messages(62, 100)]), /62 came, and 1 before/);
  notices(whole([...messages(1, 40), ...messages(51, 60), reset, ...messages(61, 100)]), /51 came, and 10 before/);
  notices(whole([...messages(1, 40), epoch, ...messages(41, 100)]), /a gap/);
});

test("a message that is no number, and an item of no type, are noticed", () => {
  assert.match(whole([{ type: "message", n: undefined }])[0], /not a number/);
  notices(whole([...messages(1, 100), { type: "surprise" }]), /no known type/);
});

test("gaps that add up have no fault", () => {
  assert.deepEqual(told(messages(1, 100)), []);
  assert.deepEqual(told([gap(1, 10), ...messages(11, 50), gap(51, 60), gap(61, 70), ...messages(71, 90), gap(91, 100)]), []);
});

test("a message that neither came nor was told is noticed", () => {
  assert.match(told([...messages(1, 40), ...messages(42, 100)])[0], /before 42, 1 are missing/);
  assert.match(told([...messages(1, 40), gap(41, 49), ...messages(51, 100)])[0], /before 51, 1 are missing/);
  assert.match(told([...messages(1, 40), gap(42, 50), ...messages(51, 100)])[0], /behind 40 a gap from 42/);
  assert.match(told(messages(1, 99))[0], /99 were given and 0 told by gaps, together 99 of 100/);
});

test("a message that came and was told, or was told twice, is noticed", () => {
  assert.match(told([...messages(1, 40), gap(40, 50), ...messages(51, 100)])[0], /behind 40 a gap from 40/);
  assert.match(told([...messages(1, 40), gap(41, 51), ...messages(51, 100)])[0], /51 came behind 51/);
  assert.match(told([...messages(1, 40), gap(41, 50), gap(41, 50), ...messages(51, 100)])[0], /behind 50 a gap from 41/);
});

test("a gap whose count is wrong or missing is noticed", () => {
  notices(told([...messages(1, 40), gap(41, 50, { count: 9 }), ...messages(51, 100)]).slice(0, 1), /a gap of 9 from 41 to 50/);
  assert.match(told([...messages(1, 40), { type: "gap", at_most: 10, from: 41, to: 50 }, ...messages(51, 100)])[0], /without its count/);
});

test("gaps told later than their holes add up where that is allowed, and are noticed where they do not", () => {
  const late = (count) => [...messages(1, 40), ...messages(51, 60), gap(41, 50, { count }), ...messages(61, 100)];
  assert.deepEqual(told(late(10), { placed: false }), []);
  notices(told(late(9), { placed: false }), /90 were given and 9 told by gaps, together 99 of 100/);
});
