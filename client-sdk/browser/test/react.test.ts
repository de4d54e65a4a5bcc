// The hooks, mounted by React's test renderer, strict mode's double mount included. The client is a fake: what reaches
// the broker is the client's own matter.
import assert from 'node:assert/strict';
import { afterEach, describe, it, type TestContext } from 'node:test';

import { createElement, Fragment, type ReactNode, StrictMode } from 'react';
import { act, create, type ReactTestRenderer } from 'react-test-renderer';

import type { Client } from '../src/client.js';
import type { Item } from '../src/item.js';
import { type SubscriptionView, TidegateProvider, useClient, useClientState, useSubscription } from '../src/react.js';
import type { UseSubscriptionOptions } from '../src/react.js';

Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });

type Listener = (event: never) => void;

class FakeSubscription {
  state = 'subscribing';
  isOver = false;
  readonly #listeners = new Map<string, Listener>();

  constructor(
    readonly filter: string,
    readonly options: unknown,
  ) {}

  on(name: string, listener: Listener): void {
    this.#listeners.set(name, listener);
  }

  tell(name: string, event: unknown): void {
    this.#listeners.get(name)?.(event as never);
  }

  give(item: Partial<Item>): void {
    this.tell(item.type!, item);
  }

  unsubscribe(): void {
    this.isOver = true;
  }
}

class FakeClient {
  state = 'connecting';
  readonly made: FakeSubscription[] = [];
  readonly listeners = new Set<() => void>();

  subscribe(filter: string, options: unknown): FakeSubscription {
    const subscription = new FakeSubscription(filter, options);
    this.made.push(subscription);
    return subscription;
  }

  on(_name: string, listener: () => void): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  /** Those that were not given up. */
  get open(): FakeSubscription[] {
    return this.made.filter(({ isOver }) => !isOver);
  }
}

const message = (offset: number) => ({ type: 'message', topic: 'a', kind: 'json', data: offset, offset, time: 1 }) as const;
const views: SubscriptionView<number>[] = [];
let mounted: ReactTestRenderer | undefined;

afterEach(() => {
  act(() => mounted?.unmount());
  mounted = undefined;
  views.length = 0;
});

function Reader(props: { filter?: string | undefined; options?: UseSubscriptionOptions<number> }): ReactNode {
  views.push(useSubscription<number>(props.filter, props.options));
  return null;
}

describe('useSubscription', () => {
  it('is subscribed while it is mounted, once, strict mode’s second mount included', (t) => {
    const { client, show } = setUp(t);
    show({ filter: 'a', options: { overflow: 'latest' } }, true);
    assert.equal(client.made.length, 2);
    assert.equal(client.open.length, 1);
    assert.deepEqual([client.open[0]!.filter, client.open[0]!.options], ['a', { overflow: 'latest' }]);
    act(() => mounted!.unmount());
    assert.equal(client.open.length, 0);
  });

  it('shows what comes once a frame, the newest kept', (t) => {
    const { client, show, frame } = setUp(t);
    show({ filter: 'a', options: { keep: 2 } });
    assert.deepEqual(views.at(-1), { items: [], state: 'subscribing' });
    const [subscription] = client.open;
    const before = views.length;
    subscription!.state = 'subscribed';
    for (let offset = 1; offset <= 1000; offset++) subscription!.give(message(offset));
    subscription!.give({ type: 'gap', count: 3, reason: 'overflow', policy: 'latest' });
    assert.equal(views.length, before);
    frame();
    assert.equal(views.length, before + 1);
    const view = views.at(-1)!;
    assert.deepEqual(view.items.map(({ type }) => type), ['message', 'gap']);
    assert.equal(view.message?.data, 1000);
    assert.equal(view.state, 'subscribed');
  });

  it('calls onItem with each item, the newest function of it', (t) => {
    const { client, show } = setUp(t);
    const [first, second]: number[][] = [[], []];
    show({ filter: 'a', options: { onItem: (item) => item.type == 'message' && first!.push(item.data) } });
    client.open[0]!.give(message(1));
    show({ filter: 'a', options: { onItem: (item) => item.type == 'message' && second!.push(item.data) } });
    client.open[0]!.give(message(2));
    assert.deepEqual([first, second], [[1], [2]]);
    assert.equal(client.made.length, 1);
  });

  it('subscribes anew for another filter or option, and shows nothing of the one before', (t) => {
    const { client, show, frame } = setUp(t);
    show({ filter: 'a', options: { from: { last: 1 } } });
    client.open[0]!.give(message(1));
    frame();
    assert.equal(views.at(-1)!.items.length, 1);
    show({ filter: 'a', options: { from: { last: 1 } } });
    assert.equal(client.made.length, 1, 'equal options are the same');
    show({ filter: 'b', options: { from: { last: 1 } } });
    assert.deepEqual(views.at(-1), { items: [], state: 'subscribing' });
    assert.deepEqual(client.open.map(({ filter }) => filter), ['b']);
    show({ filter: 'b', options: { from: { last: 2 } } });
    assert.equal(client.made.length, 3);
    client.made[0]!.give(message(9));
    frame();
    assert.equal(views.at(-1)!.items.length, 0);
    show({});
    assert.equal(client.open.length, 0);
  });

  it('shows an error and the state it ends in', (t) => {
    const { client, show, frame } = setUp(t);
    show({ filter: 'a' });
    const [subscription] = client.open;
    subscription!.state = 'unsubscribed';
    subscription!.tell('error', { code: 1103 });
    subscription!.tell('state', { state: 'unsubscribed' });
    frame();
    const { state, error } = views.at(-1)!;
    assert.deepEqual([state, error?.code], ['unsubscribed', 1103]);
  });

  it('renders no more once it is gone', (t) => {
    const { client, show, frame } = setUp(t);
    show({ filter: 'a' });
    const [subscription] = client.open;
    subscription!.give(message(1));
    const before = views.length;
    act(() => mounted!.unmount());
    subscription!.give(message(2));
    frame();
    assert.equal(views.length, before);
  });
});

describe('useClient', () => {
  it('says what is missing without a provider', (t) => {
    t.mock.method(console, 'error', () => {});
    const Lost = () => {
      useClient();
      return null;
    };
    assert.throws(() => act(() => void create(createElement(Lost))), /TidegateProvider/);
  });
});

describe('useClientState', () => {
  it('follows the client', (t) => {
    const { client } = setUp(t);
    const State = () => useClientState();
    act(() => {
      mounted = create(provided(client, createElement(State)));
    });
    assert.equal(mounted!.toJSON(), 'connecting');
    client.state = 'connected';
    act(() => client.listeners.forEach((listener) => listener()));
    assert.equal(mounted!.toJSON(), 'connected');
    act(() => mounted!.unmount());
    assert.equal(client.listeners.size, 0);
  });
});

const provided = (client: FakeClient, child: ReactNode) =>
  createElement(TidegateProvider, { client: client as unknown as Client }, child);

/** A client, and frames that come when the test says. */
function setUp(t: TestContext) {
  // It says with every tree that another renderer is to come.
  const error = console.error;
  t.mock.method(console, 'error', (...told: unknown[]) => {
    if (!String(told[0]).startsWith('react-test-renderer is deprecated')) error(...told);
  });
  const client = new FakeClient();
  let frames: (() => void)[] = [];
  Object.assign(globalThis, {
    requestAnimationFrame: (render: () => void) => frames.push(render),
    cancelAnimationFrame: (frame: number) => void (frames[frame - 1] = () => {}),
  });
  t.after(() => {
    frames = [];
  });
  const show = (props: Parameters<typeof Reader>[0], strict = false) => {
    const tree = createElement(strict ? StrictMode : Fragment, null, provided(client, createElement(Reader, props)));
    act(() => {
      if (mounted) mounted.update(tree);
      else mounted = create(tree);
    });
  };
  const frame = () => act(() => frames.splice(0).forEach((render) => render()));
  return { client, show, frame };
}
