// The page's rules without a browser: a scripted socket, a clock that stands still until it is moved, and no chance.
//
// How to extend: `connect()` gives a session past its welcome; `says(frame)` lets the broker speak; `sent(op)` is what
// the page said on the present connection; `clock.advance(ms)` fires what is due.

import assert from "node:assert/strict";
import { test } from "node:test";
import { matches } from "../../console/filter.js";
import { Session } from "../../console/session.js";

const EPOCH = "00000000000000aa";
const OTHER_EPOCH = "00000000000000bb";

function start({ random = 0.5 } = {}) {
  const clock = fakeClock();
  const sockets = [];
  const seen = { messages: [], gaps: [], notices: [], refused: [] };
  const environment = {
    socket: (url, protocol) => {
      const socket = { url, protocol, frames: [], send: (data) => socket.frames.push(...data.split("\n").map(JSON.parse)), close: () => {} };
      sockets.push(socket);
      return socket;
    },
    now: clock.now,
    stopwatch: clock.now,
    random: () => random,
    after: clock.after,
    cancel: clock.cancel,
    id: (() => {
      let next = 0;
      return () => `id${next++}`;
    })(),
  };
  const session = new Session("ws://broker.test/ws", {
    status() {},
    changed() {},
    message: (frame, subscriptions) => seen.messages.push([frame.offset, ...subscriptions.map(({ key }) => key)]),
    gap: (gap) => seen.gaps.push(gap),
    notice: (text) => seen.notices.push(text),
    refused: (subscription, error) => seen.refused.push([subscription.key, error.code]),
  }, environment);
  session.open();
  const peer = {
    session,
    clock,
    sockets,
    seen,
    get socket() {
      return sockets.at(-1);
    },
    says: (...frames) => peer.socket.onmessage({ data: frames.map((frame) => JSON.stringify(frame)).join("\n") }),
    sent: (op) => peer.socket.frames.filter((frame) => frame.op === op),
    welcome: (more = {}) => {
      peer.socket.onopen();
      peer.says({
        op: "welcome",
        id: peer.sent("connect")[0].id,
        connection: `c${sockets.length}`,
        publish_window: { messages: 4, bytes: 100 },
        ping_ms: 25_000,
        reconnect_ms: [0, 5000],
        ...more,
      });
    },
    cut: (code, reason = "") => peer.socket.onclose({ code, reason }),
    acks: (positions = [{ epoch: EPOCH, offset: 0, live: 0 }], more = {}) => {
      const { id } = peer.sent("subscribe").at(-1);
      peer.says({ op: "ack", id, positions, overflow: "catch_up", limit: 256, limit_bytes: 262144, ...more });
      return id;
    },
  };
  return peer;
}

function connect(options) {
  const peer = start(options);
  peer.welcome();
  return peer;
}

function fakeClock() {
  let time = 1_790_000_000_000;
  let due = [];
  return {
    now: () => time,
    after(ms, run) {
      const timer = { at: time + ms, run };
      due.push(timer);
      return timer;
    },
    cancel(timer) {
      due = due.filter((other) => other !== timer);
    },
    /** Moves on by `ms`, firing timers at their time. */
    advance(ms) {
      const end = time + ms;
      for (;;) {
        const next = due.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
        if (!next) break;
        due = due.filter((timer) => timer !== next);
        time = Math.max(time, next.at);
        next.run();
      }
      time = end;
    },
    /** Moves on by `ms` as a sleeping computer does: no timer fires until it wakes. */
    sleep(ms) {
      time += ms;
    },
  };
}

const asked = (filter, more = {}) => ({ filter, from: "live", credit: 4, ...more });
const message = (offset, more = {}) => ({ op: "message", topic: "a.b", offset, time: 0, json: offset, ...more });

test("a filter takes what the broker's filter takes", () => {
  const table = [
    ["chat.room1", "chat.room1", true],
    ["chat", "chat.room1", false],
    ["chat.*", "chat.room1", true],
    ["chat.*", "chat", false],
    ["chat.*", "chat.a.b", false],
    ["chat.>", "chat.a.b", true],
    ["chat.>", "chat", false],
    ["*.b.*", "a.b.c", true],
    [">", "a", true],
    [">", "$sys.load", false],
    ["*.load", "$sys.load", false],
    ["a.>", "a.b.$c", false],
    ["$sys.*", "$sys.load", true],
  ];
  for (const [filter, topic, taken] of table) assert.equal(matches(filter, topic), taken, `${filter} ${topic}`);
});

test("a message without `sub` goes to every subscription that takes it, one with `sub` to that one", () => {
  const peer = connect();
  peer.session.subscribe(asked("a.*"));
  peer.acks();
  peer.session.subscribe(asked("a.>"));
  const second = peer.acks();
  peer.session.subscribe(asked("c"));
  peer.acks();
  peer.says(message(1), message(2, { sub: second }));
  assert.deepEqual(peer.seen.messages, [[1, 1, 2], [2, 2]]);
});

test("after a cut a subscription resumes from its position, and doubles are not shown again", () => {
  const peer = connect();
  peer.session.subscribe(asked("a.>"));
  peer.acks([{ epoch: EPOCH, offset: 7, live: 7 }]);
  peer.says(message(9));
  peer.cut(1006);
  peer.clock.advance(5000);
  peer.welcome();
  assert.deepEqual(peer.sent("subscribe")[0].from, [{ epoch: EPOCH, offset: 9 }]);
  peer.acks([{ epoch: EPOCH, offset: 9, live: 9 }]);
  peer.says(message(9), message(10));
  assert.deepEqual(peer.seen.messages, [[9, 1], [10, 1]]);
});

test("a gap's end and a mark move the position, but not a mark that lists it as behind", () => {
  const peer = connect();
  const subscription = peer.session.subscribe(asked("a.>"));
  const sub = peer.acks();
  const offset = () => subscription.positions.get(undefined).offset;
  peer.says({ op: "gap", sub, count: 3, from: 1, to: 5, reason: "overflow", policy: "drop_oldest" });
  assert.equal(offset(), 5);
  peer.says({ op: "mark", positions: [{ epoch: EPOCH, offset: 8 }], subs: [{ sub, messages: 0, gapped: 3, behind: true }] });
  assert.deepEqual([offset(), subscription.behind, subscription.unread()], [5, true, 3]);
  peer.says({ op: "mark", positions: [{ epoch: EPOCH, offset: 8 }], subs: [] });
  assert.deepEqual([offset(), subscription.behind], [8, false]);
  peer.says({ op: "mark", positions: [{ epoch: EPOCH, offset: 6 }], subs: [] });
  assert.equal(offset(), 8, "a position never goes back");
});

test("a subscription that was behind is level once it has what the mark named", () => {
  const peer = connect();
  const subscription = peer.session.subscribe(asked("a.>"));
  const sub = peer.acks();
  const subs = [{ sub, messages: 1, gapped: 0, behind: true }];
  peer.says(message(1), { op: "mark", positions: [{ epoch: EPOCH, offset: 3 }], subs }, message(2));
  assert.deepEqual([subscription.behind, subscription.unread()], [true, 1]);
  peer.says(message(3));
  assert.deepEqual([subscription.behind, subscription.unread()], [false, 0]);
});

test("books that differ are told, and the subscription reads on from its own position", () => {
  const peer = connect();
  peer.session.subscribe(asked("a.>"));
  const sub = peer.acks();
  peer.says(message(1), { op: "mark", positions: [{ epoch: EPOCH, offset: 2 }], subs: [{ sub, messages: 2, gapped: 0 }] });
  assert.deepEqual(peer.seen.gaps.map(({ reason }) => reason), ["books"]);
  assert.deepEqual(peer.sent("unsubscribe").map((frame) => frame.sub), [sub]);
  assert.deepEqual(peer.sent("subscribe").at(-1).from, [{ epoch: EPOCH, offset: 1 }]);
  peer.acks([{ epoch: EPOCH, offset: 1, live: 2 }]);
  peer.says(message(2));
  assert.deepEqual(peer.seen.messages, [[1, 1], [2, 1]]);
});

test("cut in the midst of `last`, it asks for the same ones as they stood", () => {
  const peer = connect();
  peer.session.subscribe(asked("a.>", { from: { last: 3 } }));
  peer.acks([{ epoch: EPOCH, offset: 4, live: 20 }]);
  peer.says(message(5));
  peer.cut(1006);
  peer.clock.advance(5000);
  peer.welcome();
  assert.deepEqual(peer.sent("subscribe")[0].from, { last: 3, at: [{ epoch: EPOCH, offset: 20 }] });
  peer.acks([{ epoch: EPOCH, offset: 4, live: 30 }]);
  peer.says(message(5), message(12), message(20));
  assert.deepEqual(peer.seen.messages, [[5, 1], [12, 1], [20, 1]]);
  peer.cut(1006);
  peer.clock.advance(5000);
  peer.welcome();
  assert.deepEqual(peer.sent("subscribe")[0].from, [{ epoch: EPOCH, offset: 20 }]);
});

test("a new epoch starts from the new log's position", () => {
  const peer = connect();
  const subscription = peer.session.subscribe(asked("a.>"));
  peer.acks([{ epoch: EPOCH, offset: 50, live: 50 }]);
  peer.cut(1006);
  peer.clock.advance(5000);
  peer.welcome();
  const sub = peer.acks([{ epoch: OTHER_EPOCH, offset: 0, live: 2 }]);
  peer.says({ op: "gap", sub, reason: "epoch", policy: "catch_up" }, message(1));
  assert.deepEqual(peer.seen.messages, [[1, 1]]);
  assert.deepEqual(subscription.positions.get(undefined), { epoch: OTHER_EPOCH, offset: 1 });
  assert.equal(subscription.missedUnknown, true);
});

test("a live-only subscription that was away is told so", () => {
  const peer = connect();
  peer.session.subscribe(asked("a.>"));
  peer.acks([], { live_only: true });
  assert.deepEqual(peer.seen.gaps, []);
  peer.cut(1006);
  peer.clock.advance(5000);
  peer.welcome();
  assert.equal(peer.sent("subscribe")[0].from, "live");
  peer.acks([], { live_only: true });
  assert.deepEqual(peer.seen.gaps.map(({ reason }) => reason), ["away"]);
});

test("credit is given back as messages are shown, in halves, and not while paused", () => {
  const peer = connect();
  const subscription = peer.session.subscribe(asked("a.>"));
  const sub = peer.acks();
  assert.equal(peer.sent("subscribe")[0].credit, 4);
  peer.says(message(1), message(2));
  peer.session.shown(subscription, 1);
  assert.deepEqual(peer.sent("credit"), []);
  peer.session.shown(subscription, 1);
  assert.deepEqual(peer.sent("credit"), [{ op: "credit", sub, add: 2 }]);

  peer.session.pause(subscription, true);
  peer.says(message(3), message(4), message(5), message(6));
  peer.session.shown(subscription, 4);
  assert.equal(peer.sent("credit").length, 1);
  assert.equal(subscription.starved, true);
  peer.session.pause(subscription, false);
  assert.deepEqual(peer.sent("credit").at(-1), { op: "credit", sub, add: 4 });
});

test("rows shown after a reconnect give back no credit of the connection before", () => {
  const peer = connect();
  const subscription = peer.session.subscribe(asked("a.>"));
  peer.acks();
  peer.says(message(1), message(2), message(3), message(4));
  peer.cut(1006);
  peer.clock.advance(5000);
  peer.welcome();
  peer.acks([{ epoch: EPOCH, offset: 4, live: 4 }]);
  peer.session.shown(subscription, 4);
  assert.deepEqual(peer.sent("credit"), []);
});

test("publishes keep to the window, and go again in order under their own keys after a cut", async () => {
  const peer = connect();
  const acks = Array.from({ length: 6 }, (_, n) => peer.session.publish("a", { kind: "json", text: `${n}` }));
  assert.deepEqual(peer.sent("publish").map(({ json }) => json), [0, 1, 2, 3]);
  const keys = peer.sent("publish").map(({ idempotency }) => idempotency);
  peer.says({ op: "ack", id: peer.sent("publish")[0].id, epoch: EPOCH, offset: 1 });
  assert.equal((await acks[0]).offset, 1);
  peer.cut(1006);
  peer.clock.advance(5000);
  peer.welcome();
  assert.deepEqual(peer.sent("publish").map(({ json }) => json), [1, 2, 3, 4]);
  assert.deepEqual(peer.sent("publish").slice(0, 3).map(({ idempotency }) => idempotency), keys.slice(1));
  for (let answered = 0; answered < 5; answered++) {
    peer.says({ op: "ack", id: peer.sent("publish")[answered].id, epoch: EPOCH, offset: answered + 2 });
  }
  assert.equal((await acks[5]).offset, 6);
});

test("the window counts bytes too, but one message always goes", () => {
  const peer = connect();
  peer.session.publish("a", { kind: "text", text: "x".repeat(150) });
  peer.session.publish("a", { kind: "text", text: "y" });
  assert.equal(peer.sent("publish").length, 1);
});

test("a publish whose fate cannot be learnt any more says so", async () => {
  const peer = connect();
  const fate = peer.session.publish("a", { kind: "json", text: "1" }).catch((error) => error.message);
  peer.cut(1006);
  peer.clock.advance(119_000);
  peer.cut(1006);
  peer.clock.advance(5000);
  peer.welcome();
  assert.match(await fate, /outcome unknown/);
  assert.deepEqual(peer.sent("publish"), []);
});

test("a JSON payload goes as it was typed, on one line", () => {
  const peer = connect();
  let raw = "";
  peer.socket.send = (data) => (raw = data);
  peer.session.publish("a", { kind: "json", text: '{"n":\r\n12345678901234567890}' });
  assert.match(raw, /"json":\{"n": 12345678901234567890\}/);
});

test("the first retry after a connection that lived comes within 200 ms, but not for a slow reader", () => {
  const delays = (code, lived) => {
    const peer = connect({ random: 0.999 });
    peer.clock.advance(lived);
    peer.cut(code);
    return peer.session.status.retryAt - peer.clock.now();
  };
  assert.ok(delays(1006, 2000) < 200);
  assert.ok(delays(4000, 2000) < 200);
  assert.ok(delays(4008, 2000) > 200);
  assert.ok(delays(4009, 2000) > 200);
  assert.ok(delays(1006, 10) > 200, "a broker that hangs up after its welcome is not hammered");
});

test("later retries draw from a window that doubles up to the welcome's, and its lower end holds", () => {
  const peer = start({ random: 1 });
  peer.welcome({ reconnect_ms: [100, 3000] });
  const delays = [];
  for (let i = 0; i < 7; i++) {
    peer.cut(1006);
    delays.push(peer.session.status.retryAt - peer.clock.now());
    peer.clock.advance(3000);
  }
  assert.deepEqual(delays, [400, 800, 1600, 3000, 3000, 3000, 3000]);
});

test("`drain` names the delay", () => {
  const peer = connect();
  peer.says({ op: "drain", reconnect_ms: 1730 });
  peer.cut(4000, "draining");
  assert.equal(peer.session.status.retryAt - peer.clock.now(), 1730);
});

test("a close that says stay away is obeyed, and what waits is told", async () => {
  for (const code of [1002, 1008, 4500, 4503]) {
    const peer = connect();
    const fate = peer.session.publish("a", { kind: "json", text: "1" }).catch((error) => error.message);
    peer.cut(code);
    assert.equal(peer.session.status.state, "closed");
    assert.match(await fate, /outcome unknown/);
    peer.clock.advance(60_000);
    assert.equal(peer.sockets.length, 1);
  }
});

test("a line on which nothing is heard for a ping interval and ten seconds is given up", () => {
  const peer = connect();
  peer.clock.advance(34_999);
  assert.equal(peer.session.status.state, "connected");
  peer.clock.advance(5001);
  assert.deepEqual([peer.session.status.state, peer.session.status.code], ["waiting", 4001]);
});

test("a computer that slept reads what came meanwhile before it gives up the line", () => {
  const peer = connect();
  peer.clock.sleep(3_600_000);
  peer.clock.advance(0);
  peer.says({ op: "pong", id: 2 });
  peer.clock.advance(20_000);
  assert.equal(peer.session.status.state, "connected");
});

test("a refused subscription goes, unless it was there before and a retry can help", () => {
  const peer = connect();
  peer.session.subscribe(asked("bad"));
  const error = { op: "error", code: 1201, name: "filter_invalid", message: "…", retry: false };
  peer.says({ ...error, id: peer.sent("subscribe")[0].id });
  assert.deepEqual([peer.seen.refused, peer.session.subscriptions.length], [[[1, 1201]], 0]);

  peer.session.subscribe(asked("good"));
  peer.acks();
  peer.cut(1006);
  peer.clock.advance(5000);
  peer.welcome();
  peer.says({ op: "error", id: peer.sent("subscribe")[0].id, code: 1400, name: "over_budget", message: "…", retry: true });
  assert.equal(peer.session.subscriptions.length, 1);
  peer.clock.advance(2000);
  assert.equal(peer.sent("subscribe").length, 2);
});
