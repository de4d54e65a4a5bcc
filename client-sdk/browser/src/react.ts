/**
 * `@tidegate/client/react`: a client for the components below, and what comes for a filter as state.
 *
 * ```js
 * const client = new Client('ws://127.0.0.1:7400/ws');
 *
 * root.render(<TidegateProvider client={client}><Chat /></TidegateProvider>);
 *
 * function Chat() {
 *   const { items, state } = useSubscription('chat.room1', { from: { last: 20 } });
 *   return items.map((item) => item.type == 'message' ? <p key={item.offset}>{item.data.text}</p> : <hr />);
 * }
 * ```
 */

import {
  createContext,
  createElement,
  type ReactElement,
  type ReactNode,
  useContext,
  useEffect,
  useRef,
  useState,
  useSyncExternalStore,
} from 'react';

import type { Client } from './client.js';
import type { TidegateError } from './error.js';
import type { Item, MessageItem, SubscribeOptions } from './item.js';
import type { State } from './session.js';
import type { SubscriptionState } from './session/subscriber.js';

/** How many items a component keeps where it does not say. */
const KEEP = 100;

const Context = createContext<Client | undefined>(undefined);

/** Gives the components below their client. Who made the client closes it. */
export function TidegateProvider(props: { client: Client; children?: ReactNode }): ReactElement {
  return createElement(Context.Provider, { value: props.client }, props.children);
}

/** The client of the nearest provider. */
export function useClient(): Client {
  const client = useContext(Context);
  if (!client) throw new Error('there is no <TidegateProvider client={…}> around this component');
  return client;
}

/** The client's state, `connecting` while the page is rendered on a server. */
export function useClientState(): State {
  const client = useClient();
  return useSyncExternalStore(
    (listener) => client.on('state', listener),
    () => client.state,
    () => 'connecting',
  );
}

/** How to subscribe, and what to do with what comes. All of it may be left out. */
export interface UseSubscriptionOptions<T> extends SubscribeOptions {
  /** How many of the newest items are kept: 100 where left out. */
  keep?: number | undefined;
  /** Called with each item as it comes, however many come between two renders. */
  onItem?: ((item: Item<T>) => void) | undefined;
}

/** What a component sees of its subscription. */
export interface SubscriptionView<T> {
  /** The newest items, oldest first: messages, and what is to be told between them. */
  items: readonly Item<T>[];
  /** The newest message. */
  message?: MessageItem<T>;
  state: SubscriptionState;
  /** Why the broker refused or ended it. */
  error?: TidegateError;
}

/**
 * Subscribes while the component is mounted; `undefined` as a filter is no subscription. Components with equal options
 * and `from: 'live'` share one at the broker. Renders once a frame at most, however much comes.
 */
export function useSubscription<T = unknown>(
  filter: string | undefined,
  { keep = KEEP, onItem, ...options }: UseSubscriptionOptions<T> = {},
): SubscriptionView<T> {
  const client = useClient();
  // The object is another one with every render; what it says is not.
  const wanted = JSON.stringify([filter, keep, options]);
  const [shown, show] = useState<{ wanted: string; view: SubscriptionView<T> }>();
  const latest = useRef(onItem);
  useEffect(() => {
    latest.current = onItem;
  });
  useEffect(() => {
    if (filter === undefined) return;
    const subscription = client.subscribe<T>(filter, options);
    let items: Item<T>[] = [];
    let message: MessageItem<T> | undefined;
    let error: TidegateError | undefined;
    let frame: number | undefined;
    const render = () => {
      frame = undefined;
      items = items.slice(-keep);
      const view = { items, state: subscription.state, ...(message && { message }), ...(error && { error }) };
      show({ wanted, view });
    };
    const changed = () => (frame ??= requestAnimationFrame(render));
    const take = (item: Item<T>) => {
      items.push(item);
      // A hidden page renders nothing: what it keeps is bounded all the same.
      if (items.length > 2 * keep) items = items.slice(-keep);
      if (item.type == 'message') message = item;
      latest.current?.(item);
      changed();
    };
    subscription.on('gap', take);
    subscription.on('resumed', take);
    subscription.on('reset', take);
    subscription.on('state', changed);
    subscription.on('error', (told) => {
      error = told;
      changed();
    });
    subscription.on('message', take);
    return () => {
      if (frame !== undefined) cancelAnimationFrame(frame);
      void subscription.unsubscribe();
    };
  }, [client, wanted]);
  return shown?.wanted == wanted ? shown.view : { items: [], state: 'subscribing' };
}

