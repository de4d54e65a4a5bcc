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
  state: { state: SubscriptionState; code?: number | undefined; reason?: string | undefined };
  /** The broker refused it, or ended it. It is asked for again where `error.retry`, else it is `unsubscribed`. */
  error: TidegateError;
}

/** Items one by one. `return` unsubscribes, and so does leaving a `for await`. */
export interface ItemIterator<T> extends AsyncIterable<Item<T>> {
  /** The next item, once it is there. Throws the broker's error where that ended the subscription. */
  next(): Promise<IteratorResult<Item<T>, undefined>>;
  return(): Promise<IteratorReturnResult<undefined>>;
  [Symbol.asyncIterator](): ItemIterator<T>;
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
export interface Subscription<T = unknown> extends AsyncIterable<Item<T>> {
  readonly filter: string;
  /** See {@link SubscriptionState}. */
  readonly state: SubscriptionState;
  /**
   * Where the reader is, in each stream: behind the items it has taken. Given as `from`, it makes another subscription,
   * in another page or after a reload, go on exactly here.
   */
  readonly positions: readonly Position[];
  /** What the broker said is in force; `undefined` until it has. */
  readonly terms: Terms | undefined;

  /** Calls `listener` with every such event. Gives the function that ends that. */
  on<Name extends keyof SubscriptionEvents<T>>(
    name: Name,
    listener: (event: SubscriptionEvents<T>[Name]) => void,
  ): () => void;

  /**
   * Ends it: no item is given any more. Where it shares a subscription at the broker, the others go on. Resolves once
   * the broker has taken note, at once without a connection; there is no need to wait for it.
   */
  unsubscribe(): Promise<void>;

  [Symbol.asyncIterator](): ItemIterator<T>;
}

export function createSubscription<T>(session: Session, filter: string, options: SubscribeOptions): Subscription<T> {
  const emitter = createEmitter<SubscriptionEvents<T>>();
  const { fresh, shared } = session;
  let state: SubscriptionState = 'subscribing';
  let subscriber: Subscriber | undefined;
  /** What it shares a subscriber by. */
  let key = '';
  let isListening = false;
  let isIterating = false;
  /** By `unsubscribe`: what waits is not given any more. */
  let isDropped = false;
  let failed: TidegateError | undefined;
  /** Readers of an iterator that wait for an item. */
  const waiting: (() => void)[] = [];
  /** Further iterators' own. */
  const iterated: Subscription<T>[] = [];

  const wake = () => {
    for (const resolve of waiting.splice(0)) resolve();
  };

  const setState = (to: SubscriptionState, error?: TidegateError) => {
    state = to;
    emitter.emit('state', { state, code: error?.code, reason: error?.message });
  };

  const end = (error?: TidegateError) => {
    if (shared.get(key) == subscriber && (!isDropped || !subscriber?.readers.size)) shared.delete(key);
    failed = error;
    setState('unsubscribed', error);
    for (const own of iterated.splice(0)) void own.unsubscribe();
    wake();
  };

  const reader: Reader = {
    onItem: (item) => (item ? emitter.emit(item.type, item as never) : wake()),
    onState(to, error?) {
      // An iterator throws what ends it.
      if (error && !emitter.emit('error', error) && (!isIterating || error.retry)) session.fail(error);
      if (to == 'unsubscribed') end(error);
      else if (to != state) setState(to, error);
    },
  };

  /** Asks the broker for it, or joins those that have asked for the same. */
  const start = () => {
    fresh.delete(start);
    const { from = 'live', overflow, limit, limitBytes, echo, credit } = options;
    const pushes = isListening && !isIterating;
    if (pushes && from == 'live') key = JSON.stringify([filter, overflow, limit, limitBytes, echo, credit]);
    subscriber = shared.get(key);
    // One that is to come back gives what was published before this one was asked for.
    if (!subscriber || !(subscriber.isNew || subscriber.isActive)) {
      subscriber = createSubscriber(filter, options, credit || (pushes ? CALLBACK_CREDIT : CREDIT), pushes);
      session.subscribe(subscriber);
      if (key) shared.set(key, subscriber);
    }
    subscriber.readers.add(reader);
    if (subscriber.isActive) reader.onState('subscribed');
  };

  const next: ItemIterator<T>['next'] = async () => {
    for (;;) {
      const value = !isDropped && (subscriber?.take() as Item<T> | undefined);
      if (value) {
        session.attend(subscriber!);
        emitter.emit(value.type, value as never);
        return { done: false, value };
      }
      if (state == 'unsubscribed') {
        if (failed) throw failed;
        return { done: true, value: undefined };
      }
      await new Promise<void>((resolve) => waiting.push(resolve));
    }
  };

  const self: Subscription<T> = {
    filter,

    get state() {
      return state;
    },

    get positions() {
      return [...(subscriber?.read ?? [])];
    },

    get terms() {
      return subscriber?.terms as Terms | undefined;
    },

    on(name, listener) {
      if (name == 'message' && !isListening) {
        isListening = true;
        if (subscriber && !isIterating) {
          subscriber.pushes = true;
          session.stage(subscriber);
        }
      }
      return emitter.on(name, listener);
    },

    async unsubscribe() {
      if (state == 'unsubscribed') return;
      fresh.delete(start);
      isDropped = true;
      subscriber?.readers.delete(reader);
      end();
      if (subscriber && !subscriber.readers.size) await session.unsubscribe(subscriber);
    },

    [Symbol.asyncIterator]() {
      if ((isIterating || isListening) && state != 'unsubscribed') {
        const own = createSubscription<T>(session, filter, options);
        iterated.push(own);
        return own[Symbol.asyncIterator]();
      }
      isIterating = true;
      const iterator: ItemIterator<T> = {
        next,
        return: async () => {
          await self.unsubscribe();
          return { done: true, value: undefined };
        },
        [Symbol.asyncIterator]: () => iterator,
      };
      return iterator;
    },
  };
  fresh.add(start);
  session.kick();
  return self;
}
