import { createEmitter } from './emitter.js';
import type { TidegateError } from './error.js';
import type { Position } from './frame.js';
import type { GapItem, Item, MessageItem, ResetItem, ResumedItem, SubscribeOptions, Terms } from './item.js';
import type { Session } from './session.js';
import { createSubscriber, type Reader, type Subscriber, type SubscriptionState } from './session/subscriber.js';

/** Messages that may wait in this page. As many as a lane of the broker holds by default. */
const CREDIT = 256;

/** The same for callbacks, which let nothing wait: so that a long line is filled. */
const CALLBACK_CREDIT = 1024;

/** What a subscription tells by `on`. */
export interface SubscriptionEvents<T = unknown> {
  message: MessageItem<T>;
  gap: GapItem;
  resumed: ResumedItem;
  reset: ResetItem;
  /** Its state changed: with the error's code and reason where one was the cause. */
  state: { state: SubscriptionState; code?: number; reason?: string };
  /** The broker refused it, or ended it. It is asked for again where `error.retry`, else it is `unsubscribed`. */
  error: TidegateError;
}

/**
 * One filter's messages, over all reconnects: `for await (const item of subscription)`, or callbacks by `on`.
 *
 * `for await` takes one item after the other: what is not taken waits here (at most `credit` messages), then at the
 * broker, under the `overflow` policy. Leaving the loop unsubscribes. A second iterator, or one beside callbacks, has a
 * subscription of its own at the broker, so that a slow one holds up no other.
 *
 * Callbacks are called as items come. Items wait until there is a listener for `message`, or an iterator.
 */
export class Subscription<T = unknown> implements AsyncIterable<Item<T>> {
  readonly filter: string;
  /** See {@link SubscriptionState}. */
  state: SubscriptionState = 'subscribing';

  readonly #session: Session;
  readonly #options: SubscribeOptions;
  readonly #emitter = createEmitter<SubscriptionEvents<T>>();
  #subscriber: Subscriber | undefined;
  #key = '';
  #isListening = false;
  #isIterating = false;
  /** By `unsubscribe`: what waits is not given any more. */
  #isDropped = false;
  #error: TidegateError | undefined;
  #waiting: (() => void)[] = [];
  #iterators: Subscription<T>[] = [];

  /** @internal */
  constructor(session: Session, filter: string, options: SubscribeOptions) {
    this.#session = session;
    this.filter = filter;
    this.#options = options;
    session.fresh.add(this);
    session.kick();
  }

  /**
   * Where the reader is, in each stream: behind the items it has taken. Given as `from`, it makes another subscription,
   * in another page or after a reload, go on exactly here.
   */
  get positions(): Position[] {
    return (this.#subscriber?.read ?? []).map((position) => ({ ...position }));
  }

  /** What the broker said is in force; `undefined` until it has. */
  get terms(): Terms | undefined {
    return this.#subscriber?.terms as Terms | undefined;
  }

  /** Calls `listener` with every such event. Gives the function that ends that. */
  on<Name extends keyof SubscriptionEvents<T>>(
    name: Name,
    listener: (event: SubscriptionEvents<T>[Name]) => void,
  ): () => void {
    if (name == 'message' && !this.#isListening) {
      this.#isListening = true;
      const subscriber = this.#subscriber;
      if (subscriber && !this.#isIterating) {
        subscriber.pushes = true;
        this.#session.stage(subscriber);
      }
    }
    return this.#emitter.on(name, listener);
  }

  /**
   * Ends it: no item is given any more. Where it shares a subscription at the broker, the others go on. Resolves once
   * the broker has taken note, at once without a connection; there is no need to wait for it.
   */
  async unsubscribe(): Promise<void> {
    if (this.state == 'unsubscribed') return;
    const subscriber = this.#subscriber;
    this.#session.fresh.delete(this);
    subscriber?.readers.delete(this.#reader);
    this.#isDropped = true;
    this.#end(undefined, !subscriber?.readers.size);
    if (subscriber && !subscriber.readers.size) await this.#session.unsubscribe(subscriber);
  }

  /** Items one by one. It throws the broker's error where that ended the subscription. */
  [Symbol.asyncIterator](): AsyncIterator<Item<T>, undefined> & AsyncIterable<Item<T>> {
    if ((this.#isIterating || this.#isListening) && this.state != 'unsubscribed') {
      const own = new Subscription<T>(this.#session, this.filter, this.#options);
      this.#iterators.push(own);
      return own[Symbol.asyncIterator]();
    }
    this.#isIterating = true;
    const iterator = {
      next: () => this.#next(),
      return: async () => {
        await this.unsubscribe();
        return { done: true as const, value: undefined };
      },
      [Symbol.asyncIterator]: () => iterator as AsyncIterator<Item<T>, undefined> & AsyncIterable<Item<T>>,
    };
    return iterator;
  }

  async #next(): Promise<IteratorResult<Item<T>, undefined>> {
    for (;;) {
      const subscriber = this.#subscriber;
      const value = this.#isDropped ? undefined : (subscriber?.take() as Item<T> | undefined);
      if (value) {
        this.#session.attend(subscriber!);
        this.#emitter.emit(value.type, value as never);
        return { done: false, value };
      }
      if (this.state == 'unsubscribed') {
        const error = this.#error;
        this.#error = undefined;
        if (error) throw error;
        return { done: true, value: undefined };
      }
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** Asks the broker for it, or joins those that have asked for the same. */
  start(): void {
    const session = this.#session;
    const { shared, fresh } = session;
    fresh.delete(this);
    const { filter } = this;
    const { from = 'live', overflow, limit, limitBytes, echo, credit } = this.#options;
    const pushes = this.#isListening && !this.#isIterating;
    if (pushes && from == 'live') this.#key = JSON.stringify([filter, overflow, limit, limitBytes, echo, credit]);
    let subscriber = shared.get(this.#key);
    // One that is to come back gives what was published before this one was asked for.
    if (!subscriber || !(subscriber.isNew || subscriber.isActive)) {
      const most = credit ?? (pushes ? CALLBACK_CREDIT : CREDIT);
      subscriber = createSubscriber(filter, this.#options, Math.max(1, most), pushes);
      session.subscribe(subscriber);
      if (this.#key) shared.set(this.#key, subscriber);
    }
    this.#subscriber = subscriber;
    subscriber.readers.add(this.#reader);
    if (subscriber.isActive) this.#reader.onState('subscribed', undefined);
  }

  readonly #reader: Reader = {
    onItem: (item) => (item ? this.#emitter.emit(item.type, item as never) : this.#wake()),
    onState: (state, error) => {
      if (error && !this.#emitter.emit('error', error) && !this.#isIterating) this.#session.fail(error);
      if (state == 'unsubscribed') this.#end(error, true);
      else if (state != this.state) this.#setState(state, error);
    },
  };

  #end(error: TidegateError | undefined, isLast: boolean): void {
    const { shared } = this.#session;
    if (isLast && shared.get(this.#key) == this.#subscriber) shared.delete(this.#key);
    this.#error = error;
    this.#setState('unsubscribed', error);
    for (const iterator of this.#iterators.splice(0)) void iterator.unsubscribe();
    this.#wake();
  }

  #setState(state: SubscriptionState, error: TidegateError | undefined): void {
    this.state = state;
    this.#emitter.emit('state', { state, ...(error && { code: error.code, reason: error.message }) });
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
