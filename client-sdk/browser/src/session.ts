/**
 * The rules of a client: what it says and when, what it makes of what the broker says. No I/O; time is an argument, in
 * milliseconds since the Unix epoch.
 *
 * The driver hands in what happened (`on…`), then writes what there is to write (`next`), hands out what readers shall
 * have (`deliver`), and sleeps no longer than `deadline`.
 */

import { delay, LIVED } from './backoff.js';
import { comesBack } from './close.js';
import { TidegateError } from './error.js';
import { matches } from './filter.js';
import type * as wire from './frame.js';
import { createPublishes, type Window } from './session/publishes.js';
import type { Subscriber, SubscriptionState } from './session/subscriber.js';

/** Beyond the broker's ping interval, how long nothing may be heard before it is asked for a sign. */
const GRACE = 5000;

/** How long that sign is waited for. */
const PROBE = 5000;

/** From when to when a subscription that was refused for the moment is asked for again. */
const RETRY_FROM = 500;
const RETRY_TO = 5000;

/** The publish window before any welcome: what brokers say by default. */
const WINDOW: Window = { messages: 1024, bytes: 1 << 20 };

/** The most publishes that wait for a place in the broker's window. */
const MOST_WAITING: Window = { messages: 16_384, bytes: 16 << 20 };

/** The most history requests that wait for their turn. */
const MOST_HISTORIES = 1024;

/**
 * `connecting`: on the way to the broker, the first time or again. `connected`: welcomed. `disconnected`: closed by
 * `close()`, or for good by a broker that will not have this client; nothing more is tried until `connect()`.
 */
export type State = 'connecting' | 'connected' | 'disconnected';

export interface Settings {
  /** Who the client is: the same over all reconnects. */
  identity: Pick<wire.Connect, 'client' | 'instance'>;
  /** How long a connection and its welcome are waited for. */
  connectTimeout: number;
  /** How many bytes a frame is, alone in a WebSocket message. */
  measure: (frame: wire.ClientFrame) => number;
  /** Whether another token can be had when one was refused. */
  canRefresh: boolean;
}

/** What the session tells, beside answers, items and subscriptions' states. */
export interface SessionEvents {
  state: {
    state: State;
    transport: 'websocket' | 'sse' | undefined;
    code?: number;
    reason?: string;
    retry?: number | undefined;
  };
  error: TidegateError;
  books: { filter: string; told: number; had: number };
  drain: { retry: number };
}

/** Called from `deliver` alone. */
export type Tell = <Name extends keyof SessionEvents>(name: Name, event: SessionEvents[Name]) => void;

/** Takes what a request came to. */
type Settle<T> = (result: T | TidegateError) => void;

/** A frame that answers a request. */
type Answer = Extract<wire.ServerFrame, { id: number }>;

/** A frame to write once its id is known. */
interface Outgoing {
  /** None where what it was for is gone. */
  make: (id: number) => wire.ClientFrame | undefined;
  /** What to do with its answer. */
  answer: Settle<Answer> | undefined;
  /** The connection was lost before the answer. */
  lost: (() => void) | undefined;
}

interface Query {
  request: Omit<wire.HistoryRequest, 'op' | 'id'>;
  settle: Settle<wire.HistoryPage>;
}

export type Session = ReturnType<typeof createSession>;

export function createSession(settings: Settings, tell: Tell, random = Math.random) {
  /** What the welcome said; none without. */
  let up: wire.Welcome | undefined;
  let since = 0;
  /** When something came last; 0 where nothing has since the attempt began. */
  let heard = 0;
  /** Until when the connection, its welcome, or the answer to a probe is waited for. */
  let until = Infinity;
  /** How often a wait began afresh since something was heard. */
  let wakes = 0;
  /** The broker is going: when to come back, counted from the close. */
  let leave: number | undefined;
  let refused: TidegateError | undefined;
  let attempt = 0;
  let window: wire.Welcome['reconnect_ms'] | undefined;
  let publishWindow = WINDOW;

  /** Ids grow over all connections, so that no answer of one can be taken for another's. */
  let lastId = 0;
  const requests = new Map<number, Outgoing>();
  /** What goes out before any publish. */
  const control: Outgoing[] = [];
  const publishes = createPublishes();
  const histories: Query[] = [];
  let isAsking = false;
  /** In the order they were made. */
  const subscribers = new Set<Subscriber>();
  /** Acknowledged on this connection. */
  const routes = new Map<number, Subscriber>();
  /** Subscribers that ask again at a time. */
  const retries = new Map<Subscriber, number>();
  /** Subscribers with something to take, which stands among the events. */
  const staged = new Set<Subscriber>();
  /** What is to be told, in the order it happened. */
  const events: (() => void)[] = [];

  const push = (event: () => void) => {
    events.push(event);
    self.kick();
  };
  const later: Tell = (name, event) => push(() => tell(name, event));
  const end = (reason: string, code = 1006) => void (self.ending ??= { code, reason });
  const say = (make: Outgoing['make'], answer?: Outgoing['answer'], lost?: Outgoing['lost']) => {
    control.push({ make, answer, lost });
    self.kick();
  };

  const setState = (state: State, more?: { code: number; reason: string; retry?: number }) => {
    self.state = state;
    later('state', { state, transport: self.transport, ...more });
  };

  const setSubscription = (subscriber: Subscriber, state: SubscriptionState, error?: TidegateError) => {
    push(() => {
      for (const reader of subscriber.readers) reader.onState(state, error);
    });
  };

  const forgetConnection = (now = 0) => {
    up = leave = refused = self.connection = self.transport = self.ending = undefined;
    until = Infinity;
    wakes = 0;
    isAsking = false;
    routes.clear();
    retries.clear();
    publishes.onDisconnected(now);
    for (const subscriber of subscribers) {
      if (subscriber.isActive) setSubscription(subscriber, 'subscribing');
      subscriber.onDisconnected();
    }
    const lost = [...requests.values(), ...control.splice(0)];
    requests.clear();
    for (const outgoing of lost) outgoing.lost?.();
  };

  const endSubscription = (subscriber: Subscriber, error: TidegateError | undefined) => {
    subscribers.delete(subscriber);
    setSubscription(subscriber, 'unsubscribed', error);
  };

  /** Whether another token may help. */
  const isCurable = ({ code }: TidegateError) => settings.canRefresh && code >= 1100 && code <= 1102;

  // What the broker says.

  const onWelcome = (welcome: wire.Welcome) => {
    up = welcome;
    since = heard;
    until = Infinity;
    window = welcome.reconnect_ms;
    publishWindow = welcome.publish_window;
    self.connection = welcome.connection;
    setState('connected');
    // Before any publish: an echo finds its subscription.
    subscribers.forEach(subscribe);
    ask();
  };

  const onMessage = (message: wire.Message) => {
    const { topic, sub } = message;
    for (const [id, subscriber] of routes) {
      if (sub ? sub != id : !matches(subscriber.filter, topic)) continue;
      if (!subscriber.onMessage(message)) end('overrun');
      self.stage(subscriber);
      // Only where duplicates used credit up.
      self.attend(subscriber);
    }
  };

  const onMark = (mark: wire.Mark) => {
    for (const [id, subscriber] of routes) {
      const difference = subscriber.onMark(mark);
      self.stage(subscriber);
      if (!difference) continue;
      later('books', difference);
      if (subscriber.beginRepair()) {
        routes.delete(id);
        say((next) => ({ op: 'unsubscribe', id: next, sub: id }));
        subscribe(subscriber);
      }
    }
  };

  /** A subscription was refused, or ended by the broker: what was asked for is not known here any more. */
  const onRefused = (subscriber: Subscriber, error?: TidegateError) => {
    const curable = error && isCurable(error);
    if (!curable && !error?.retry) return endSubscription(subscriber, error);
    setSubscription(subscriber, 'subscribing', error);
    subscriber.onDisconnected();
    // The next connection has another token, or another broker.
    if (curable) end(error.message);
    else if (error.code != 1500) retries.set(subscriber, heard + RETRY_FROM + (RETRY_TO - RETRY_FROM) * random());
  };

  // What the application asks for.

  /** A promise that is kept with what `start` settles it with, and broken with an error. */
  const settled = <T>(start: (settle: Settle<T>) => void): Promise<T> =>
    new Promise((resolve, reject) => {
      const settle: Settle<T> = (result) => (result instanceof TidegateError ? reject(result) : resolve(result));
      if (self.state == 'disconnected') settle(failure('closed'));
      else start(settle);
    });

  /** Asks for the next page: one request may be under way on a connection. */
  const ask = () => {
    const query = histories[0];
    if (!query || !up || isAsking) return;
    isAsking = true;
    say(
      (id) => ({ op: 'history', id, ...query.request }),
      (answer) => {
        // One that drains leaves it to the next connection.
        if ((answer as Partial<TidegateError>).code == 1500) return;
        isAsking = false;
        histories.shift();
        query.settle(answer as wire.HistoryPage);
        ask();
      },
    );
  };

  const subscribe = (subscriber: Subscriber) => {
    if (!up || !subscriber.isOpen()) return;
    let asked: number;
    say(
      (id) => {
        if (!subscribers.has(subscriber) || subscriber.id) return;
        return subscriber.ask((asked = id));
      },
      (answer) => {
        if (!subscribers.has(subscriber) || subscriber.id != asked) return;
        if (answer instanceof TidegateError) return onRefused(subscriber, answer);
        subscriber.onAck(answer as wire.Ack);
        routes.set(asked, subscriber);
        setSubscription(subscriber, 'subscribed');
        self.stage(subscriber);
      },
    );
  };

  const self = {
    state: 'disconnected' as State,
    /** The connection's id. */
    connection: undefined as string | undefined,
    /** What it runs on, or is tried. */
    transport: undefined as 'websocket' | 'sse' | undefined,
    /** Subscriptions to start before anything else is written. */
    fresh: new Set<() => void>(),
    /** Subscribers with callbacks, by what they were asked for with. */
    shared: new Map<string, Subscriber>(),
    /** Called when there may be something to do. */
    kick() {},
    /** Why the driver shall close the connection, if it shall. */
    ending: undefined as { code: number; reason: string } | undefined,

    // What happens to the connection.

    /** A connection is wanted. */
    start: () => setState('connecting'),

    /** An attempt begins. */
    onAttempt(now: number): void {
      self.ending = undefined;
      heard = 0;
      until = now + settings.connectTimeout;
    },

    /** Frames can be sent. */
    onOpen(now: number, token: string | undefined): void {
      self.onAttempt(now);
      say(
        (id) => ({ op: 'connect', id, token, ...settings.identity }),
        (answer) => {
          if (answer instanceof TidegateError) end((refused = answer).message);
          else onWelcome(answer as wire.Welcome);
        },
      );
    },

    /** Something came. */
    onHeard(now: number): void {
      heard = now;
      wakes = 0;
      if (up) until = Infinity;
    },

    /**
     * The connection is gone, or never was. The delay before the next attempt, in milliseconds; none where there is to
     * be no other.
     */
    onClosed(code: number, reason: string, now: number): number | undefined {
      const lived = up && now - since >= LIVED;
      const wish = leave;
      const error = refused;
      // What the session itself closed says nothing about the broker's wishes.
      const isFinal = error ? !(error.retry || isCurable(error)) : !self.ending && !comesBack(code) && !(code == 4500 && settings.canRefresh);
      forgetConnection(now);
      reason ||= 'connection lost';
      if (isFinal && wish === undefined) {
        self.stop(error ?? failure('disconnected', reason, code), code);
        return;
      }
      if (lived) attempt = 0;
      // No quick retry of one that was too slow.
      if (code == 4008 || code == 4009) attempt ||= 1;
      const retry = wish ?? delay(attempt++, window, random);
      setState('connecting', { code, reason, retry });
      return retry;
    },

    /**
     * The end: everybody who waits is told.
     *
     * @param error none where the application wanted it
     */
    stop(error?: TidegateError, code = 1000): void {
      if (self.state == 'disconnected') return;
      forgetConnection();
      const reason = error ?? failure('closed');
      publishes.failAll(reason);
      for (const { settle } of histories.splice(0)) settle(reason);
      for (const subscriber of subscribers) endSubscription(subscriber, error);
      attempt = 0;
      setState('disconnected', { code, reason: reason.message });
      if (error) later('error', error);
    },

    // What the broker says.

    onFrame(frame: wire.ServerFrame): void {
      const { op } = frame;
      if (op == 'message') onMessage(frame);
      else if (op == 'mark') onMark(frame);
      else if (op == 'gap') {
        const subscriber = routes.get(frame.sub);
        subscriber?.onGap(frame);
        if (subscriber) self.stage(subscriber);
      } else if (op == 'unsubscribed') {
        const subscriber = routes.get(frame.sub);
        routes.delete(frame.sub);
        if (subscriber) onRefused(subscriber, frame.code ? new TidegateError(frame.code) : undefined);
      } else if (op == 'drain') {
        leave = frame.reconnect_ms;
        later('drain', { retry: leave });
      } else if (op == 'unreadable') {
        later('error', new TidegateError(frame.code));
        if (frame.fatal) end('unreadable');
      } else {
        const id = frame.id!;
        const answer = op == 'error' ? new TidegateError(frame.code, frame.message, frame) : frame;
        const request = requests.get(id);
        requests.delete(id);
        if (request) request.answer?.(answer as Answer);
        else if (!publishes.onAnswer(id, answer as wire.Ack) && op == 'error') later('error', answer as TidegateError);
      }
      // A broker that drains is left once it has answered every publish.
      if (leave !== undefined && publishes.isIdle()) end('draining', 4000);
    },

    // What the application asks for.

    /** Whether a publish of so many bytes would have to wait for a place in the window. */
    isFull: (bytes: number) => publishes.isFull(bytes, publishWindow),

    publish: (frame: wire.Publish, bytes: number) =>
      settled<wire.Ack>((settle) => {
        if (publishes.isFull(bytes, MOST_WAITING)) settle(failure('queue_full'));
        else publishes.push(frame, bytes, settle);
        self.kick();
      }),

    history: (request: Query['request']) =>
      settled<wire.HistoryPage>((settle) => {
        if (histories.length >= MOST_HISTORIES) return settle(new TidegateError(1402));
        histories.push({ request, settle });
        ask();
      }),

    subscribe(subscriber: Subscriber): void {
      if (self.state == 'disconnected') return endSubscription(subscriber, failure('closed'));
      subscribers.add(subscriber);
      subscribe(subscriber);
    },

    /** Resolves once the broker has taken note; at once while there is no connection. */
    unsubscribe(subscriber: Subscriber): Promise<void> {
      const sub = subscriber.id;
      subscribers.delete(subscriber);
      retries.delete(subscriber);
      routes.delete(sub);
      return new Promise((resolve) => {
        if (sub) say((id) => ({ op: 'unsubscribe', id, sub }), () => resolve(), resolve);
        else resolve();
      });
    },

    /** Renews the token in place, or for the next connection where there is none. */
    refresh: (token: string) =>
      settled<void>((settle) => {
        // The next connection begins with it.
        const keep = () => settle(undefined);
        if (!up) return keep();
        say(
          (id) => ({ op: 'refresh', id, token }),
          settle as Settle<unknown>,
          keep,
        );
      }),

    /** A reader has taken something. */
    attend(subscriber: Subscriber): void {
      if (subscriber.wantsCredit()) {
        say(() => {
          const add = subscriber.more();
          return add > 0 ? { op: 'credit', sub: subscriber.id, add } : undefined;
        });
      }
      // Its reader had left no room for notices.
      if (!subscriber.id && !retries.has(subscriber)) subscribe(subscriber);
    },

    // Time.

    /** When `onTime` has something to do. */
    deadline: () => Math.min(patience(), ...retries.values()),

    /** What had come by `now` was handed in before this. */
    onTime(now: number): void {
      if (now >= until) {
        end(up ? 'silence' : `${self.transport} timeout`);
        if (!up && heard) self.fail(failure('buffered', 'text/event-stream is buffered on the way'));
      } else if (now >= patience()) probe(now);
      for (const [subscriber, at] of retries) {
        if (at > now) continue;
        retries.delete(subscriber);
        subscribe(subscriber);
      }
    },

    /**
     * The page was away, or the network may have changed: what was waited for is waited for afresh, but not for ever,
     * and the broker is asked for a sign.
     */
    onWake(now: number): void {
      if (wakes++ > 1) return;
      if (up) probe(now);
      else if (until < Infinity) self.onAttempt(now);
    },

    // What goes out.

    /** The next frame to write. */
    next(now: number): wire.ClientFrame | undefined {
      const id = lastId + 1;
      for (let outgoing; (outgoing = control.shift()); ) {
        const frame = outgoing.make(id);
        if (!frame) continue;
        if ('id' in frame) requests.set((lastId = id), outgoing);
        return frame;
      }
      if (!up || leave !== undefined) return;
      const { payload_bytes, message_bytes } = up.limits;
      const frame = publishes.next(id, now, publishWindow, (frame, bytes) =>
        // Six bytes write any one of a text, and some more what stands beside it: most need no closer look.
        bytes > payload_bytes || (bytes * 6 + 8192 > message_bytes && settings.measure(frame) > message_bytes),
      );
      if (frame) lastId = id;
      return frame;
    },

    /** Tells an error that nobody else is told. */
    fail: (error: TidegateError) => later('error', error),

    /** Hands out what came. What it calls may call the session again. */
    deliver(): void {
      for (const start of self.fresh) start();
      for (let event; (event = events.shift()); ) event();
    },

    /** A subscriber has something to take. */
    stage(subscriber: Subscriber): void {
      if (staged.has(subscriber)) return;
      staged.add(subscriber);
      push(() => {
        staged.delete(subscriber);
        subscriber.hand();
        self.attend(subscriber);
      });
    },
  };

  /** How long the broker may go on saying nothing. */
  const patience = () => (until < Infinity ? until : up ? heard + up.ping_ms + GRACE : Infinity);

  const probe = (now: number) => {
    until = now + PROBE;
    say((id) => ({ op: 'ping', id }));
  };

  return self;
}

/** An error of the client's own. */
function failure(name: string, message?: string, code = 0): TidegateError {
  return new TidegateError(code, message, { name, retry: false });
}
