// This page's side of the protocol: one WebSocket, the subscriptions it carries, their positions, books and credit.
// No DOM in here; the socket, the clock and chance are handed in, so a test can drive it without a browser.

import { matches } from "./filter.js";

const SUBPROTOCOL = "tidegate.v1.json";
/** A retry after a connection that lived comes within this time, in milliseconds; so does the first step of the rest. */
const FIRST_RETRY_MS = 200;
/** A connection that ended sooner than this after its welcome did not live: back-off goes on growing. */
const LIVED_MS = 1000;
/** How often the page asks for a pong: it measures the round trip. */
const PING_EVERY_MS = 5000;
/** How long after a ping interval without a frame the line counts as dead. */
const SILENCE_GRACE_MS = 10_000;
/** The broker remembers idempotency keys this long: later, a publish's fate cannot be learnt. */
const IDEMPOTENCY_MS = 120_000;
/** Publishes that may wait for room in the window. */
export const MAX_WAITING_PUBLISHES = 10_000;
/** Several frames share a WebSocket message up to this size, in characters. */
const BURST = 16 * 1024;
/** The window to draw delays from until a welcome names one, in milliseconds. */
const DEFAULT_RECONNECT_MS = [0, 5000];
/** RFC 6455's codes that say the same request would fail again; 4500-4999 say so too. */
const FINAL_CLOSE_CODES = new Set([1000, 1002, 1003, 1007, 1008, 1009]);
/** The broker cut a reader that was too slow: coming back at once would not make it faster. */
const SLOW_CLOSE_CODES = new Set([4008, 4009]);

const browser = {
  socket: (url, protocol) => new WebSocket(url, protocol),
  now: () => Date.now(),
  stopwatch: () => performance.now(),
  random: () => Math.random(),
  after: (ms, run) => setTimeout(run, ms),
  cancel: (timer) => clearTimeout(timer),
  id: () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join(""),
};

/**
 * Keeps one connection to the broker, and comes back with every subscription's position when it is cut.
 *
 * `on` is called with what happens: `status()`, `message(frame, subscriptions)`, `gap(frame, subscription)`,
 * `notice(text)`, `refused(subscription, error)` and `changed()` (the list of subscriptions).
 */
export class Session {
  /** In the order they were made. */
  subscriptions = [];
  /** `state`: "connecting", "connected", "waiting" (for the next try, at `retryAt`) or "closed"; `code` and `reason`
   * of the last end; `connection` (id), `roundTrip` (ms) while connected. */
  status = { state: "closed" };

  #url;
  #on;
  #env;
  #instance;
  #socket = null;
  #wanted = false;
  #attempt = 0;
  #welcomedAt = null;
  #drainMs = null;
  #reconnectMs = DEFAULT_RECONNECT_MS;
  #retryTimer = null;
  #pingTimer = null;
  #pingMs = 25_000;
  #pingSentAt = null;
  #heardAt = 0;
  #suspectSince = null;
  #nextId = 1;
  #nextKey = 1;
  /** What an ack or error is the answer to, by id. */
  #requests = new Map();
  /** Subscriptions the broker knows on this connection, by their id there. */
  #active = new Map();
  #waiting = [];
  #inFlight = new Set();
  #inFlightBytes = 0;
  #window = { messages: 1, bytes: 0 };

  constructor(url, on, environment = browser) {
    this.#url = url;
    this.#on = on;
    this.#env = environment;
    this.#instance = environment.id();
  }

  /** Connects, and from now on comes back by itself. */
  open() {
    this.#wanted = true;
    this.#attempt = 0;
    if (!this.#socket) this.#connect();
  }

  /** Hangs up and stays away. Subscriptions keep their positions for the next `open`. */
  close() {
    this.#wanted = false;
    this.#socket?.close(1000);
    this.#ended(1000, "closed by this page");
  }

  /** Asks for a subscription; `refused` tells when the broker will not have it. */
  subscribe(asked) {
    const subscription = new Subscription(this.#nextKey++, asked);
    this.subscriptions.push(subscription);
    if (this.status.state === "connected") this.#sendSubscribe(subscription);
    this.#on.changed();
    return subscription;
  }

  unsubscribe(subscription) {
    if (subscription.id === null || subscription.state === "ending") return this.#forget(subscription);
    subscription.state = "ending";
    this.#request({ op: "unsubscribe", id: this.#id(), sub: subscription.id }, { subscription });
    this.#on.changed();
  }

  /** A paused subscription is given no more credit, so the broker sends what it still has and then holds back. */
  pause(subscription, paused) {
    subscription.paused = paused;
    this.#topUp(subscription, 1);
    this.#on.changed();
  }

  /** `count` of the subscription's messages have been shown: there is room for as many more. */
  shown(subscription, count) {
    const done = Math.min(count, subscription.unshown);
    subscription.unshown -= done;
    subscription.owed += done;
    this.#topUp(subscription, Math.ceil(subscription.asked.credit / 2));
  }

  /**
   * Publishes; resolves with the broker's ack, rejects with its error frame or with `{message}`. What is cut off on its
   * way goes again after the reconnect, in order, under its own idempotency key.
   *
   * `payload` is `{kind: "json" | "text" | "binary", text}`: JSON as typed, text, or base64.
   */
  publish(topic, payload, { key, report } = {}) {
    if (!this.#wanted) return Promise.reject({ message: "not connected" });
    if (this.#waiting.length >= MAX_WAITING_PUBLISHES) {
      return Promise.reject({ message: `${MAX_WAITING_PUBLISHES} messages are waiting already` });
    }
    return new Promise((resolve, reject) => {
      const idempotency = this.#env.id();
      this.#waiting.push({
        // By hand: a JSON payload goes as it was typed, since a number read and written again may be another.
        frame: (id) =>
          `{"op":"publish","id":${id},"topic":${JSON.stringify(topic)},` +
          `"${payload.kind}":${payload.kind === "json" ? oneLine(payload.text) : JSON.stringify(payload.text)}` +
          (key ? `,"key":${JSON.stringify(key)}` : "") +
          `,"idempotency":"${idempotency}"` +
          (report ? `,"report":true}` : "}"),
        bytes: new TextEncoder().encode(payload.text).length,
        sent: false,
        deadline: this.#env.now() + IDEMPOTENCY_MS,
        resolve,
        reject,
      });
      this.#pump();
    });
  }

  #connect() {
    this.#env.cancel(this.#retryTimer);
    this.#setStatus({ state: "connecting", code: this.status.code, reason: this.status.reason });
    const socket = this.#env.socket(this.#url, SUBPROTOCOL);
    this.#socket = socket;
    this.#welcomedAt = null;
    this.#drainMs = null;
    // A socket this session has let go of has nothing more to say.
    const current = (run) => (event) => socket === this.#socket && run(event);
    socket.onopen = current(() => {
      this.#send([JSON.stringify({ op: "connect", id: this.#id(), client: "console", instance: this.#instance })]);
      this.#heardAt = this.#env.now();
      this.#watch();
    });
    socket.onmessage = current(({ data }) => {
      this.#heardAt = this.#env.now();
      this.#suspectSince = null;
      for (const line of data.split("\n")) {
        if (line) this.#onFrame(parseFrame(line));
      }
    });
    socket.onclose = current(({ code, reason }) => this.#ended(code, reason));
  }

  #ended(code, reason) {
    this.#socket = null;
    this.#env.cancel(this.#pingTimer);
    this.#env.cancel(this.#retryTimer);
    this.#requests.clear();
    this.#active.clear();
    this.subscriptions = this.subscriptions.filter((subscription) => subscription.state !== "ending");
    for (const subscription of this.subscriptions) subscription.cut();
    this.#waiting.unshift(...this.#inFlight);
    this.#inFlight.clear();
    this.#inFlightBytes = 0;

    if (this.#wanted && comesBack(code)) {
      const delay = this.#retryDelay(code);
      this.#attempt += 1;
      this.#retryTimer = this.#env.after(delay, () => this.#connect());
      this.#setStatus({ state: "waiting", code, reason, retryAt: this.#env.now() + delay });
    } else {
      this.#wanted = false;
      for (const publish of this.#waiting.splice(0)) {
        publish.reject({ message: publish.sent ? "the line was cut: outcome unknown" : "not sent" });
      }
      this.#setStatus({ state: "closed", code, reason });
    }
    this.#on.changed();
  }

  #retryDelay(code) {
    const lived = this.#welcomedAt !== null && this.#env.now() - this.#welcomedAt >= LIVED_MS;
    if (this.#drainMs !== null) return this.#drainMs;
    if (lived && !SLOW_CLOSE_CODES.has(code)) {
      this.#attempt = 0;
      return this.#env.random() * FIRST_RETRY_MS;
    }
    // Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    const [from, to] = this.#reconnectMs;
    const ceiling = Math.min(to, FIRST_RETRY_MS * 2 ** Math.min(this.#attempt + 1, 16));
    return from + this.#env.random() * Math.max(0, ceiling - from);
  }

  /** Measures the round trip, and finds a line that died without a word: a browser shows no WebSocket pings. */
  #watch() {
    this.#env.cancel(this.#pingTimer);
    this.#pingTimer = this.#env.after(PING_EVERY_MS, () => {
      const now = this.#env.now();
      if (now - this.#heardAt > this.#pingMs) {
        // After a sleep this timer may run before what was received meanwhile: silence counts from here.
        this.#suspectSince ??= now;
        if (now - this.#suspectSince >= SILENCE_GRACE_MS) {
          this.#socket.close(4001);
          return this.#ended(4001, "nothing heard");
        }
      }
      this.#ping();
      this.#watch();
    });
  }

  #ping() {
    if (this.#pingSentAt !== null || this.status.state !== "connected") return;
    this.#pingSentAt = this.#env.stopwatch();
    this.#send([JSON.stringify({ op: "ping", id: this.#id() })]);
  }

  #onFrame(frame) {
    switch (frame.op) {
      case "welcome":
        return this.#onWelcome(frame);
      case "ack":
      case "error":
        return this.#onAnswer(frame);
      case "message":
        return this.#onMessage(frame);
      case "gap":
        return this.#onGap(frame);
      case "mark":
        return this.#onMark(frame);
      case "unsubscribed":
        return this.#onUnsubscribed(frame);
      case "drain":
        this.#drainMs = frame.reconnect_ms;
        return this.#on.notice(`the broker is going and asks to come back in ${Math.round(frame.reconnect_ms)} ms`);
      case "pong":
        if (this.#pingSentAt === null) return;
        this.#setStatus({ ...this.status, roundTrip: this.#env.stopwatch() - this.#pingSentAt });
        this.#pingSentAt = null;
        return;
      default:
      // A newer broker may say more than this page knows.
    }
  }

  #onWelcome(frame) {
    this.#welcomedAt = this.#env.now();
    this.#pingSentAt = null;
    this.#pingMs = frame.ping_ms;
    this.#reconnectMs = frame.reconnect_ms;
    this.#window = frame.publish_window;
    this.#setStatus({ state: "connected", connection: frame.connection });
    for (const subscription of this.subscriptions) this.#sendSubscribe(subscription);
    this.#pump();
    this.#ping();
  }

  #onAnswer(frame) {
    const request = this.#requests.get(frame.id);
    this.#requests.delete(frame.id);
    if (!request) {
      if (frame.op === "error") this.#on.notice(describe(frame));
    } else if (request.publish) {
      this.#onPublishAnswer(request.publish, frame);
    } else if (frame.op === "error") {
      this.#onRefused(request.subscription, frame);
    } else if (request.subscribe) {
      this.#onSubscribed(request.subscription, frame);
    }
  }

  #onPublishAnswer(publish, frame) {
    this.#inFlight.delete(publish);
    this.#inFlightBytes -= publish.bytes;
    if (frame.op === "ack") publish.resolve(frame);
    else publish.reject(frame);
    this.#pump();
  }

  #onSubscribed(subscription, ack) {
    const away = subscription.terms?.live_only;
    this.#active.set(subscription.id, subscription);
    subscription.onAck(ack);
    if (away) {
      const policy = ack.overflow;
      subscription.gaps += 1;
      this.#on.gap({ reason: "away", policy }, subscription);
    }
    this.#on.changed();
  }

  #onRefused(subscription, error) {
    if (error.retry && subscription.terms) {
      // It was there before the reconnect and is to come back, just not now.
      const socket = this.#socket;
      subscription.cut();
      this.#env.after(1000 + this.#env.random() * 1000, () => {
        const stillThere = this.subscriptions.includes(subscription) && subscription.id === null;
        if (socket === this.#socket && stillThere) this.#sendSubscribe(subscription);
      });
      return this.#on.notice(`${subscription.asked.filter}: ${describe(error)}; it will be tried again`);
    }
    if (subscription.state !== "ending") this.#on.refused(subscription, error);
    this.#forget(subscription);
  }

  #onMessage(frame) {
    const takers = [];
    if (frame.sub !== undefined) {
      const subscription = this.#active.get(frame.sub);
      if (subscription?.onMessage(frame, this.#env.now())) takers.push(subscription);
    } else {
      for (const subscription of this.#active.values()) {
        const takes = !subscription.has(frame) && matches(subscription.asked.filter, frame.topic);
        if (takes && subscription.onMessage(frame, this.#env.now())) takers.push(subscription);
      }
    }
    if (takers.length > 0) this.#on.message(frame, takers);
  }

  #onGap(frame) {
    const subscription = this.#active.get(frame.sub);
    if (!subscription) return;
    subscription.onGap(frame);
    this.#on.gap(frame, subscription);
  }

  #onMark(frame) {
    const listed = new Map(frame.subs.map((books) => [books.sub, books]));
    for (const subscription of [...this.#active.values()]) {
      const books = listed.get(subscription.id);
      if (books && !subscription.agreesWith(books)) {
        const policy = subscription.terms.overflow;
        subscription.gaps += 1;
        this.#on.gap({ reason: "books", policy }, subscription);
        this.#readOn(subscription);
        continue;
      }
      if (books?.behind) subscription.onBehind(frame.positions);
      else subscription.onLevel(frame.positions);
    }
  }

  /** Starts the subscription again from its own position, so that the log gives what is missing. */
  #readOn(subscription) {
    this.#send([JSON.stringify({ op: "unsubscribe", id: this.#id(), sub: subscription.id })]);
    this.#active.delete(subscription.id);
    subscription.cut();
    this.#sendSubscribe(subscription);
  }

  #onUnsubscribed(frame) {
    const subscription = this.#active.get(frame.sub);
    if (!subscription) return;
    if (frame.code !== undefined) {
      this.#on.notice(`the broker ended the subscription to ${subscription.asked.filter} (${frame.code})`);
    }
    this.#forget(subscription);
  }

  #forget(subscription) {
    this.#active.delete(subscription.id);
    this.subscriptions = this.subscriptions.filter((other) => other !== subscription);
    this.#on.changed();
  }

  #sendSubscribe(subscription) {
    const { filter, overflow, limit } = subscription.asked;
    const id = this.#id();
    subscription.start(id);
    this.#request(
      { op: "subscribe", id, filter, from: subscription.from(), overflow, limit, credit: subscription.startCredit() },
      { subscription, subscribe: true },
    );
  }

  #topUp(subscription, atLeast) {
    if (subscription.paused || subscription.state !== "active" || subscription.owed < atLeast) return;
    this.#send([JSON.stringify({ op: "credit", sub: subscription.id, add: subscription.owed })]);
    subscription.owed = 0;
  }

  /** Sends waiting publishes while the broker's window has room. */
  #pump() {
    if (this.status.state !== "connected") return;
    const frames = [];
    while (this.#waiting.length > 0) {
      const publish = this.#waiting[0];
      const room =
        this.#inFlight.size < this.#window.messages &&
        (this.#inFlight.size === 0 || this.#inFlightBytes + publish.bytes <= this.#window.bytes);
      if (!room) break;
      this.#waiting.shift();
      if (publish.sent && this.#env.now() > publish.deadline) {
        publish.reject({ message: "the line was cut for too long: outcome unknown" });
        continue;
      }
      const id = this.#id();
      publish.sent = true;
      this.#inFlight.add(publish);
      this.#inFlightBytes += publish.bytes;
      this.#requests.set(id, { publish });
      frames.push(publish.frame(id));
    }
    if (frames.length > 0) this.#send(frames);
  }

  #request(frame, request) {
    this.#requests.set(frame.id, request);
    this.#send([JSON.stringify(frame)]);
  }

  #send(frames) {
    let burst = "";
    for (const frame of frames) {
      if (burst && burst.length + frame.length > BURST) {
        this.#socket.send(burst);
        burst = "";
      }
      burst += burst ? `\n${frame}` : frame;
    }
    this.#socket.send(burst);
  }

  #id() {
    return this.#nextId++;
  }

  #setStatus(status) {
    this.status = status;
    this.#on.status();
  }
}

/** One filter, over all the connections it lives through. */
export class Subscription {
  /** "waiting" (for a connection), "subscribing", "active" or "ending". */
  state = "waiting";
  /** Its id on the present connection. */
  id = null;
  /** The last ack: what is in force. */
  terms = null;
  received = 0;
  gaps = 0;
  /** Messages told by gaps, and whether a gap could not tell how many. */
  missed = 0;
  missedUnknown = false;
  /** From the broker's time stamp to this page, in milliseconds, of the newest live message. */
  latency = null;
  /** Whether the newest mark said so, and it has not caught up since. */
  behind = false;
  paused = false;
  /** Messages of this connection that wait to be shown; shown ones whose credit is not given back yet. */
  unshown = 0;
  owed = 0;
  /** By stream: what it has everything up to (`epoch`, `offset`). */
  positions = new Map();
  #live = new Map();
  #lastAt = null;
  #books = { messages: 0, gapped: 0 };

  /** `asked`: `filter`, `from`, `overflow`, `limit` (both may be undefined: the broker's) and `credit`. */
  constructor(key, asked) {
    this.key = key;
    this.asked = asked;
  }

  start(id) {
    this.id = id;
    this.state = "subscribing";
    this.unshown = 0;
    if (!this.paused) this.owed = 0;
    this.#books = { messages: 0, gapped: 0 };
  }

  startCredit() {
    return this.asked.credit - this.owed;
  }

  cut() {
    this.id = null;
    this.state = "waiting";
    this.behind = false;
    this.latency = null;
  }

  /** Where the next subscribe starts. */
  from() {
    if (!this.terms) return this.asked.from;
    if (this.positions.size === 0) return "live";
    if (this.#lastAt?.some((at) => this.#offset(at) < at.offset)) {
      return { last: this.asked.from.last, at: this.#lastAt };
    }
    return Array.from(this.positions, ([stream, position]) => ({ stream, ...position }));
  }

  onAck(ack) {
    for (const { stream, epoch, offset, live } of ack.positions) {
      const held = this.positions.get(stream);
      // Another epoch is another log: the gap that says so comes next.
      const kept = held?.epoch === epoch ? Math.max(held.offset, offset) : offset;
      this.positions.set(stream, { epoch, offset: kept });
      this.#live.set(stream, live);
    }
    if (!this.terms && this.asked.from.last) {
      this.#lastAt = ack.positions.map(({ stream, epoch, live }) => ({ stream, epoch, offset: live }));
    }
    this.terms = ack;
    this.state = "active";
  }

  /** Whether it has the message already. */
  has({ stream, offset }) {
    const held = this.positions.get(stream);
    return offset !== undefined && held !== undefined && offset <= held.offset;
  }

  /** Takes a message's place, time and cost; false where it is a double. */
  onMessage(frame, now) {
    this.#books.messages += 1;
    if (this.has(frame)) {
      this.owed += 1;
      return false;
    }
    this.received += 1;
    this.unshown += 1;
    if (frame.offset !== undefined) this.#moveTo(frame.stream, frame.offset);
    const unread = this.unread();
    this.latency = unread > 0 ? null : Math.max(0, now - frame.time);
    this.behind &&= unread > 0;
    return true;
  }

  onGap(gap) {
    this.gaps += 1;
    const missing = gap.count ?? gap.at_most;
    this.#books.gapped += missing ?? 0;
    this.missed += missing ?? 0;
    this.missedUnknown ||= gap.count === undefined;
    if (gap.to !== undefined) this.#moveTo(gap.stream, gap.to);
  }

  agreesWith({ messages, gapped }) {
    return this.#books.messages === messages && this.#books.gapped === gapped;
  }

  /** A mark: it has everything up to these positions. */
  onLevel(positions) {
    this.behind = false;
    for (const { stream, epoch, offset } of positions) {
      if (this.positions.get(stream)?.epoch === epoch) this.#moveTo(stream, offset);
    }
  }

  /** A mark: others have everything up to these positions, it has not. */
  onBehind(positions) {
    this.behind = true;
    for (const { stream, epoch, offset } of positions) {
      if (this.positions.get(stream)?.epoch === epoch) this.#live.set(stream, offset);
    }
  }

  /** How many of the log's offsets are still to come before it is level, at most. */
  unread() {
    let unread = 0;
    for (const [stream, live] of this.#live) unread += Math.max(0, live - (this.positions.get(stream)?.offset ?? 0));
    return unread;
  }

  /** Whether its credit is used up: the broker holds back until some is given. */
  get starved() {
    return this.owed + this.unshown >= this.asked.credit;
  }

  #moveTo(stream, offset) {
    const held = this.positions.get(stream);
    if (held && offset > held.offset) held.offset = offset;
  }

  #offset({ stream, epoch }) {
    const held = this.positions.get(stream);
    // Of another log: what `last` was asked of is gone, so there is nothing to go back for.
    return held?.epoch === epoch ? held.offset : Infinity;
  }
}

/** An error frame, for a person. */
export function describe(error) {
  return error.name ? `${error.message} (${error.code} ${error.name})` : error.message;
}

function comesBack(code) {
  return !FINAL_CLOSE_CODES.has(code) && !(code >= 4500 && code <= 4999);
}

/** A line break ends a frame. In valid JSON it stands between tokens only. */
function oneLine(json) {
  return json.replace(/[\r\n]+/g, " ");
}

/** Numbers that JavaScript would round keep their digits, where the browser can do that. */
function parseFrame(line) {
  if (!JSON.rawJSON || !/\d{16}/.test(line)) return JSON.parse(line);
  return JSON.parse(line, (_, value, { source }) =>
    typeof value === "number" && source.length > 15 && String(value) !== source ? JSON.rawJSON(source) : value,
  );
}
