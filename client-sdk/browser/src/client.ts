import type { Codec } from './codec.js';
import { Emitter } from './emitter.js';
import { TidegateError } from './error.js';
import { isFilter, isTopic } from './filter.js';
import type { Ack, From, Payload, Position } from './frame.js';
import type { HistoryPage, MessageItem, PublishAck, PublishOptions, SubscribeOptions } from './item.js';
import { json } from './json.js';
import { Session, type State } from './session.js';
import { messageItem, type Subscriber } from './session/subscriber.js';
import { type Host, Subscription } from './subscription.js';
import type { Link, Transport } from './transport.js';
import { watch } from './wake.js';
import { NONE, websocket } from './websocket.js';

/** Bytes that may wait in the browser before more frames are handed to it. */
const MOST_BUFFERED = 65_536;

/** How often it is looked whether they have left, in milliseconds: nothing tells. */
const BUFFER_CHECK = 20;

/** A timer that is this late was held up by a page that slept or was frozen: nobody is blamed for the silence. */
const LATE = 2000;

/** How long after WebSockets did not get through another one is tried, with the next connection. */
const AVOID = 60_000;

/** A token, or what fetches one: called before each connection, and when the broker refused one. */
export type Token = string | (() => string | Promise<string>);

/** How to connect. All of it may be left out. */
export interface ClientOptions {
  /** A JWT, or a function that fetches one. One that throws is asked again with the next attempt. */
  token?: Token | undefined;
  /** `bincode` of `@tidegate/client/bincode`, or JSON where left out. The fallback always speaks JSON. */
  codec?: Codec | undefined;
  /** What to try, in this order; `['websocket', 'sse']` where left out. */
  transports?: readonly ('websocket' | 'sse' | Transport)[] | undefined;
  /** The application's name and version, for the broker's logs; at most 128 bytes. */
  name?: string | undefined;
  /**
   * A random id, at most 128 bytes, which `echo: false` and idempotency keys go by. Made anew with each client where
   * left out.
   */
  instance?: string | undefined;
  /** How long, in milliseconds, one attempt to connect may take; 5,000 where left out. */
  connectTimeout?: number | undefined;
  /** What every subscription is asked for with that does not say otherwise. */
  defaults?: SubscribeOptions | undefined;
}

/** What a client tells by `on`. */
export interface ClientEvents {
  /**
   * The state, or the reason of it, changed. `code` is a close code (1006: the connection was lost, or could not be had),
   * `retry` the milliseconds until the next attempt.
   */
  state: { state: State; code?: number; reason?: string; retry?: number; transport?: 'websocket' | 'sse' };
  /**
   * Something was refused, and nobody else is told: see `code`, `name`, `message`, `retry`. Without a listener it goes to
   * the console.
   */
  error: Error & { code?: number; retry?: boolean };
  /**
   * The messages that came for a subscription, and those the broker says it wrote or told of in gaps, differ: bytes were
   * lost. The client reads on from its own position; what that does not mend becomes a gap. It must never happen.
   */
  books: { filter: string; told: number; had: number };
  /** The broker is going. The client leaves it, and comes back after so many milliseconds. */
  drain: { retry: number };
}

/**
 * A connection to a broker, which keeps itself alive: it connects at once, and again whenever it is lost, until `close`.
 *
 * ```js
 * const client = new Client('ws://127.0.0.1:7400/ws');
 * for await (const item of client.subscribe('chat.>')) {
 *   if (item.type == 'message') console.log(item.topic, item.data);
 * }
 * ```
 */
export class Client {
  readonly #options: ClientOptions;
  readonly #url: string;
  readonly #codec: Codec;
  readonly #connectTimeout: number;
  readonly #transports: readonly Transport[];
  readonly #session: Session;
  readonly #emitter = new Emitter<ClientEvents>();
  readonly #host: Host;

  #link: Link | undefined;
  #isOpen = false;
  /** Counts the attempts, so that what belongs to an earlier one is told apart. */
  #turn = 0;
  /** Which transport is tried, or in use. */
  #which = 0;
  /** WebSockets that failed one after the other although HTTP was answered. */
  #blocked = 0;
  /** Until when no WebSocket is tried. */
  #avoid = 0;
  #isHidden = false;
  #unwatch: (() => void) | undefined;

  /** When to connect, to give an attempt up, to look whether the network takes more. */
  #connectAt = Infinity;
  #openBy = Infinity;
  #writeAt = Infinity;
  /** When the timer goes off. */
  #timerAt = Infinity;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isKicked = false;
  #keys = 0;
  readonly #keyPrefix = random(4);

  /**
   * @param url `ws://…/ws` or `http(s)://…`; the page's own origin where left out
   * @throws where the url cannot be one
   */
  constructor(url = '', options: ClientOptions = {}) {
    this.#options = options;
    const address = new URL(url, globalThis.location?.href);
    address.protocol = address.protocol.replace('http', 'ws');
    if (address.pathname == '/' || !url) address.pathname = '/ws';
    address.hash = '';
    this.#url = address.href;
    this.#codec = options.codec ?? json;
    this.#connectTimeout = options.connectTimeout ?? 5000;
    this.#transports = (options.transports ?? ['websocket']).map((transport) =>
      typeof transport == 'string' ? websocket() : transport,
    );
    const session = new Session(
      {
        client: options.name,
        instance: options.instance ?? random(16),
        connectTimeout: this.#connectTimeout,
        random: Math.random,
        measure: (frame) => byteLength(this.#codec.encode([frame])),
        canRefresh: typeof options.token == 'function',
      },
      {
        state: (event) => void this.#emitter.emit('state', { ...event, ...(this.transport && { transport: this.transport }) }),
        error: (error) => this.#onError(error),
        books: (event) => void this.#emitter.emit('books', event),
        drain: (event) => void this.#emitter.emit('drain', event),
        token: () => void this.refresh().catch(() => {}),
      },
    );
    this.#session = session;
    this.#host = {
      session,
      shared: new Map<string, Subscriber>(),
      fresh: new Set(),
      kick: () => this.#kick(),
      onError: (error) => this.#onError(error),
    };
    this.connect();
  }

  /** Where it stands: see {@link State}. */
  get state(): State {
    return this.#session.state;
  }

  /** What the connection runs on; `undefined` without one. */
  get transport(): 'websocket' | 'sse' | undefined {
    return this.#session.connection === undefined ? undefined : this.#transports[this.#which]?.name;
  }

  /** The connection's id, as the broker's log has it; `undefined` without one. */
  get connection(): string | undefined {
    return this.#session.connection;
  }

  /** Calls `listener` with every such event. Gives the function that ends that. */
  on<Name extends keyof ClientEvents>(name: Name, listener: (event: ClientEvents[Name]) => void): () => void {
    return this.#emitter.on(name, listener);
  }

  /** Connects, after `close` or where the broker would not have this client. A new client does so by itself. */
  connect(): void {
    if (this.state != 'disconnected') return;
    this.#session.start();
    this.#unwatch ??= watch(
      (again) => this.#onWake(again),
      () => this.#onHide(),
    );
    this.#connectAt = 0;
    this.#kick();
  }

  /**
   * Ends it. Iterators end, subscriptions are `unsubscribed`; publishes that were not sent fail with `closed`, those
   * whose ack has not come with 1502 (`outcome_unknown`).
   */
  close(): void {
    this.#session.stop();
    this.#drop();
    this.#kick();
  }

  /**
   * Subscribes, and returns at once: items come as soon as there is a connection. The same filter may be subscribed to
   * as often as you like. Callbacks with equal options and `from: 'live'` share one subscription at the broker.
   *
   * @param callback called with each message: the same as `on('message', callback)`
   * @throws {TidegateError} 1201 where the filter is none
   */
  subscribe<T = unknown>(
    filter: string,
    options?: SubscribeOptions | ((message: MessageItem<T>) => void),
    callback?: (message: MessageItem<T>) => void,
  ): Subscription<T> {
    if (!isFilter(filter)) throw new TidegateError(1201, `not a filter: ${filter}`);
    if (typeof options == 'function') return this.subscribe(filter, {}, options);
    const subscription = new Subscription<T>(this.#host, filter, { ...this.#options.defaults, ...options });
    if (callback) subscription.on('message', callback);
    if (this.state == 'disconnected') void subscription.unsubscribe();
    return subscription;
  }

  /**
   * Publishes, and resolves with the broker's ack: then the message is in its stream. While the publish window is full,
   * or there is no connection, it waits; after a reconnect what was not acknowledged is sent again under its idempotency
   * key, so that it is not doubled.
   *
   * The promise is broken with a {@link TidegateError}: 1200 (not a topic), 1202 (no JSON value), 1203 (too large), 1502
   * (`outcome_unknown`: the connection was lost for longer than the broker remembers the key), `queue_full` (16,384
   * publishes or 16 MiB wait already), `closed`, and what else the broker says.
   *
   * @param data a `Uint8Array` or `ArrayBuffer` is sent as it is, anything else as JSON; `{ kind: 'text' }` sends a string as text
   */
  async publish(topic: string, data: unknown, options: PublishOptions = {}): Promise<PublishAck> {
    return this.#publish(topic, payload(data, options), options);
  }

  /**
   * `publish` that never waits: false where the publish window is full.
   *
   * @throws {TidegateError} 1202 where the data is no JSON value
   */
  tryPublish(topic: string, data: unknown, options: PublishOptions = {}): Promise<PublishAck> | false {
    const content = payload(data, options);
    return !this.#session.isFull(size(content)) && this.#publish(topic, content, options);
  }

  async #publish(topic: string, content: Payload, { key, headers, idempotency, report }: PublishOptions): Promise<PublishAck> {
    if (!isTopic(topic)) throw new TidegateError(1200, `not a topic: ${topic}`);
    const known = idempotency === false ? undefined : (idempotency ?? `${this.#keyPrefix}-${(this.#keys++).toString(36)}`);
    const frame = { op: 'publish', topic, key, headers: headers && { ...headers }, idempotency: known, report, ...content } as const;
    const acked = this.#session.publish(frame, size(content));
    this.#kick();
    const { op: _op, id: _id, live_only: _liveOnly, duplicate, ...ack } = (await acked) as Ack;
    return { ...ack, duplicate: !!duplicate };
  }

  /**
   * A page of one topic's log, oldest first. Ask again `from` its `position` while there is `more`.
   *
   * @param options `from` where on, `'beginning'` where left out; at most `limit` messages
   */
  async history<T = unknown>(
    topic: string,
    { from = 'beginning', limit }: { from?: From | undefined; limit?: number | undefined } = {},
  ): Promise<HistoryPage<T>> {
    if (!isTopic(topic)) throw new TidegateError(1200, `not a topic: ${topic}`);
    const asked = this.#session.history({ topic, from, limit });
    this.#kick();
    const { messages, position, more } = await asked;
    const place = (offset: number | undefined): Position | undefined =>
      position && offset !== undefined ? { ...position, offset } : undefined;
    return {
      messages: messages.map((message) => messageItem(message, place(message.offset)) as MessageItem<T>),
      ...(position && { position }),
      more: !!more,
    };
  }

  /** Gives the broker a token in place of the one before: this one, or what the `token` option fetches. */
  async refresh(token?: string): Promise<void> {
    const renewed = this.#session.refresh(token ?? (await this.#token()) ?? '');
    this.#kick();
    return renewed;
  }

  async #token(): Promise<string | undefined> {
    const { token } = this.#options;
    return typeof token == 'function' ? token() : token;
  }

  // The connection.

  async #connect(): Promise<void> {
    const turn = ++this.#turn;
    this.#connectAt = Infinity;
    if (typeof this.#options.token == 'function' || this.#session.token === undefined) {
      try {
        const token = await this.#token();
        if (turn != this.#turn) return;
        this.#session.token = token || undefined;
      } catch (error) {
        if (turn != this.#turn) return;
        this.#onError(error as Error);
        return this.#onLost(1006, `no token: ${error}`);
      }
    }
    if (this.#avoid && Date.now() >= this.#avoid) {
      // Once it failed like this, one more failure is enough.
      this.#which = this.#avoid = 0;
      this.#blocked = 1;
    }
    this.#open();
  }

  #open(): void {
    const turn = ++this.#turn;
    const isCurrent = () => turn == this.#turn;
    const transport = this.#transports[this.#which]!;
    this.#openBy = Date.now() + this.#connectTimeout;
    this.#link = transport.open(this.#url, this.#codec, {
      open: () => {
        if (!isCurrent()) return;
        this.#isOpen = true;
        this.#openBy = Infinity;
        this.#session.onOpen(Date.now());
        this.#poll();
      },
      frames: (frames) => {
        if (!isCurrent()) return;
        const now = Date.now();
        this.#session.onHeard(now);
        for (const frame of frames) this.#session.onFrame(frame, now);
        this.#poll();
      },
      close: (code, reason) => isCurrent() && this.#onClosed(code, reason),
    });
    this.#kick();
  }

  /** The connection is over, or never was. */
  #onClosed(code: number, reason: string, isHung?: boolean): void {
    const wasWelcomed = this.#session.connection !== undefined;
    const isWebSocket = this.#transports[this.#which]?.name == 'websocket';
    this.#drop();
    if (wasWelcomed) this.#blocked = 0;
    else if (isWebSocket && this.#transports[1] && (code == 1006 || code == NONE)) {
      return void this.#onBlocked(code, reason, isHung);
    } else if (!isWebSocket && this.#avoid) this.#avoid = 1;
    this.#onLost(code || 1006, reason);
  }

  /** A WebSocket failed: goes on without, where it is the way of WebSockets alone that is blocked. */
  async #onBlocked(code: number, reason: string, isHung?: boolean): Promise<void> {
    const turn = ++this.#turn;
    const address = new URL('/live', this.#url.replace('ws', 'http'));
    const signal = AbortSignal.timeout(this.#connectTimeout);
    const isThere =
      code == NONE || (await fetch(address, { mode: 'no-cors', cache: 'no-store', signal }).then(() => true, () => false));
    if (turn != this.#turn) return;
    if (!isThere) return this.#onLost(1006, reason);
    // A broker that has just come up refused a WebSocket and answers now: one failure alone says little.
    this.#blocked += isHung || code == NONE ? 2 : 1;
    if (this.#blocked > 1) {
      this.#which = 1;
      this.#avoid = Date.now() + AVOID;
    }
    this.#open();
  }

  #onLost(code: number, reason: string): void {
    const now = Date.now();
    const delay = this.#session.onClosed(code, reason, now);
    this.#connectAt = delay === undefined || this.#isHidden ? Infinity : now + delay;
    this.#kick();
  }

  #drop(): void {
    this.#turn++;
    this.#link?.close();
    this.#link = undefined;
    this.#isOpen = false;
    this.#openBy = this.#writeAt = this.#connectAt = Infinity;
  }

  #onWake(again: boolean): void {
    const now = Date.now();
    this.#isHidden = this.#isHidden && !again;
    if (this.#isOpen) this.#session.onWake(now);
    else if (this.#link) this.#openBy = now + this.#connectTimeout;
    else if (again && this.#connectAt > now && this.state == 'connecting' && !this.#session.isHeldBack) this.#connectAt = now;
    this.#kick();
  }

  #onHide(): void {
    this.#isHidden = true;
    if (this.#link) this.#onClosed(1001, 'the page was left');
    else this.#connectAt = Infinity;
  }

  // What there is to do.

  #kick(): void {
    if (this.#isKicked) return;
    this.#isKicked = true;
    queueMicrotask(() => this.#poll());
  }

  #poll(): void {
    this.#isKicked = false;
    const now = Date.now();
    if (now >= this.#connectAt) void this.#connect();
    for (const subscription of this.#host.fresh) {
      this.#host.fresh.delete(subscription);
      subscription.start();
    }
    this.#session.deliver();
    this.#write(now);
    const { ending } = this.#session;
    if (ending && this.#link) this.#onClosed(ending.code, ending.reason, true);
    this.#setTimer(now);
  }

  #write(now: number): void {
    const link = this.#link;
    this.#writeAt = Infinity;
    if (!link || !this.#isOpen) return;
    while (link.buffered() < MOST_BUFFERED) {
      const frames = this.#session.next(now);
      if (!frames.length) return;
      link.send(frames);
    }
    this.#writeAt = now + BUFFER_CHECK;
  }

  #setTimer(now: number): void {
    const at = Math.min(this.#connectAt, this.#openBy, this.#writeAt, this.#session.deadline());
    if (at == this.#timerAt) return;
    this.#timerAt = at;
    clearTimeout(this.#timer);
    if (at < Infinity) this.#timer = setTimeout(() => this.#onTimer(), Math.max(0, at - now));
  }

  #onTimer(): void {
    const now = Date.now();
    const late = now - this.#timerAt > LATE;
    this.#timerAt = Infinity;
    if (late) this.#onWake(false);
    this.#session.onTime(now);
    if (now >= this.#openBy) this.#onClosed(1006, 'no connection in time', true);
    this.#poll();
  }

  #onError(error: Error): void {
    if (!this.#emitter.emit('error', error)) console.error('tidegate:', error);
  }
}

/** The data as it is sent. JSON is written down now, so that a later change of the value changes nothing. */
function payload(data: unknown, { kind }: PublishOptions): Payload {
  if (data instanceof ArrayBuffer) data = new Uint8Array(data);
  kind ??= data instanceof Uint8Array ? 'binary' : 'json';
  if (kind == 'binary') return { kind, data: (data as Uint8Array).slice() };
  const text = kind == 'text' ? String(data) : JSON.stringify(data);
  if (text === undefined) throw new TidegateError(1202, 'not a JSON value');
  return { kind, data: text };
}

function size({ data }: Payload): number {
  return byteLength(data);
}

function byteLength(data: string | Uint8Array): number {
  return (typeof data == 'string' ? new TextEncoder().encode(data) : data).length;
}

/** So many random bytes, in hexadecimal. `randomUUID` is there in secure contexts alone. */
function random(bytes: number): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
