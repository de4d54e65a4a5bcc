/**
 * The rules of a client: what it says and when, what it makes of what the broker says. No I/O; time is an argument, in
 * milliseconds since the Unix epoch.
 *
 * The client hands in what happened (`on…`), then writes what there is to write (`next`), hands out what readers shall
 * have (`deliver`), and sleeps no longer than `deadline`.
 */

import { delay, LIVED } from './backoff.js';
import { comesBack, reasonOf } from './close.js';
import { TidegateError } from './error.js';
import { matches } from './filter.js';
import type * as wire from './frame.js';
import { Publishes } from './session/publishes.js';
import type { Subscriber, SubscriptionState } from './session/subscriber.js';

/** Beyond the broker's ping interval, how long nothing may be heard before it is asked for a sign. */
const GRACE = 5000;

/** How long that sign is waited for. */
const PROBE = 5000;

/** From when to when a subscription that was refused for the moment is asked for again. */
const RETRY = [500, 5000] as const;

/** Frames go out together up to this many bytes, before they are encoded; a larger one goes alone. */
const BURST = 16_384;

/** The most history requests that wait for their turn. */
const MOST_HISTORIES = 1024;

/** How many topics' subscribers are remembered. */
const MOST_TARGETS = 1024;

/** Codes of a token that is missing, wrong or too old. */
const isAuth = (code: number) => code >= 1100 && code <= 1102;

export interface Settings {
  /** The application's name and version, for the broker's logs. */
  client: string | undefined;
  /** Random, and kept over reconnects. */
  instance: string;
  /** How long a welcome is waited for. */
  connectTimeout: number;
  random: () => number;
  /** How many bytes a frame is, alone in a WebSocket message. */
  measure: (frame: wire.ClientFrame) => number;
  /** Whether another token can be had when one was refused. */
  canRefresh: boolean;
}

/** What the session tells, beside answers, items and subscriptions' states. Called from `deliver` alone. */
export interface Outlets {
  state(event: { state: State; code?: number; reason?: string; retry?: number }): void;
  error(error: TidegateError): void;
  books(event: { filter: string; told: number; had: number }): void;
  drain(event: { retry: number }): void;
  /** The token was refused although it stood for a while: another one is needed. */
  token(): void;
}

/**
 * `connecting`: on the way to the broker, the first time or again. `connected`: welcomed. `disconnected`: closed by
 * `close()`, or for good by a broker that will not have this client; nothing more is tried until `connect()`.
 */
export type State = 'connecting' | 'connected' | 'disconnected';

/** A frame to write once its id is known. */
interface Outgoing {
  /** None where what it was for is gone. */
  make: (id: number) => wire.ClientFrame | undefined;
  /** What to do with its answer. */
  answer?: ((frame: wire.ServerFrame) => void) | undefined;
  /** The connection was lost before the answer. */
  lost?: (() => void) | undefined;
}

/** A connection that was welcomed. */
interface Up {
  limits: wire.Welcome['limits'];
  since: number;
  /** How long nothing may be heard before it is probed. */
  patience: number;
  /** The broker is going: when to come back, counted from the close. */
  leave?: number;
}

interface Query {
  request: Omit<wire.HistoryRequest, 'op' | 'id'>;
  settle: (result: wire.HistoryPage | TidegateError) => void;
}

export class Session {
  state: State = 'disconnected';
  connection: string | undefined;
  /** Given in the next `connect`. */
  token: string | undefined;
  /** Why the client shall close the connection, if it shall. */
  ending: { code: number; reason: string } | undefined;
  /** Whether the delay of the next attempt was the broker's wish, not to be cut short. */
  isHeldBack = false;

  readonly #settings: Settings;
  readonly #outlets: Outlets;
  #isOpen = false;
  #up: Up | undefined;
  #heard = 0;
  /** Until when the welcome, or the answer to a probe, is waited for. */
  #until = Infinity;
  /** How often a wait began afresh since something was heard. */
  #wakes = 0;
  #refused: TidegateError | undefined;
  /** Connects refused for their token since the last welcome. */
  #refusals = 0;
  #attempt = 0;
  #window: readonly [number, number] | undefined;

  /** Ids grow over all connections, so that no answer of one can be taken for another's. */
  #id = 0;
  #requests = new Map<number, Outgoing>();
  /** What goes out before any publish. */
  #control: Outgoing[] = [];
  /** Taken out to be written, and too large for the burst before it. */
  #carried: wire.ClientFrame | undefined;
  #publishes = new Publishes();
  #histories: Query[] = [];
  #asking = false;
  /** In the order they were made. */
  #subscribers = new Set<Subscriber>();
  /** Acknowledged on this connection. */
  #routes = new Map<number, Subscriber>();
  /** Which of these take a topic. */
  #targets = new Map<string, Subscriber[]>();
  /** Subscribers that ask again at a time. */
  #retries = new Map<Subscriber, number>();
  /** Subscribers with something to take, which stands among the events. */
  #staged = new Set<Subscriber>();
  /** What is to be told, in the order it happened. */
  #events: (() => void)[] = [];

  constructor(settings: Settings, outlets: Outlets) {
    this.#settings = settings;
    this.#outlets = outlets;
  }

  // What happens to the connection.

  /** The application, or the SDK itself, wants a connection. */
  start(): void {
    if (this.state == 'disconnected') this.#setState('connecting');
  }

  /** Frames can be sent. */
  onOpen(now: number): void {
    this.#isOpen = true;
    this.#until = now + this.#settings.connectTimeout;
    const { client, instance } = this.#settings;
    this.#say(
      (id) => ({ op: 'connect', id, token: this.token, client, instance }),
      (frame) => {
        if (frame.op == 'welcome') this.#onWelcome(frame, now);
        else if (frame.op == 'error') {
          this.#refused = errorOf(frame);
          this.#end('refused');
        }
      },
    );
  }

  /** Something came. */
  onHeard(now: number): void {
    this.#heard = now;
    this.#wakes = 0;
    if (this.#up) this.#until = Infinity;
  }

  /**
   * The connection is gone, or never was. The delay before the next attempt, in milliseconds; none where there is to be
   * no other.
   */
  onClosed(code: number, reason: string, now: number): number | undefined {
    const up = this.#up;
    const ending = this.ending;
    const refused = this.#refused;
    this.#forgetConnection(now);
    if (up && now - up.since >= LIVED) this.#attempt = 0;
    const leave = up?.leave;
    const isSlow = code == 4008 || code == 4009;
    if (leave !== undefined || isSlow) this.#attempt = Math.max(1, this.#attempt);
    this.isHeldBack = leave !== undefined || isSlow;
    reason = refused?.message || ending?.reason || reason || reasonOf(code);
    if (leave === undefined) {
      // What the session itself closed says nothing about the broker's wishes.
      let isFinal = refused ? !refused.retry : !ending && !comesBack(code);
      if ((refused && isAuth(refused.code)) || code == 4500) {
        isFinal = !this.#settings.canRefresh || this.#refusals++ > 0;
      }
      if (isFinal) {
        this.stop(refused ?? new TidegateError(code, reason, { name: 'disconnected', retry: false }), code);
        return;
      }
    }
    const retry = leave ?? delay(this.#attempt++, this.#window, this.#settings.random);
    this.#setState('connecting', { code, reason, retry });
    return retry;
  }

  /**
   * The end: everybody who waits is told.
   *
   * @param error none where the application wanted it
   */
  stop(error?: TidegateError, code = 1000): void {
    if (this.state == 'disconnected') return;
    this.#forgetConnection(0);
    const closed = error ?? new TidegateError(0, 'the client is closed', { name: 'closed', retry: false });
    this.#publishes.failAll(closed);
    for (const { settle } of this.#histories.splice(0)) settle(closed);
    for (const subscriber of this.#subscribers) this.#endSubscription(subscriber, error);
    this.#attempt = this.#refusals = 0;
    this.#setState('disconnected', { code, reason: error ? error.message : 'closed' });
    if (error) this.#later(() => this.#outlets.error(error));
  }

  #forgetConnection(now: number): void {
    this.#isOpen = this.#asking = false;
    this.#up = this.ending = this.connection = this.#refused = this.#carried = undefined;
    this.#until = Infinity;
    this.#wakes = 0;
    this.#routes.clear();
    this.#targets.clear();
    this.#retries.clear();
    this.#publishes.onDisconnected(now);
    for (const subscriber of this.#subscribers) {
      if (subscriber.isActive) this.#setSubscription(subscriber, 'subscribing');
      subscriber.onDisconnected();
    }
    const lost = [...this.#requests.values(), ...this.#control.splice(0)];
    this.#requests.clear();
    for (const outgoing of lost) outgoing.lost?.();
  }

  // What the broker says.

  onFrame(frame: wire.ServerFrame, now: number): void {
    if (!this.#isOpen) return;
    switch (frame.op) {
      case 'message':
        return this.#onMessage(frame);
      case 'gap': {
        const subscriber = this.#routes.get(frame.sub);
        if (subscriber) {
          subscriber.onGap(frame);
          this.stage(subscriber);
        }
        return;
      }
      case 'mark':
        return this.#onMark(frame);
      case 'unsubscribed':
        return this.#onUnsubscribed(frame.sub, frame.code, now);
      case 'drain':
        if (this.#up) {
          this.#up.leave = frame.reconnect_ms;
          this.#later(() => this.#outlets.drain({ retry: frame.reconnect_ms }));
          this.#settle();
        }
        return;
      case 'unreadable':
        this.#tellError(new TidegateError(frame.code));
        if (frame.fatal) this.#end('an unreadable frame came', 4502);
        return;
      case 'ack':
      case 'error':
        if (this.#publishes.onAnswer(frame)) return this.#settle();
        if (frame.id === undefined) return this.#tellError(errorOf(frame as wire.ErrorFrame));
    }
    const { id } = frame;
    const request = id && this.#requests.get(id);
    if (request) {
      this.#requests.delete(id);
      request.answer?.(frame);
    }
  }

  #onWelcome({ limits, publish_window, ping_ms, reconnect_ms, connection }: wire.Welcome, now: number): void {
    this.#up = { limits, since: now, patience: ping_ms + GRACE };
    this.#heard = now;
    this.#until = Infinity;
    this.#window = reconnect_ms;
    this.#publishes.window = publish_window;
    this.#refusals = 0;
    this.connection = connection;
    this.#setState('connected');
    // Before any publish: an echo finds its subscription.
    for (const subscriber of this.#subscribers) this.#subscribe(subscriber);
    this.#ask();
  }

  #onMessage(message: wire.Message): void {
    const { topic, sub } = message;
    let targets = this.#targets.get(topic);
    if (sub !== undefined) {
      const subscriber = this.#routes.get(sub);
      targets = subscriber ? [subscriber] : [];
    } else if (!targets) {
      targets = [...this.#routes.values()].filter(({ filter }) => matches(filter, topic));
      if (this.#targets.size >= MOST_TARGETS) this.#targets.clear();
      this.#targets.set(topic, targets);
    }
    for (const subscriber of targets) {
      if (!subscriber.onMessage(message)) this.#end('more came than was asked for', 4502);
      this.stage(subscriber);
      // Only where duplicates used credit up.
      this.attend(subscriber);
    }
  }

  #onMark(mark: wire.Mark): void {
    for (const [id, subscriber] of [...this.#routes]) {
      const difference = subscriber.onMark(mark);
      this.stage(subscriber);
      if (!difference) continue;
      const { filter } = subscriber;
      this.#later(() => this.#outlets.books({ filter, ...difference }));
      if (subscriber.beginRepair()) {
        this.#unroute(id);
        this.#say((next) => ({ op: 'unsubscribe', id: next, sub: id }));
        this.#subscribe(subscriber);
      }
    }
  }

  /** The broker ended a subscription, of itself: what was asked for is not known here any more. */
  #onUnsubscribed(sub: number, code: number | undefined, now: number): void {
    const subscriber = this.#routes.get(sub);
    if (!subscriber) return;
    this.#unroute(sub);
    this.#onRefused(subscriber, code === undefined ? undefined : new TidegateError(code), now);
  }

  #onRefused(subscriber: Subscriber, error: TidegateError | undefined, now: number): void {
    const isAuthError = error && isAuth(error.code) && this.#settings.canRefresh;
    if (!error?.retry && !isAuthError) return this.#endSubscription(subscriber, error);
    this.#setSubscription(subscriber, 'subscribing', error);
    subscriber.onDisconnected();
    // One that drains leaves it to the next connection.
    if (error.code == 1500) return;
    const [from, to] = RETRY;
    this.#retries.set(subscriber, now + from + (to - from) * this.#settings.random());
    if (isAuthError) this.#later(() => this.#outlets.token());
  }

  // What the application asks for.

  /** Whether a publish of so many bytes would have to wait for a place in the window. */
  isFull(bytes: number): boolean {
    return this.#publishes.isFull(bytes);
  }

  publish(frame: wire.Publish, bytes: number): Promise<wire.Ack> {
    return settled((settle) => {
      if (this.state == 'disconnected') settle(new TidegateError(0, 'the client is closed', { name: 'closed', retry: false }));
      else this.#publishes.push(frame, bytes, settle);
    });
  }

  history(request: Query['request']): Promise<wire.HistoryPage> {
    return settled((settle) => {
      if (this.state == 'disconnected') settle(new TidegateError(0, 'the client is closed', { name: 'closed', retry: false }));
      else if (this.#histories.length >= MOST_HISTORIES) settle(new TidegateError(1402));
      else {
        this.#histories.push({ request, settle });
        this.#ask();
      }
    });
  }

  /** Asks for the next page: one request may be under way on a connection. */
  #ask(): void {
    const query = this.#histories[0];
    if (!query || !this.#up || this.#asking) return;
    this.#asking = true;
    this.#say(
      (id) => ({ op: 'history', id, ...query.request }),
      (frame) => {
        // One that drains leaves it to the next connection.
        if (frame.op == 'error' && frame.code == 1500) return;
        this.#asking = false;
        this.#histories.shift();
        query.settle(frame.op == 'error' ? errorOf(frame) : (frame as wire.HistoryPage));
        this.#ask();
      },
    );
  }

  subscribe(subscriber: Subscriber): void {
    this.#subscribers.add(subscriber);
    this.#subscribe(subscriber);
  }

  #subscribe(subscriber: Subscriber): void {
    if (!this.#up) return;
    let asked: number;
    const isAsked = () => this.#subscribers.has(subscriber) && subscriber.id == asked;
    this.#say(
      (id) => {
        if (!this.#subscribers.has(subscriber) || subscriber.id) return;
        asked = id;
        return subscriber.ask(id);
      },
      (frame) => {
        if (!isAsked()) return;
        if (frame.op == 'error') return this.#onRefused(subscriber, errorOf(frame), this.#heard);
        subscriber.onAck(frame as wire.Ack);
        this.#targets.clear();
        this.#routes.set(asked, subscriber);
        this.#setSubscription(subscriber, 'subscribed');
        this.stage(subscriber);
        this.attend(subscriber);
      },
    );
  }

  /** Resolves once the broker has taken note; at once while there is no connection. */
  unsubscribe(subscriber: Subscriber): Promise<void> {
    const sub = subscriber.id;
    this.#subscribers.delete(subscriber);
    this.#retries.delete(subscriber);
    this.#unroute(sub);
    return new Promise((resolve) => {
      if (sub) this.#say((id) => ({ op: 'unsubscribe', id, sub }), () => resolve(), resolve);
      else resolve();
    });
  }

  /** Renews the token in place, or for the next connection where there is none. */
  refresh(token: string): Promise<void> {
    return settled((settle) => {
      const keep = () => {
        this.token = token;
        settle(undefined);
      };
      if (!this.#up) return keep();
      this.#say(
        (id) => ({ op: 'refresh', id, token }),
        (frame) => (frame.op == 'error' ? settle(errorOf(frame)) : keep()),
        // Whether it is taken, the next welcome says.
        keep,
      );
    });
  }

  /** A reader has taken messages. True if there is something to write. */
  attend(subscriber: Subscriber): boolean {
    const due = subscriber.wantsCredit();
    if (due) {
      this.#say(() => {
        const add = subscriber.more();
        return add > 0 ? { op: 'credit', sub: subscriber.id, add } : undefined;
      });
    }
    return due;
  }

  // Time.

  /** When `onTime` has something to do. */
  deadline(): number {
    const link = this.#isOpen
      ? Math.min(this.#until, this.#up ? this.#heard + this.#up.patience : Infinity)
      : this.#publishes.deadline();
    return Math.min(link, ...this.#retries.values());
  }

  /** What had come by `now` was handed in before this. */
  onTime(now: number): void {
    if (!this.#isOpen) this.#publishes.expire(now);
    else if (now >= this.#until) this.#end(this.#up ? 'nothing was heard of the broker' : 'no welcome came');
    else if (this.#up && now >= this.#heard + this.#up.patience && this.#until == Infinity) this.#probe(now);
    for (const [subscriber, at] of this.#retries) {
      if (at > now) continue;
      this.#retries.delete(subscriber);
      this.#subscribe(subscriber);
    }
  }

  /**
   * The page was away, or the network may have changed: what was waited for is waited for afresh, but not for ever, and
   * the broker is asked for a sign.
   */
  onWake(now: number): void {
    if (!this.#isOpen || this.#wakes++ > 1) return;
    if (this.#up) this.#probe(now);
    else this.#until = now + this.#settings.connectTimeout;
  }

  #probe(now: number): void {
    this.#until = now + PROBE;
    this.#say((id) => ({ op: 'ping', id }));
  }

  // What goes out.

  /** Frames to write as one WebSocket message, or none. */
  next(now: number): wire.ClientFrame[] {
    const frames = [];
    // What a frame is written as can be six times this.
    const most = this.#up ? Math.min(BURST, this.#up.limits.message_bytes >> 3) : BURST;
    for (let size = 0, frame; (frame = this.#carried ?? this.#frame(now)); frames.push(frame)) {
      size += JSON.stringify({ ...frame, data: 0 }).length + ('data' in frame ? frame.data.length : 0);
      this.#carried = frames.length && size > most ? frame : undefined;
      if (this.#carried) break;
    }
    return frames;
  }

  #frame(now: number): wire.ClientFrame | undefined {
    for (let outgoing; (outgoing = this.#control.shift()); ) {
      const id = this.#id + 1;
      const frame = outgoing.make(id);
      if (!frame) continue;
      if ('id' in frame) {
        this.#id = id;
        this.#requests.set(id, outgoing);
      }
      return frame;
    }
    const up = this.#up;
    if (!up || up.leave !== undefined) return;
    const { payload_bytes, message_bytes } = up.limits;
    const isTooLarge = (frame: wire.Publish, bytes: number) =>
      // Six bytes write any one of a text, and some more what stands beside it: most need no closer look.
      bytes > payload_bytes || (bytes * 6 + 8192 > message_bytes && this.#settings.measure(frame) > message_bytes);
    const frame = this.#publishes.next(this.#id + 1, now, isTooLarge);
    if (frame) this.#id++;
    return frame;
  }

  /** Hands out what came. May call into the session again. */
  deliver(): void {
    for (let event; (event = this.#events.shift()); ) event();
  }

  /** A subscriber has something to take. */
  stage(subscriber: Subscriber): void {
    if (this.#staged.has(subscriber)) return;
    this.#staged.add(subscriber);
    this.#later(() => {
      this.#staged.delete(subscriber);
      subscriber.hand();
      this.attend(subscriber);
    });
  }

  /** A broker that drains is left once it has answered every publish. */
  #settle(): void {
    if (this.#up?.leave !== undefined && !this.#publishes.inFlight) this.#end('draining', 4000);
  }

  #end(reason: string, code = 1006): void {
    this.ending ??= { code, reason };
  }

  #say(make: Outgoing['make'], answer?: Outgoing['answer'], lost?: Outgoing['lost']): void {
    this.#control.push({ make, answer, lost });
  }

  #unroute(sub: number): void {
    this.#routes.delete(sub);
    this.#targets.clear();
  }

  #endSubscription(subscriber: Subscriber, error: TidegateError | undefined): void {
    this.#subscribers.delete(subscriber);
    this.#setSubscription(subscriber, 'unsubscribed', error);
  }

  #setSubscription(subscriber: Subscriber, state: SubscriptionState, error?: TidegateError): void {
    this.#later(() => {
      for (const reader of subscriber.readers) reader.onState(state, error);
    });
  }

  #setState(state: State, more?: { code: number; reason: string; retry?: number }): void {
    this.state = state;
    this.#later(() => this.#outlets.state({ state, ...more }));
  }

  #tellError(error: TidegateError): void {
    this.#later(() => this.#outlets.error(error));
  }

  #later(event: () => void): void {
    this.#events.push(event);
  }
}

function errorOf(frame: wire.ErrorFrame): TidegateError {
  return new TidegateError(frame.code, frame.message, frame);
}

/** A promise that is kept with a value, and broken with an error. */
function settled<T>(start: (settle: (result: T | TidegateError) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((result) => (result instanceof TidegateError ? reject(result) : resolve(result)));
  });
}
