import type { Codec } from './codec.js';
import { createDriver } from './driver.js';
import { createEmitter } from './emitter.js';
import { TidegateError } from './error.js';
import { sse } from './fallback.js';
import { isFilter, isTopic } from './filter.js';
import type { ClientFrame, From, Payload } from './frame.js';
import type { HistoryPage, MessageItem, PublishAck, PublishOptions, SubscribeOptions } from './item.js';
import { json } from './json.js';
import { createSession, type State } from './session.js';
import { messageItem } from './session/subscriber.js';
import { createSubscription, type Subscription } from './subscription.js';
import type { Transport } from './transport.js';
import { websocket } from './websocket.js';

/** A token, or what fetches one: called before each connection, and when the broker refused one. */
export type Token = string | (() => string | undefined | Promise<string | undefined>);

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
  /** How long, in milliseconds, an attempt to connect may take; 5,000 where left out. */
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
  state: {
    state: State;
    code?: number | undefined;
    reason?: string | undefined;
    retry?: number | undefined;
    transport?: 'websocket' | 'sse' | undefined;
  };
  /** Something was refused, and nobody else is told. Without a listener it goes to the console. */
  error: TidegateError;
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
export interface Client {
  /** Where it stands: see {@link State}. */
  readonly state: State;
  /** What the connection runs on, or is tried; `undefined` between attempts. */
  readonly transport: 'websocket' | 'sse' | undefined;
  /** The connection's id, as the broker's log has it; `undefined` without one. */
  readonly connection: string | undefined;

  /** Calls `listener` with every such event. Gives the function that ends that. */
  on<Name extends keyof ClientEvents>(name: Name, listener: (event: ClientEvents[Name]) => void): () => void;

  /** Connects, after `close` or where the broker would not have this client. A new client does so by itself. */
  connect(): void;

  /**
   * Ends it. Iterators end, subscriptions are `unsubscribed`; publishes that were not sent fail with `closed`, those
   * whose ack has not come with 1502 (`outcome_unknown`).
   */
  close(): void;

  /**
   * Subscribes, and returns at once: items come as soon as there is a connection. The same filter may be subscribed to
   * as often as you like. Callbacks with equal options and `from: 'live'` share one subscription at the broker.
   *
   * @param callback called with each message: the same as `on('message', callback)`
   * @throws {TidegateError} 1201 where the filter is none
   */
  subscribe<T = unknown>(filter: string, callback: (message: MessageItem<T>) => void): Subscription<T>;
  subscribe<T = unknown>(
    filter: string,
    options?: SubscribeOptions,
    callback?: (message: MessageItem<T>) => void,
  ): Subscription<T>;

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
  publish(topic: string, data: unknown, options?: PublishOptions): Promise<PublishAck>;

  /** `publish` that never waits: false where the publish window is full. */
  tryPublish(topic: string, data: unknown, options?: PublishOptions): Promise<PublishAck> | false;

  /**
   * A page of one topic's log, oldest first. Ask again `from` its `position` while there is `more`.
   *
   * @param options `from` where on, `'beginning'` where left out; at most `limit` messages
   */
  history<T = unknown>(
    topic: string,
    options?: { from?: From | undefined; limit?: number | undefined },
  ): Promise<HistoryPage<T>>;

  /** Gives the broker a token in place of the one before: this one, or what the `token` option fetches. */
  refresh(token?: string): Promise<void>;
}

export class Client {
  /**
   * @param url `ws://…/ws` or `http(s)://…`; the page's own origin where left out
   * @throws where the url cannot be one
   */
  constructor(url = '', options: ClientOptions = {}) {
    /** Random: tells its idempotency keys from those of another with the same instance. */
    const id = crypto.getRandomValues(new Uint32Array(4)).join('-');
    let keys = 0;
    const { codec = json, name, instance = id, connectTimeout = 5000, transports = ['websocket', 'sse'], defaults } = options;
    let { token = '' } = options;
    const emitter = createEmitter<ClientEvents>();
    const address = new URL(url, globalThis.location?.origin);
    address.protocol = address.protocol.replace('http', 'ws');
    if (address.pathname == '/') address.pathname = '/ws';

    const fetchToken = async () => (typeof token == 'function' ? await token() : token) ?? '';
    const measure = (frame: ClientFrame) => byteLength(codec.encode([frame]));
    const session = createSession(
      { identity: { client: name, instance }, connectTimeout, measure, canRefresh: typeof token == 'function' },
      (name, event) => {
        if (!emitter.emit(name, event as never) && name == 'error') console.error('tidegate:', event);
      },
    );
    const driver = createDriver(session, {
      url: address.href,
      codec,
      transports: transports.map((transport) =>
        transport == 'websocket' ? websocket() : transport == 'sse' ? sse() : transport,
      ),
      token: fetchToken,
    });

    const publish = async (topic: string, content: Payload, options: PublishOptions): Promise<PublishAck> => {
      check(isTopic(topic), 1200, topic);
      const { key, headers, report, idempotency = `${id}-${keys++}` } = options;
      const { op, id: _id, live_only, duplicate = false, ...ack } = await session.publish(
        { op: 'publish', topic, key, headers, report, idempotency: idempotency || undefined, ...content },
        byteLength(content.data),
      );
      return { ...ack, duplicate };
    };

    const self: Client & { __proto__: Client } = {
      __proto__: new.target.prototype,
      get state() {
        return session.state;
      },

      get transport() {
        return session.transport;
      },

      get connection() {
        return session.connection;
      },

      on: emitter.on,

      connect() {
        if (session.state == 'disconnected') driver.start();
      },

      close() {
        session.stop();
        driver.stop();
      },

      subscribe<T>(
        filter: string,
        options?: SubscribeOptions | ((message: MessageItem<T>) => void),
        callback?: (message: MessageItem<T>) => void,
      ): Subscription<T> {
        if (typeof options == 'function') return self.subscribe(filter, {}, options);
        check(isFilter(filter), 1201, filter);
        const subscription = createSubscription<T>(session, filter, { ...defaults, ...options });
        if (callback) subscription.on('message', callback);
        return subscription;
      },

      publish: async (topic, data, options = {}) => publish(topic, payload(data, options), options),

      tryPublish(topic, data, options = {}) {
        const content = payload(data, options);
        return !session.isFull(byteLength(content.data)) && publish(topic, content, options);
      },

      async history<T>(topic: string, { from = 'beginning', limit }: { from?: From | undefined; limit?: number | undefined } = {}) {
        check(isTopic(topic), 1200, topic);
        const { messages, position, more = false } = await session.history({ topic, from, limit });
        return { messages: messages.map((message) => messageItem(message) as MessageItem<T>), position, more };
      },

      async refresh(given) {
        if (given && typeof token == 'string') token = given;
        return session.refresh(given ?? (await fetchToken()));
      },
    };
    driver.start();
    return self;
  }
}

function check(isRight: boolean, code: number, what?: string): void {
  if (!isRight) throw new TidegateError(code, what);
}

/** The data as it is sent. JSON is written down now, so that a later change of the value changes nothing. */
function payload(data: unknown, { kind }: PublishOptions): Payload {
  if (data instanceof ArrayBuffer) data = new Uint8Array(data);
  if (data instanceof Uint8Array) return { kind: 'binary', data: data.slice() };
  const text = kind == 'text' ? String(data) : JSON.stringify(data);
  check(text !== undefined, 1202);
  return { kind: kind == 'text' ? kind : 'json', data: text };
}

function byteLength(data: string | Uint8Array): number {
  return (typeof data == 'string' ? new TextEncoder().encode(data) : data).length;
}
