/**
 * The client over a transport that is played by hand, with a clock that the test moves.
 *
 * How to extend: `start` gives a client and its `lines`, one for each connection it asked for, newest last. A line is
 * opened (`open`), welcomed (`welcome`), answered (`say`) and ended (`close`) by the test, and has what the client `sent`.
 * Nothing happens by itself. After something happened outside of a line `await settled()` lets the client act on it, and
 * `pass(ms)` moves the clock.
 */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';

import { Client, type ClientEvents, type ClientOptions } from '../src/client.js';
import type { TidegateError } from '../src/error.js';
import type { ClientFrame, ServerFrame, Welcome } from '../src/frame.js';
import type { Item, SubscribeOptions } from '../src/item.js';
import type { Handlers, Transport } from '../src/transport.js';
import { NONE } from '../src/websocket.js';

const PING = 25_000;

interface Line {
  transport: 'websocket' | 'sse';
  sent: ClientFrame[];
  buffered: number;
  isClosed: boolean;
  open(): void;
  welcome(more?: Partial<Welcome>): void;
  say(...frames: ServerFrame[]): void;
  close(code: number, reason?: string): void;
  /** The newest frame of this kind. */
  last<Op extends ClientFrame['op']>(op: Op): Extract<ClientFrame, { op: Op }>;
  count(op: ClientFrame['op']): number;
}

/** Lets promises and microtasks run. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

function start(t: TestContext, options: ClientOptions = {}, names: ('websocket' | 'sse')[] = ['websocket']) {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'], now: 1_000_000 });
  t.mock.method(Math, 'random', () => 0.5);
  const page = new EventTarget();
  Object.assign(globalThis, {
    addEventListener: page.addEventListener.bind(page),
    removeEventListener: page.removeEventListener.bind(page),
  });
  const lines: Line[] = [];
  const transports = names.map((name): Transport => ({
    name,
    open(_url, _codec, handlers) {
      const made = line(name, handlers);
      lines.push(made);
      return {
        send: (frames) => void made.sent.push(...frames.map((frame) => ({ ...frame }))),
        buffered: () => made.buffered,
        close: () => void (made.isClosed = true),
      };
    },
  }));
  const states: ClientEvents['state'][] = [];
  const errors: TidegateError[] = [];
  const client = new Client('ws://broker.example/ws', { transports, ...options });
  client.on('state', (event) => states.push(event));
  client.on('error', (error) => errors.push(error));
  t.after(() => {
    client.close();
    Reflect.deleteProperty(globalThis, 'addEventListener');
    Reflect.deleteProperty(globalThis, 'removeEventListener');
  });
  return {
    client,
    lines,
    states,
    errors,
    newest: () => lines.at(-1)!,
    async pass(ms: number) {
      await settled();
      t.mock.timers.tick(ms);
      await settled();
    },
    /** Something that happens to the page. */
    async event(type: string) {
      page.dispatchEvent(new Event(type));
      await settled();
    },
    /** The machine sleeps: no timer goes off meanwhile. */
    sleep(ms: number) {
      const now = Date.now() + ms;
      t.mock.timers.setTime(now);
    },
  };
}

function line(transport: 'websocket' | 'sse', handlers: Handlers): Line {
  const made: Line = {
    transport,
    sent: [],
    buffered: 0,
    isClosed: false,
    open: () => handlers.open(),
    say: (...frames) => handlers.frames(frames),
    close: (code, reason = '') => handlers.close(code, reason),
    welcome(more) {
      handlers.open();
      handlers.frames([
        {
          op: 'welcome',
          id: made.last('connect').id,
          connection: 'c1',
          limits: { payload_bytes: 65_536, message_bytes: 131_072, subscriptions: 100, limit: 1000, limit_bytes: 1 << 20 },
          publish_window: { messages: 4, bytes: 1000 },
          ping_ms: PING,
          reconnect_ms: [0, 5000],
          ...more,
        },
      ]);
    },
    last<Op extends ClientFrame['op']>(op: Op) {
      const frame = made.sent.filter((frame) => frame.op == op).at(-1);
      assert(frame, `no ${op} was sent`);
      return frame as Extract<ClientFrame, { op: Op }>;
    },
    count: (op) => made.sent.filter((frame) => frame.op == op).length,
  };
  return made;
}

const acked = (id: number, offset = 0): ServerFrame => ({
  op: 'ack', id, positions: [{ epoch: 'e', offset, live: offset }], overflow: 'catch_up', limit: 256, limit_bytes: 1000,
});
const message = (offset: number, sub?: number): ServerFrame => ({
  op: 'message', topic: 'a', offset, time: 0, kind: 'json', data: offset, ...(sub && { sub }),
});
/** Whether it was taken, whatever becomes of it. */
async function taken(ack: Promise<unknown> | false): Promise<boolean> {
  if (ack) ack.catch(() => {});
  return !!ack;
}

const codeOf = (promise: Promise<unknown>) => promise.then(() => 0, (error: TidegateError) => error.name);

describe('connecting', () => {
  it('comes back within 200 ms, then after longer and longer', async (t) => {
    const { lines, newest, states, pass } = start(t);
    await settled();
    newest().welcome();
    await pass(5000);
    const waits = [];
    for (let n = 0; n < 6; n++) {
      newest().close(1006);
      await settled();
      waits.push(states.at(-1)!.retry);
      assert.equal(lines.length, n + 1);
      await pass(states.at(-1)!.retry!);
      assert.equal(lines.length, n + 2);
    }
    assert.deepEqual(waits, [100, 200, 400, 800, 1600, 2500]);
    assert.deepEqual([states.at(-1)!.code, states.at(-1)!.reason], [1006, 'connection lost']);
  });

  for (const code of [4008, 4009]) {
    it(`does not come back at once where it was too slow: ${code}`, async (t) => {
      const { newest, states, pass } = start(t);
      await settled();
      newest().welcome({ reconnect_ms: [3000, 5000] });
      await pass(5000);
      newest().close(code, 'slow');
      await settled();
      assert.deepEqual([states.at(-1)!.code, states.at(-1)!.retry], [code, 3000]);
    });
  }

  it('ends for good where the broker says so, and settles everything', async (t) => {
    const { client, lines, newest, errors, states, pass } = start(t);
    const next = client.subscribe('a')[Symbol.asyncIterator]().next();
    await settled();
    newest().welcome();
    const publish = codeOf(client.publish('a', 1));
    await settled();
    const late = codeOf(client.publish('b', 1));
    newest().close(4503, 'closed by the operator');
    await settled();
    assert.equal(client.state, 'disconnected');
    assert.deepEqual([await publish, await late], ['outcome_unknown', 'disconnected']);
    await assert.rejects(next, { code: 4503, message: 'closed by the operator' });
    assert.deepEqual(errors.map(({ code }) => code), [4503]);
    assert.deepEqual([states.at(-1)!.code, states.at(-1)!.retry], [4503, undefined]);
    await pass(60_000);
    assert.equal(lines.length, 1);

    client.connect();
    await settled();
    newest().welcome();
    assert.equal(client.state, 'connected');
  });

  it('gives up an attempt that hangs, in either half', async (t) => {
    const { lines, pass } = start(t);
    await pass(4999);
    assert.equal(lines.length, 1);
    await pass(1);
    assert(lines[0]!.isClosed);
    await pass(100);
    lines[1]!.open();
    await pass(5000);
    assert(lines[1]!.isClosed);
    await pass(200);
    assert.equal(lines.length, 3);
  });

  it('leaves a broker that drains once every publish is acked, and comes back after its own delay', async (t) => {
    const { client, lines, newest, states, pass } = start(t);
    await settled();
    newest().welcome();
    const first = client.publish('a', 1);
    await settled();
    let told: unknown;
    client.on('drain', (event) => (told = event));
    newest().say({ op: 'drain', reconnect_ms: 1730 });
    const second = client.publish('a', 2);
    await settled();
    assert.deepEqual(told, { retry: 1730 });
    assert(!newest().isClosed);
    assert.equal(newest().count('publish'), 1);
    newest().say({ op: 'ack', id: newest().last('publish').id!, epoch: 'e', offset: 1 });
    assert.equal((await first).offset, 1);
    await settled();
    assert(lines[0]!.isClosed);
    assert.deepEqual([states.at(-1)!.code, states.at(-1)!.retry], [4000, 1730]);
    await pass(1729);
    assert.equal(lines.length, 1);
    await pass(1);
    newest().welcome();
    await settled();
    newest().say({ op: 'ack', id: newest().last('publish').id!, epoch: 'e', offset: 2 });
    assert.equal((await second).offset, 2);
  });
});

describe('a token', () => {
  it('is fetched for each connection', async (t) => {
    let fetched = 0;
    const { newest, pass, states } = start(t, { token: async () => `t${++fetched}` });
    await settled();
    newest().welcome();
    assert.equal(newest().last('connect').token, 't1');
    newest().close(1006);
    await pass(states.at(-1)?.retry ?? 200);
    await pass(200);
    newest().open();
    assert.equal(newest().last('connect').token, 't2');
  });

  const refused = (line: Line) =>
    line.say({ op: 'error', id: line.last('connect').id, code: 1102, name: 'token_expired', message: '', retry: false });

  it('that is refused is fetched again', async (t) => {
    let fetched = 0;
    const { client, newest, pass } = start(t, { token: () => `t${++fetched}` });
    await settled();
    newest().open();
    refused(newest());
    await pass(200);
    assert.equal(client.state, 'connecting');
    newest().welcome();
    assert.equal(newest().last('connect').token, 't2');
  });

  it('that is refused ends it where there is no other', async (t) => {
    const { client, newest, errors } = start(t, { token: 'old' });
    await settled();
    newest().open();
    refused(newest());
    await settled();
    assert.equal(client.state, 'disconnected');
    assert.deepEqual(errors.map(({ code }) => code), [1102]);
  });

  it('that cannot be fetched is asked for again', async (t) => {
    let fetched = 0;
    const { lines, pass } = start(t, {
      token: () => (fetched++ ? 'good' : Promise.reject(new Error('no network'))),
    });
    await settled();
    assert.equal(lines.length, 0);
    await pass(100);
    assert.equal(lines.length, 1);
  });

  it('is renewed in place', async (t) => {
    const { client, newest } = start(t, { token: 'old' });
    await settled();
    newest().welcome();
    const renewed = client.refresh('new');
    await settled();
    const { id, token } = newest().last('refresh');
    assert.equal(token, 'new');
    newest().say({ op: 'ack', id });
    await renewed;
  });
});

describe('where no WebSocket gets through', () => {
  const both = ['websocket', 'sse'] as ('websocket' | 'sse')[];

  for (const fail of ['is none', 'is refused', 'hangs']) {
    it(`falls back at once where one ${fail}`, async (t) => {
      const { client, lines, newest, pass } = start(t, {}, both);
      await settled();
      if (fail == 'hangs') await pass(5000);
      else newest().close(fail == 'is none' ? NONE : 1006);
      await settled();
      assert.deepEqual(lines.map(({ transport }) => transport), ['websocket', 'sse']);
      await pass(1000);
      newest().welcome();
      await settled();
      assert.deepEqual([client.transport, client.state], ['sse', 'connected']);
    });
  }

  it('trusts one that got through before for longer, and tries it again after a while', async (t) => {
    const { lines, newest, pass } = start(t, {}, both);
    await settled();
    newest().welcome();
    await pass(2000);
    for (let n = 0; n < 4; n++) {
      newest().close(1006);
      await pass(n < 3 ? 1000 : 0);
    }
    assert.deepEqual(lines.map(({ transport }) => transport), ['websocket', 'websocket', 'websocket', 'websocket', 'sse']);
    newest().welcome();
    await pass(2000);
    newest().close(1006);
    await pass(200);
    assert.equal(newest().transport, 'sse');
    newest().welcome();
    await pass(60_000);
    newest().close(1006);
    await pass(200);
    assert.equal(newest().transport, 'websocket');
    newest().close(1006);
    await settled();
    assert.equal(newest().transport, 'sse');
  });

  for (const [heard, name] of [[true, 'buffered'], [false, undefined]] as const) {
    it(`names what is in the way of the fallback where its stream ${heard ? 'begins and' : ''} brings no event`, async (t) => {
      const { errors, states, newest, pass } = start(t, {}, both);
      await settled();
      newest().close(NONE);
      await pass(4000);
      assert.equal(newest().transport, 'sse');
      if (heard) newest().say();
      await pass(1000);
      assert.equal(states.at(-1)!.reason, 'sse timeout');
      assert.equal(errors[0]?.name, name);
    });
  }

  it('goes round where nothing gets through', async (t) => {
    const { lines, newest, pass } = start(t, {}, both);
    for (let n = 0; n < 6; n++) {
      await pass(3000);
      newest().close(1006);
    }
    assert.deepEqual(new Set(lines.map(({ transport }) => transport)), new Set(both));
  });
});

it('is a Client, and so is one of a class that extends it', (t) => {
  const { client } = start(t);
  assert(client instanceof Client);
  class Chat extends Client {
    say(text: string): Promise<unknown> {
      return this.publish('chat', text);
    }
  }
  const chat = new Chat('ws://broker.example/ws', { transports: [] });
  t.after(() => chat.close());
  assert(chat instanceof Chat && chat instanceof Client);
  const said = chat.say('hi');
  chat.close();
  return assert.rejects(said, { name: 'closed' });
});

describe('liveness', () => {
  it('asks for a sign of life, and gives up a line that gives none', async (t) => {
    const { client, newest, states, pass } = start(t);
    await settled();
    newest().welcome();
    await pass(PING + 4999);
    assert.equal(newest().count('ping'), 0);
    await pass(1);
    assert.equal(newest().count('ping'), 1);
    newest().say({ op: 'pong', id: newest().last('ping').id });
    await pass(PING + 5000);
    assert.equal(newest().count('ping'), 2);
    await pass(5000);
    assert.deepEqual([client.state, states.at(-1)!.reason], ['connecting', 'silence']);
  });

  it('blames nobody for a sleep: it asks, and waits afresh', async (t) => {
    const { client, lines, newest, pass, sleep } = start(t);
    await settled();
    newest().welcome();
    await pass(1000);
    sleep(600_000);
    await pass(1);
    assert.deepEqual([client.state, newest().count('ping')], ['connected', 1]);
    newest().say({ op: 'pong', id: newest().last('ping').id });
    await pass(10_000);
    assert.equal(client.state, 'connected');
    // Asleep again while the answer is waited for.
    await pass(PING + 5000);
    sleep(600_000);
    await pass(1);
    assert.deepEqual([client.state, lines.length], ['connected', 1]);
    await pass(5000);
    assert.equal(client.state, 'connecting');
  });

  it('looks when the page is back, and connects at once when the network is', async (t) => {
    const { client, lines, newest, pass, event } = start(t);
    Object.assign(globalThis, { document: { hidden: false } });
    t.after(() => Reflect.deleteProperty(globalThis, 'document'));
    await settled();
    newest().welcome();
    await event('visibilitychange');
    assert.equal(newest().count('ping'), 1);
    await pass(5000);
    assert.equal(client.state, 'connecting');
    await pass(100);
    for (let n = 0; n < 6; n++) {
      newest().close(1006);
      await pass(3000);
    }
    newest().close(1006);
    await settled();
    const { length } = lines;
    await event('offline');
    await pass(0);
    assert.equal(lines.length, length);
    await event('online');
    await pass(0);
    assert.equal(lines.length, length + 1);
  });

  it('lets go of the line when the page is left, and comes back with it', async (t) => {
    const { client, lines, newest, pass, event } = start(t);
    await settled();
    newest().welcome();
    await event('pagehide');
    assert(lines[0]!.isClosed);
    await pass(600_000);
    assert.equal(lines.length, 1);
    await event('pageshow');
    await pass(0);
    assert.equal(lines.length, 2);
    newest().welcome();
    assert.equal(client.state, 'connected');

    newest().close(4503);
    await settled();
    await event('pagehide');
    await event('pageshow');
    await pass(0);
    assert.deepEqual([client.state, lines.length], ['disconnected', 2]);
  });
});

describe('publishes', () => {
  it('wait for a connection, and for room in the window', async (t) => {
    const { client, newest } = start(t);
    const acks = [1, 2, 3, 4, 5, 6].map((n) => client.publish('a', n));
    for (const ack of acks) ack.catch(() => {});
    await settled();
    newest().welcome();
    await settled();
    assert.equal(newest().count('publish'), 4);
    const [first] = newest().sent.filter(({ op }) => op == 'publish') as { id: number }[];
    newest().say({ op: 'ack', id: first!.id, epoch: 'e', offset: 1 });
    assert.equal((await acks[0]!).offset, 1);
    await settled();
    assert.equal(newest().count('publish'), 5);
  });

  it('say when the window is full', async (t) => {
    const { client, newest } = start(t);
    await settled();
    newest().welcome();
    for (let n = 0; n < 4; n++) assert(await taken(client.tryPublish('a', n)));
    assert.equal(client.tryPublish('a', 5), false);
    await settled();
    newest().say({ op: 'ack', id: newest().last('publish').id!, live_only: true });
    assert(await taken(client.tryPublish('a', 5)));
  });

  it('that nobody takes are bounded', async (t) => {
    const { client } = start(t);
    const acks = Array.from({ length: 16_385 }, () => codeOf(client.publish('a', 1)));
    assert.equal(await acks.at(-1), 'queue_full');
    client.close();
    assert.equal(await acks[0], 'closed');
  });

  it('are handed to a network that takes them', async (t) => {
    const { client, newest, pass } = start(t);
    await settled();
    newest().welcome();
    newest().buffered = 65_536;
    const ack = client.publish('a', 1);
    await pass(100);
    assert.equal(newest().count('publish'), 0);
    newest().buffered = 0;
    await pass(20);
    newest().say({ op: 'ack', id: newest().last('publish').id!, live_only: true });
    assert.deepEqual(await ack, { duplicate: false });
  });

  it('go again under the same key until the broker may have forgotten it', async (t) => {
    const { client, newest, pass, states } = start(t);
    await settled();
    newest().welcome();
    const kept = codeOf(client.publish('a', 1));
    await settled();
    const { idempotency } = newest().last('publish');
    await pass(1500);
    newest().close(1006);
    await pass(100);
    newest().welcome();
    await settled();
    assert.equal(newest().last('publish').idempotency, idempotency);
    newest().close(1006);
    await pass(109_000);
    for (let n = 0; states.at(-1)!.state == 'connecting' && n < 100; n++) {
      newest().close(1006);
      await pass(2500);
      if ((await Promise.race([kept, 'pending'])) != 'pending') break;
    }
    assert.equal(await kept, 'outcome_unknown');
  });

  it('without a key are sent once', async (t) => {
    const { client, newest, pass } = start(t);
    await settled();
    newest().welcome();
    const sent = codeOf(client.publish('a', 1, { idempotency: false }));
    await pass(1500);
    newest().close(1006);
    assert.equal(await sent, 'outcome_unknown');
    const waits = codeOf(client.publish('a', 2, { idempotency: false }));
    await pass(100);
    newest().welcome();
    await settled();
    newest().say({ op: 'ack', id: newest().last('publish').id!, live_only: true });
    assert.equal(await waits, 0);
  });
});

describe('subscriptions', () => {
  async function subscribed(t: TestContext, options: SubscribeOptions = {}) {
    const played = start(t);
    const subscription = played.client.subscribe('a', options);
    const items = subscription[Symbol.asyncIterator]();
    await settled();
    played.newest().welcome();
    await settled();
    const { id } = played.newest().last('subscribe');
    played.newest().say(acked(id));
    await settled();
    return { ...played, subscription, items, id };
  }

  it('are asked for before anything is published behind them', async (t) => {
    const { client, newest } = start(t);
    void client.publish('b', 0).catch(() => {});
    client.subscribe('a', () => {});
    void client.publish('a', 1).catch(() => {});
    await settled();
    newest().welcome();
    assert.deepEqual(newest().sent.map(({ op }) => op), ['connect', 'subscribe', 'publish', 'publish']);
  });

  it('ask for more as items are taken', async (t) => {
    const { newest, items, id } = await subscribed(t, { credit: 4 });
    newest().say(message(1), message(2), message(3), message(4));
    await settled();
    assert.equal(newest().count('credit'), 0);
    await items.next();
    await items.next();
    await settled();
    assert.deepEqual(newest().last('credit'), { op: 'credit', sub: id, add: 2 });
  });

  it('give callbacks what comes, and ask for more by themselves', async (t) => {
    const { client, newest } = start(t);
    const heard: unknown[] = [];
    client.subscribe('a', { credit: 2 }, (item) => {
      heard.push(item.data);
      if (item.data == 1) throw new Error('of a listener');
    });
    await settled();
    newest().welcome();
    await settled();
    newest().say(acked(newest().last('subscribe').id), message(1), message(2));
    await settled();
    assert.deepEqual(heard, [1, 2]);
    assert.equal(newest().last('credit').add, 2);
    assert.throws(() => t.mock.timers.tick(0), /of a listener/);
  });

  it('that nobody reads are not asked for again for ever', async (t) => {
    const { lines, newest, pass, items } = await subscribed(t);
    for (let n = 0; n < 100; n++) {
      await pass(2000);
      newest().close(1006);
      await pass(100);
      newest().welcome();
      await settled();
      if (!newest().count('subscribe')) break;
      newest().say(acked(newest().last('subscribe').id));
    }
    assert(lines.length < 80);
    assert.equal(newest().count('subscribe'), 0);
    assert.equal((await items.next()).value?.type, 'resumed');
    await settled();
    assert.equal(newest().count('subscribe'), 1);
  });

  it('are told where books differ, and read on from their own position', async (t) => {
    const { client, newest, items, id } = await subscribed(t);
    let told: unknown;
    client.on('books', (event) => (told = event));
    newest().say(message(1), message(3));
    newest().say({ op: 'mark', positions: [{ epoch: 'e', offset: 4 }], subs: [{ sub: id, messages: 4, gapped: 0 }] });
    await settled();
    assert.deepEqual(told, { filter: 'a', told: 4, had: 2 });
    assert.deepEqual(newest().sent.slice(-2).map(({ op }) => op), ['unsubscribe', 'subscribe']);
    const again = newest().last('subscribe');
    assert.deepEqual(again.from, [{ stream: undefined, epoch: 'e', offset: 3 }]);
    // The one at the end is mended, the one in the middle is not.
    newest().say(acked(again.id, 3), message(4, again.id));
    const taken: Item[] = [];
    for (let n = 0; n < 4; n++) taken.push((await items.next()).value!);
    assert.deepEqual(taken.map((item) => (item.type == 'gap' ? [item.reason, item.count] : item.type == 'message' && item.offset)), [
      1, 3, ['books', 1], 4,
    ]);
  });

  it('are told a gap beyond the mark before the doubt about what it may have told', async (t) => {
    const { newest, items, id } = await subscribed(t);
    newest().say(message(1));
    newest().say({ op: 'mark', positions: [{ epoch: 'e', offset: 2 }], subs: [{ sub: id, messages: 2, gapped: 0 }] });
    await settled();
    const again = newest().last('subscribe').id;
    // 2 was written and never came; the log has let go of it since, and of what followed it.
    const gone = { op: 'gap', sub: again, reason: 'evicted', policy: 'catch_up', count: 4, from: 2, to: 5 } as const;
    newest().say(acked(again, 1), gone);
    const taken: Item[] = [];
    for (let n = 0; n < 3; n++) taken.push((await items.next()).value!);
    assert.deepEqual(taken.map((item) => (item.type == 'gap' ? [item.reason, item.count, item.atMost] : item.type)), [
      'message', ['evicted', 4, undefined], ['books', undefined, 1],
    ]);
  });

  it('are asked for again where the broker has no room for the moment', async (t) => {
    const { client, newest, pass } = start(t);
    const subscription = client.subscribe('a');
    const errors: number[] = [];
    subscription.on('error', ({ code }) => errors.push(code));
    await settled();
    newest().welcome();
    await settled();
    const { id } = newest().last('subscribe');
    newest().say({ op: 'error', id, code: 1400, name: 'over_budget', message: '', retry: true });
    await settled();
    assert.deepEqual([errors, subscription.state], [[1400], 'subscribing']);
    await pass(2750);
    assert.equal(newest().count('subscribe'), 2);
    newest().say(acked(newest().last('subscribe').id));
    await settled();
    assert.equal(subscription.state, 'subscribed');
  });

  it('say on the console what nobody listens for', async (t) => {
    const played = start(t);
    const warned = t.mock.method(console, 'error', () => {});
    const quiet = new Client('ws://broker.example/ws', {
      transports: [{ name: 'websocket', open: () => ({ send() {}, buffered: () => 0, close() {} }) }],
    });
    quiet.close();
    quiet.subscribe('a', () => {});
    await settled();
    assert.equal(warned.mock.callCount(), 1);
    played.client.close();
  });

  it('that were never started end without a word to the broker', async (t) => {
    const { client, newest } = start(t);
    const subscription = client.subscribe('a', () => {});
    await subscription.unsubscribe();
    await settled();
    newest().welcome();
    await settled();
    assert.deepEqual(newest().sent.map(({ op }) => op), ['connect']);
  });

  it('have a gap without a number where what they missed is in no stream', async (t) => {
    const { newest, items, pass, subscription } = await subscribed(t);
    await pass(2000);
    newest().close(1006);
    await settled();
    assert.equal(subscription.state, 'subscribing');
    await pass(100);
    newest().welcome();
    await settled();
    newest().say({ ...acked(newest().last('subscribe').id), live_only: true } as ServerFrame);
    const taken = [(await items.next()).value!, (await items.next()).value!];
    assert.deepEqual(taken.map((item) => (item.type == 'gap' ? item.reason : item.type)), ['resumed', 'away']);
  });
});
