/**
 * The client against the real broker (`BROKER_BIN`, else target/debug/tidegate), over Node's own WebSocket. With
 * `SDK_DIST` it is the built one.
 *
 * How to extend: `connect` gives a client whose line can be cut, and which writes down the frames that pass. Nothing here
 * waits for a time: what is awaited is an item, an ack or a state.
 */

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { bincode } from '../src/bincode.js';
import type * as sources from '../src/client.js';
import type { Client, ClientOptions } from '../src/client.js';
import type { TidegateError } from '../src/error.js';
import type { ClientFrame, Overflow, ServerFrame } from '../src/frame.js';
import type { Item } from '../src/item.js';
import type { Subscription } from '../src/subscription.js';
import type { Handlers, Transport } from '../src/transport.js';
import { websocket } from '../src/websocket.js';
// @ts-expect-error: no types
import { startBroker } from './browser/broker.mjs';

const built = new URL('../dist/index.js', import.meta.url).href;
const sdk: typeof sources = await import(process.env.SDK_DIST ? built : '../src/client.js');

interface Broker {
  url: string;
  port: number;
  kill(): Promise<void>;
}

let broker: Broker;
const clients: Client[] = [];
let topics = 0;

before(async () => {
  broker = await startBroker();
});

after(async () => {
  for (const client of clients) client.close();
  await broker.kill();
});

/** A topic of the test's own. */
function topic(): string {
  return `test.t${++topics}`;
}

function connect(options: ClientOptions = {}, url = broker.url) {
  const sent: ClientFrame[] = [];
  const received: ServerFrame[] = [];
  let cut = () => {};
  const transport: Transport = {
    name: 'websocket',
    open(url, codec, handlers) {
      const inner: Handlers = {
        ...handlers,
        frames(frames) {
          received.push(...frames);
          handlers.frames(frames);
        },
      };
      const link = websocket().open(url, codec, inner);
      cut = () => {
        link.close();
        handlers.close(1006, '');
      };
      return {
        ...link,
        send(frames) {
          sent.push(...frames);
          link.send(frames);
        },
      };
    },
  };
  const client = new sdk.Client(url, { transports: [transport], ...options });
  clients.push(client);
  return { client, sent, received, cut: () => cut() };
}

/** The next so many items. */
async function take(items: AsyncIterator<Item, undefined>, count: number): Promise<Item[]> {
  const taken: Item[] = [];
  while (taken.length < count) {
    const { value, done } = await items.next();
    assert(!done, `it ended after ${taken.length} items`);
    taken.push(value);
  }
  return taken;
}

/** Items up to and with the message whose data is `last`. */
async function takeUntil(items: AsyncIterator<Item, undefined>, last: unknown): Promise<Item[]> {
  const taken: Item[] = [];
  for (;;) {
    taken.push(...(await take(items, 1)));
    const item = taken.at(-1)!;
    if (item.type == 'message' && item.data == last) return taken;
  }
}

function became<State extends string>(
  of: { state: string; on(name: 'state', listener: (event: { state: State }) => void): () => void },
  state: State,
): Promise<void> {
  return new Promise((resolve) => {
    if (of.state == state) return resolve();
    const off = of.on('state', (event) => {
      if (event.state != state) return;
      off();
      resolve();
    });
  });
}

const data = (items: Item[]) => items.flatMap((item) => (item.type == 'message' ? [item.data] : []));
const subscribed = (subscription: Subscription) => became(subscription, 'subscribed');

for (const codec of [undefined, bincode]) {
  describe(codec ? 'over bincode' : 'over JSON', () => {
    it('gives what is published, of every kind, with its position', async () => {
      const { client } = connect({ codec });
      const name = topic();
      const items = client.subscribe(name, { from: 'beginning' })[Symbol.asyncIterator]();
      const ack = await client.publish(name, { text: 'hi', n: [1, null] }, { key: 'k', headers: { a: 'b' }, report: true });
      await client.publish(name, 'plain', { kind: 'text' });
      await client.publish(name, new Uint8Array([0, 255, 7]));
      const [json, text, binary] = (await take(items, 3)) as Extract<Item, { type: 'message' }>[];
      assert.deepEqual([json!.kind, json!.data], ['json', { text: 'hi', n: [1, null] }]);
      assert.deepEqual([json!.key, json!.headers, json!.topic], ['k', { a: 'b' }, name]);
      assert.deepEqual([text!.kind, text!.data], ['text', 'plain']);
      assert.deepEqual([binary!.kind, binary!.data], ['binary', new Uint8Array([0, 255, 7])]);
      assert.equal(json!.position!.epoch, ack.epoch);
      assert.equal(json!.position!.offset, ack.offset);
      assert.equal(ack.duplicate, false);
      assert.equal(ack.report!.matched, 1);
      assert(Math.abs(json!.time - Date.now()) < 3_600_000);

      const page = await client.history(name, { from: { last: 2 } });
      assert.deepEqual(data(page.messages), ['plain', new Uint8Array([0, 255, 7])]);
      assert.equal(page.more, false);
      const first = await client.history(name, { limit: 1 });
      assert.deepEqual([data(first.messages), first.more], [[{ text: 'hi', n: [1, null] }], true]);
      const rest = await client.history(name, { from: first.position });
      assert.equal(rest.messages.length, 2);
    });

    it('resumes after a cut: everything once, in order', async () => {
      const { client, cut } = connect({ codec });
      const publisher = connect().client;
      const name = topic();
      const subscription = client.subscribe(name);
      const items = subscription[Symbol.asyncIterator]();
      await subscribed(subscription);
      for (let n = 0; n < 300; n++) {
        await publisher.publish(name, n);
        if (n % 50 == 25) cut();
      }
      const taken = await takeUntil(items, 299);
      assert.deepEqual(data(taken), Array.from({ length: 300 }, (_, n) => n));
      assert(taken.some(({ type }) => type == 'resumed'));
      assert(!taken.some(({ type }) => type == 'gap' || type == 'reset'));
    });

    it('publishes once what was on its way when the line was cut', async () => {
      const { client, cut } = connect({ codec });
      const name = topic();
      await became(client, 'connected');
      const acks = [];
      for (let n = 0; n < 200; n++) {
        acks.push(client.publish(name, n));
        if (n % 40 == 20) {
          await acks.at(-10);
          cut();
        }
      }
      await Promise.all(acks);
      const { messages } = await client.history(name, { limit: 1000 });
      assert.deepEqual(data(messages), Array.from({ length: 200 }, (_, n) => n));
    });
  });
}

describe('a reader that does not read', () => {
  const PUBLISHED = 400;

  for (const overflow of ['drop_oldest', 'drop_newest', 'latest', 'catch_up'] as Overflow[]) {
    it(`is told what it is not given: ${overflow}`, async () => {
      const { client, received } = connect();
      const publisher = connect().client;
      const name = topic();
      const subscription = client.subscribe(name, { overflow, limit: 16, credit: 8 });
      const items = subscription[Symbol.asyncIterator]();
      await subscribed(subscription);
      for (let n = 1; n <= PUBLISHED; n++) await publisher.publish(name, n);
      // What follows is behind all of it on this connection.
      await client.history(name);
      const given = received.filter(({ op }) => op == 'message').length;
      assert(given <= 8, `${given} messages came of 8`);

      let told = 0;
      let last = 0;
      const taken: Item[] = [];
      while (taken.length + told < PUBLISHED) {
        const [item] = await take(items, 1);
        if (item!.type == 'gap') {
          assert.equal(item!.policy, overflow);
          told += item!.count!;
        } else {
          assert(item!.type == 'message' && (item!.data as number) > last);
          last = item!.data as number;
          taken.push(item!);
        }
      }
      assert.equal(taken.length + told, PUBLISHED);
      if (overflow == 'catch_up') assert.equal(told, 0);
      else assert(told > 0);
    });
  }

  it('comes back where its policy is to be hung up on', async () => {
    const { client } = connect();
    const publisher = connect().client;
    const name = topic();
    const codes: (number | undefined)[] = [];
    client.on('state', ({ state, code }) => state == 'connecting' && codes.push(code));
    const subscription = client.subscribe(name, { overflow: 'disconnect', limit: 16, credit: 8 });
    const items = subscription[Symbol.asyncIterator]();
    await subscribed(subscription);
    for (let n = 1; n <= 100; n++) await publisher.publish(name, n);
    const taken = await takeUntil(items, 100);
    assert.deepEqual(data(taken), Array.from({ length: 100 }, (_, n) => n + 1));
    assert(codes.includes(4008), `closed with ${codes}`);
  });

  it('holds up no other', async () => {
    const { client } = connect();
    const name = topic();
    const slow = client.subscribe(name, { credit: 4 });
    const fast = client.subscribe(name, { credit: 4 });
    slow[Symbol.asyncIterator]();
    const items = fast[Symbol.asyncIterator]();
    await Promise.all([subscribed(slow), subscribed(fast)]);
    const all = take(items, 100);
    for (let n = 0; n < 100; n++) await client.publish(name, n);
    assert.deepEqual(data(await all), Array.from({ length: 100 }, (_, n) => n));
  });
});

describe('subscriptions', () => {
  it('share one at the broker where callbacks ask for the same, and only those', async () => {
    const { client, sent } = connect();
    const name = topic();
    const heard: unknown[] = [];
    const one = client.subscribe(name, {}, ({ data }) => heard.push(['one', data]));
    const two = client.subscribe(name);
    two.on('message', ({ data }) => heard.push(['two', data]));
    const own = client.subscribe(name);
    const items = own[Symbol.asyncIterator]();
    const again = two[Symbol.asyncIterator]();
    await Promise.all([one, two, own].map(subscribed));
    await client.publish(name, 1);
    assert.deepEqual(data(await take(items, 1)), [1]);
    assert.deepEqual(data(await take(again, 1)), [1]);
    assert.deepEqual(heard, [['one', 1], ['two', 1]]);
    assert.equal(sent.filter(({ op }) => op == 'subscribe').length, 3);

    await one.unsubscribe();
    await client.publish(name, 2);
    assert.deepEqual(data(await take(items, 1)), [2]);
    assert.deepEqual(heard.slice(2), [['two', 2]]);
    assert.equal(sent.filter(({ op }) => op == 'unsubscribe').length, 0);
    await two.unsubscribe();
    // Its iterator's own, too.
    assert.equal(sent.filter(({ op }) => op == 'unsubscribe').length, 2);
    assert.deepEqual(await again.next(), { done: true, value: undefined });
    assert.equal(one.state, 'unsubscribed');
  });

  it('go on from kept positions', async () => {
    const { client } = connect();
    const name = topic();
    const first = client.subscribe(name, { from: 'beginning' });
    const items = first[Symbol.asyncIterator]();
    for (let n = 0; n < 4; n++) await client.publish(name, n);
    await take(items, 2);
    const { positions } = first;
    await first.unsubscribe();
    const second = client.subscribe(name, { from: positions })[Symbol.asyncIterator]();
    assert.deepEqual(data(await take(second, 2)), [2, 3]);
  });

  it('end when their loop is left', async () => {
    const { client, sent } = connect();
    const name = topic();
    const subscription = client.subscribe(name, { from: 'beginning' });
    await client.publish(name, 1);
    for await (const item of subscription) if (item.type == 'message') break;
    assert.equal(subscription.state, 'unsubscribed');
    assert(sent.some(({ op }) => op == 'unsubscribe'));
  });

  it('throw the broker’s refusal', async () => {
    const { client } = connect();
    const subscription = client.subscribe(topic(), { from: { epoch: 'none', offset: 1 } });
    const error = (await subscription[Symbol.asyncIterator]().next().catch((error) => error)) as TidegateError;
    assert.equal(error.code, 1003);
    assert.equal(subscription.state, 'unsubscribed');
  });
});

describe('a publish', () => {
  it('that cannot be taken fails alone', async () => {
    const { client } = connect();
    const name = topic();
    const code = (ack: Promise<unknown>) => ack.then(() => 0, (error: TidegateError) => error.code);
    assert.equal(await code(client.publish('not a topic', 1)), 1200);
    assert.equal(await code(client.publish('$own.topic', 1)), 1205);
    assert.equal(await code(client.publish(name, undefined)), 1202);
    assert.equal(await code(client.publish(name, 'x'.repeat(70_000))), 1203);
    // Within the payload's bound, and beyond the WebSocket message's once it is escaped.
    assert.equal(await code(client.publish(name, '\u0001'.repeat(60_000), { kind: 'text' })), 1203);
    assert.equal(await code(client.publish(name, 'x'.repeat(60_000), { kind: 'text' })), 0);
    assert.equal(client.state, 'connected');
  });

  it('is known again by its idempotency key', async () => {
    const { client } = connect();
    const name = topic();
    const first = await client.publish(name, 1, { idempotency: 'order-7' });
    const second = await client.publish(name, 1, { idempotency: 'order-7' });
    assert.deepEqual([second.offset, second.duplicate], [first.offset, true]);
  });

  it('is taken as it was when it was made', async () => {
    const { client } = connect();
    const name = topic();
    const value = { n: 1 };
    const ack = client.publish(name, value);
    value.n = 2;
    await ack;
    assert.deepEqual(data((await client.history(name)).messages), [{ n: 1 }]);
  });
});

describe('a broker that is killed and started again', () => {
  it('is told by a reset, and everything after it is given', async () => {
    const first: Broker = await startBroker();
    const { client } = connect({}, first.url);
    const name = topic();
    const subscription = client.subscribe(name);
    const items = subscription[Symbol.asyncIterator]();
    await subscribed(subscription);
    for (let n = 1; n <= 5; n++) await client.publish(name, n);
    assert.deepEqual(data(await take(items, 5)), [1, 2, 3, 4, 5]);
    await first.kill();
    await became(client, 'connecting');
    const waiting = client.publish(name, 6);
    const second: Broker = await startBroker({ port: first.port });
    try {
      await waiting;
      const taken = await takeUntil(items, 6);
      assert.deepEqual(data(taken), [6]);
      const reset = taken.find(({ type }) => type == 'reset');
      assert(reset);
      assert(taken.every((item) => item.type != 'gap' || item.reason == 'epoch'));
      const [position] = subscription.positions;
      assert.notEqual(position!.epoch, (reset as Extract<Item, { type: 'reset' }>).old);
    } finally {
      client.close();
      await second.kill();
    }
  });
});

describe('a client that is closed', () => {
  it('settles everything', async () => {
    const { client } = connect({ transports: [{ name: 'websocket', open: silent }] });
    const publish = client.publish(topic(), 1).catch((error: TidegateError) => error.name);
    const history = client.history(topic()).catch((error: TidegateError) => error.name);
    const subscription = client.subscribe(topic());
    const next = subscription[Symbol.asyncIterator]().next();
    await Promise.resolve();
    client.close();
    assert.deepEqual([await publish, await history, (await next).done], ['closed', 'closed', true]);
    assert.deepEqual([client.state, subscription.state], ['disconnected', 'unsubscribed']);
    assert.equal(await client.publish(topic(), 1).catch((error: TidegateError) => error.name), 'closed');
  });

  it('can be connected again', async () => {
    const { client } = connect();
    await became(client, 'connected');
    client.close();
    client.connect();
    const name = topic();
    const items = client.subscribe(name, { from: 'beginning' })[Symbol.asyncIterator]();
    await client.publish(name, 1);
    assert.deepEqual(data(await take(items, 1)), [1]);
  });
});

function silent(): ReturnType<Transport['open']> {
  return { send() {}, buffered: () => 0, close() {} };
}
