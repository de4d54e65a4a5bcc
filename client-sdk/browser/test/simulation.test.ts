/**
 * The session against a model of the broker, under a seeded schedule of cuts, lost deliveries, marks, evictions,
 * restarts and slow readers.
 *
 * The model is the dullest broker that can be right: an array for the log, a linear scan for everything. What each
 * reader saw is held against the log afterwards: everything once, in order, or told by gaps whose counts add up.
 * `SEED` repeats one run, `SEEDS` says how many there are.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { matches } from '../src/filter.js';
import type * as wire from '../src/frame.js';
import type { Item } from '../src/item.js';
import { createSession, type Session } from '../src/session.js';
import { createSubscriber, type Subscriber } from '../src/session/subscriber.js';

const TOPICS = ['a.x', 'a.y', 'b.x', 'b.y'];
const FILTERS = ['a.x', 'a.*', '>', '*.x', 'b.y'];
const STEPS = 400;

test('everything comes once and in order, or is told', async () => {
  const { SEED: seed, SEEDS: seeds } = process.env;
  const first = Number(seed ?? 0);
  const count = seed === undefined ? Number(seeds ?? 300) : 1;
  const met: Met = { cuts: 0, losses: 0, repairs: 0, resets: 0, resumed: 0, evicted: 0, resent: 0, amidLast: 0, pushed: 0 };
  for (let seed = first; seed < first + count; seed++) {
    try {
      await new Simulation(seed).run(met);
    } catch (error) {
      console.error(`SEED=${seed}`);
      throw error;
    }
  }
  console.log(met);
  if (seed === undefined) {
    for (const [hazard, count] of Object.entries(met)) assert(count > 0, `the schedule meets every hazard: ${hazard}`);
  }
});

/** How often the runs met what they are about. */
interface Met {
  cuts: number;
  losses: number;
  repairs: number;
  resets: number;
  resumed: number;
  evicted: number;
  resent: number;
  amidLast: number;
  pushed: number;
}

/** Evenly drawn numbers that a seed repeats (mulberry32). */
function generator(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Logged {
  topic: string;
  offset: number;
}

interface ModelSub {
  id: number;
  filter: string;
  /** The newest of each topic, to be sent first. */
  first: number[];
  offset: number;
  credit: number;
  behind: boolean;
  messages: number;
  gapped: number;
  traffic: boolean;
}

/** What a subscription was promised when it first started. */
interface Start {
  epoch: string;
  offsets: number[];
  after: number;
}

class Broker {
  epoch = '1';
  /** Offset `n` is at `n - 1`; nothing is ever taken out, `evicted` says up to where the log has forgotten. */
  log: Logged[] = [];
  evicted = 0;
  /** The last offset that was fanned out. */
  cursor = 0;
  keys = new Map<string, number>();
  resent = 0;
  subs: ModelSub[] = [];
  out: wire.ServerFrame[] = [];
  /** By `limit`, which the tests use as a name. */
  starts = new Map<number, Start>();
  lastId = 0;

  append(topic: string): number {
    const offset = this.log.length + 1;
    this.log.push({ topic, offset });
    return offset;
  }

  matching(filter: string, from: number, to: number): number[] {
    return this.log.slice(from - 1, to).filter(({ topic }) => matches(filter, topic)).map(({ offset }) => offset);
  }

  onFrame(frame: wire.ClientFrame): void {
    if ('id' in frame) {
      assert(frame.id! > this.lastId, 'ids only grow');
      this.lastId = frame.id!;
    }
    switch (frame.op) {
      case 'connect':
        this.out.push({
          op: 'welcome',
          id: frame.id,
          connection: 'c',
          limits: { payload_bytes: 65_536, message_bytes: 131_072, subscriptions: 100, limit: 1000, limit_bytes: 1 << 20 },
          publish_window: { messages: 8, bytes: 1000 },
          ping_ms: 25_000,
          reconnect_ms: [0, 5000],
        });
        break;
      case 'subscribe':
        this.onSubscribe(frame);
        break;
      case 'unsubscribe':
        this.subs = this.subs.filter(({ id }) => id != frame.sub);
        this.out.push({ op: 'ack', id: frame.id });
        break;
      case 'publish': {
        const known = this.keys.get(frame.idempotency!);
        const offset = known ?? this.append(frame.topic);
        this.resent += known === undefined ? 0 : 1;
        this.keys.set(frame.idempotency!, offset);
        this.out.push({ op: 'ack', id: frame.id!, epoch: this.epoch, offset, ...(known !== undefined && { duplicate: true }) });
        break;
      }
      case 'credit': {
        const sub = this.subs.find(({ id }) => id == frame.sub);
        if (sub) sub.credit += frame.add;
        break;
      }
      default:
        assert.fail(`the client has no reason to say ${JSON.stringify(frame)}`);
    }
  }

  onSubscribe({ id, filter, from, credit, limit }: wire.Subscribe): void {
    const head = this.cursor;
    let unknown = false;
    let first: number[] = [];
    let offset = head;
    if (from == 'beginning') offset = Math.min(this.evicted, head);
    else if (Array.isArray(from)) {
      const [held] = from as wire.Position[];
      unknown = held!.epoch != this.epoch || held!.offset > this.log.length;
      offset = unknown ? Math.min(this.evicted, head) : held!.offset;
    } else if (typeof from == 'object' && 'last' in from) {
      const [at] = (from.at ?? []) as wire.Position[];
      unknown = !!at && at.epoch != this.epoch;
      offset = at && !unknown ? at.offset : head;
      for (const topic of TOPICS) {
        const of = this.matching(filter, 1, offset).filter((offset) => this.log[offset - 1]!.topic == topic);
        first.push(...of.slice(-from.last));
      }
      first.sort((a, b) => a - b);
    }
    const start = first.length ? first[0]! - 1 : offset;
    if (!this.starts.has(limit!)) this.starts.set(limit!, { epoch: this.epoch, offsets: [...first], after: offset });
    this.out.push({
      op: 'ack',
      id,
      positions: [{ epoch: this.epoch, offset: start, live: Math.max(offset, head) }],
      overflow: 'catch_up',
      limit: limit!,
      limit_bytes: 1,
    });
    if (unknown) this.out.push({ op: 'gap', sub: id, reason: 'epoch', policy: 'catch_up' });
    const behind = first.length > 0 || offset < head;
    this.subs.push({ id, behind, filter, first, offset, credit: credit!, messages: 0, gapped: 0, traffic: false });
  }

  /** Hands the next message to everybody who takes it and is level. */
  fanOut(): boolean {
    const message = this.log[this.cursor];
    if (!message) return false;
    const { offset } = message;
    this.cursor = offset;
    const matching = this.subs.filter(({ filter }) => matches(filter, message.topic));
    const shared = matching.every((sub) => sub.offset < offset && !sub.behind && sub.credit > 0);
    let written = false;
    for (const sub of matching.filter((sub) => sub.offset < offset)) {
      if (sub.behind || !sub.credit) {
        sub.behind = true;
        continue;
      }
      this.write(sub, offset, shared ? undefined : sub.id, written);
      written = shared;
    }
    return true;
  }

  write(sub: ModelSub, offset: number, to: number | undefined, quiet = false): void {
    sub.offset = offset;
    sub.messages++;
    sub.credit--;
    sub.traffic = true;
    const { topic } = this.log[offset - 1]!;
    const message = { op: 'message', topic, offset, time: 0, kind: 'json', data: offset } as const;
    if (!quiet) this.out.push({ ...message, ...(to !== undefined && { sub: to }) });
  }

  /** Lets everybody who is behind read on as far as credit goes. */
  catchUp(): void {
    for (const sub of this.subs) {
      while (sub.behind) {
        if (sub.offset < this.evicted && !sub.first.length) {
          const from = sub.offset + 1;
          const to = this.evicted;
          const count = this.matching(sub.filter, from, to).length;
          sub.offset = to;
          if (count) {
            sub.gapped += count;
            sub.traffic = true;
            this.out.push({ op: 'gap', sub: sub.id, count, from, to, reason: 'evicted', policy: 'catch_up' });
          }
          continue;
        }
        const [first] = sub.first;
        const next = first ?? this.matching(sub.filter, sub.offset + 1, this.cursor)[0];
        if (next === undefined) {
          sub.offset = Math.max(sub.offset, this.cursor);
          sub.behind = false;
        } else if (!sub.credit) {
          break;
        } else {
          const after = sub.offset;
          this.write(sub, next, sub.id);
          if (first !== undefined) {
            sub.first.shift();
            sub.offset = after;
          }
        }
      }
    }
  }

  mark(): void {
    const listed = this.subs.filter((sub) => sub.traffic || sub.behind);
    this.out.push({
      op: 'mark',
      positions: [{ epoch: this.epoch, offset: this.cursor }],
      subs: listed.map(({ id, messages, gapped, behind }) => ({ sub: id, messages, gapped, ...(behind && { behind }) })),
    });
    for (const sub of listed) sub.traffic = false;
  }

  restart(): void {
    this.epoch = String(Number(this.epoch) + 1);
    this.log = [];
    this.keys.clear();
    this.evicted = this.cursor = 0;
  }
}

class Reader {
  readonly items: Item[] = [];
  readonly subscriber: Subscriber;

  constructor(
    readonly name: number,
    filter: string,
    from: wire.From,
    credit: number,
    pushes: boolean,
  ) {
    this.subscriber = createSubscriber(filter, { from, limit: name }, credit, pushes);
    this.subscriber.readers.add({ onItem: (item) => void (item && this.items.push(item)), onState() {} });
  }

  readAll(): void {
    for (;;) {
      const [before] = this.subscriber.read;
      const item = this.subscriber.take();
      if (!item) break;
      // Where the reader is, nothing that it has not taken is left behind.
      const here = item.type == 'message' && item.position;
      if (here && before?.epoch == here.epoch) assert(before.offset < here.offset);
      this.items.push(item);
    }
  }

  /** Holds what it saw of the last incarnation against the log. */
  check(broker: Broker, met: Met): void {
    const { filter } = this.subscriber;
    const types = this.items.map(({ type }) => type);
    const reset = types.lastIndexOf('reset');
    met.resets += reset >= 0 ? 1 : 0;
    const start = broker.starts.get(this.name)!;
    const offsets: number[] = [];
    let counted = 0;
    let bounded = 0;
    let unknown = false;
    for (const item of this.items.slice(reset + 1)) {
      if (item.type == 'message') {
        assert(matches(filter, item.topic));
        assert.deepEqual(item.position, { stream: undefined, epoch: broker.epoch, offset: item.offset });
        offsets.push(item.offset!);
      } else if (item.type == 'gap') {
        met.evicted += item.reason == 'evicted' ? 1 : 0;
        counted += item.count ?? 0;
        bounded += item.atMost ?? 0;
        unknown ||= item.count === undefined && item.atMost === undefined;
      } else {
        met.resumed++;
      }
    }
    const sorted = [...new Set(offsets)].sort((a, b) => a - b);
    assert.deepEqual(offsets, sorted, 'in order, and none twice');
    assert(broker.epoch == start.epoch || reset >= 0, 'a new incarnation of the log is always told');
    // What the new log had evicted before the reader came is not counted by anybody.
    if (unknown) return;
    const promised =
      reset >= 0
        ? broker.matching(filter, 1, broker.cursor)
        : [...start.offsets, ...broker.matching(filter, start.after + 1, broker.cursor)];
    for (const offset of offsets) assert(promised.includes(offset));
    const missing = promised.length - offsets.length;
    assert(
      counted <= missing && missing <= counted + bounded,
      `${filter}: ${missing} are missing, ${counted} were counted and ${bounded} bounded of ${promised}: ${brief(this.items)}`,
    );
    // Where the reader is, another one would go on without a loss or a double.
    const [read] = this.subscriber.read;
    assert.equal(read!.epoch, broker.epoch);
    assert.deepEqual(broker.matching(filter, read!.offset + 1, broker.cursor), []);
    assert(read!.offset >= (offsets.at(-1) ?? 0));
  }
}

class Simulation {
  readonly #random: () => number;
  readonly #session: Session;
  readonly #broker = new Broker();
  #now = 1_000_000;
  #isUp = false;
  /** Written by the broker, not yet read by the client. */
  #downLine: wire.ServerFrame[] = [];
  #readers: Reader[] = [];
  #publishes: Promise<wire.Ack>[] = [];
  /** A frame was lost and no mark has told: a cut now would make it a loss that no book shows. */
  #hasUnmarkedLoss = false;
  #repairs = 0;

  constructor(seed: number) {
    this.#random = generator(seed);
    this.#session = createSession(
      { identity: { client: undefined, instance: 'i' }, connectTimeout: 10_000, measure: () => 0, canRefresh: false },
      (name, event) => {
        assert.notEqual(name, 'error', String(event));
        this.#repairs += name == 'books' ? 1 : 0;
      },
      this.#random,
    );
    this.#session.start();
  }

  async run(met: Met): Promise<void> {
    this.#connect();
    this.#settle();
    for (let step = 0; step < STEPS; step++) this.#step(met);
    this.#finish();
    await this.#check(met);
  }

  #below(n: number): number {
    return Math.floor(this.#random() * n);
  }

  #pick<T>(from: readonly T[]): T {
    return from[this.#below(from.length)]!;
  }

  #step(met: Met): void {
    this.#now += this.#below(20);
    const broker = this.#broker;
    const dice = this.#below(100);
    if (dice < 3 && this.#readers.length < 6) this.#subscribe();
    else if (dice < 25) broker.append(this.#pick(TOPICS));
    else if (dice < 35) this.#publish();
    else if (dice < 50) broker.fanOut();
    else if (dice < 58) broker.catchUp();
    else if (dice < 62 && this.#isUp) broker.mark();
    else if (dice < 64) broker.evicted = Math.max(broker.evicted, broker.cursor - this.#below(10));
    else if (dice < 66 && this.#isUp && !this.#hasUnmarkedLoss) {
      met.cuts++;
      met.amidLast += broker.subs.some(({ first }) => first.length) ? 1 : 0;
      this.#cut();
      if (!this.#below(8)) broker.restart();
    } else if (dice < 72 && !this.#isUp) this.#connect();
    else if (dice < 74) this.#lose(met);
    else if (dice < 85) this.#read();
    else this.#moveFrames();
  }

  #subscribe(): void {
    const from = this.#pick<wire.From>(['live', 'beginning', { last: 1 + this.#below(4) }]);
    const reader = new Reader(this.#readers.length, this.#pick(FILTERS), from, 1 + this.#below(7), this.#below(4) == 0);
    this.#session.subscribe(reader.subscriber);
    this.#readers.push(reader);
  }

  #publish(): void {
    const { length } = this.#publishes;
    const frame = { op: 'publish', topic: this.#pick(TOPICS), idempotency: `k${length}`, kind: 'json', data: '1' } as const;
    const ack = this.#session.publish({ ...frame }, 1);
    this.#publishes.push(ack);
  }

  #connect(): void {
    this.#isUp = true;
    this.#broker.lastId = 0;
    this.#session.onOpen(this.#now, undefined);
  }

  #cut(): void {
    // Some of what the client has to say got through, and the answers to it did not.
    if (this.#below(2)) this.#clientToBroker();
    this.#isUp = false;
    this.#downLine = [];
    this.#broker.out = [];
    this.#broker.subs = [];
    assert(this.#session.onClosed(1006, '', this.#now)! >= 0);
    // What was promised to a reader that never heard of it is promised anew.
    for (const { subscriber, name } of this.#readers) if (subscriber.isNew) this.#broker.starts.delete(name);
  }

  /** One delivery of those on their way vanishes. */
  #lose(met: Met): void {
    this.#fromBroker();
    const ops = this.#downLine.map(({ op }) => op);
    const at = this.#below(2) ? ops.indexOf('message') : ops.lastIndexOf('message');
    if (at < 0) return;
    this.#downLine.splice(at, 1);
    met.losses++;
    this.#hasUnmarkedLoss = true;
    this.#broker.mark();
  }

  #read(): void {
    const reader = this.#readers[this.#below(this.#readers.length)];
    if (!reader) return;
    reader.readAll();
    this.#session.attend(reader.subscriber);
  }

  #clientToBroker(): void {
    for (let frame; (frame = this.#session.next(this.#now)); ) this.#broker.onFrame(JSON.parse(JSON.stringify(frame)));
  }

  #fromBroker(): void {
    this.#downLine.push(...this.#broker.out.splice(0));
  }

  #moveFrames(): void {
    if (!this.#isUp) return;
    this.#clientToBroker();
    this.#fromBroker();
    for (let n = 1 + this.#below(19); n--; ) {
      const frame = this.#downLine.shift();
      if (!frame) break;
      this.#session.onHeard(this.#now);
      this.#session.onFrame(JSON.parse(JSON.stringify(frame)));
      if (frame.op == 'mark' && !this.#downLine.some(({ op }) => op == 'mark')) this.#hasUnmarkedLoss = false;
    }
    assert.equal(this.#session.ending, undefined, 'no reason to hang up');
    this.#session.deliver();
  }

  #settle(): void {
    do this.#moveFrames();
    while (this.#downLine.length || this.#broker.out.length);
  }

  /** No more faults: everybody gets level. */
  #finish(): void {
    if (!this.#isUp) this.#connect();
    for (let round = 0; round < 200; round++) {
      this.#settle();
      while (this.#broker.fanOut());
      this.#broker.catchUp();
      this.#broker.mark();
      this.#settle();
      for (const reader of this.#readers) {
        reader.readAll();
        this.#session.attend(reader.subscriber);
      }
    }
  }

  async #check(met: Met): Promise<void> {
    met.repairs += this.#repairs;
    met.resent += this.#broker.resent;
    for (const reader of this.#readers) {
      met.pushed += reader.subscriber.pushes ? 1 : 0;
      reader.check(this.#broker, met);
    }
    let last = 0;
    for (const ack of await Promise.all(this.#publishes)) {
      const here = Number(ack.epoch) * 1e9 + ack.offset!;
      assert(here > last, `publishes stand in the order they were made: ${here} behind ${last}`);
      last = here;
    }
  }
}

function brief(items: Item[]): string {
  const words = items.map((item) => {
    if (item.type == 'message') return item.offset;
    if (item.type == 'gap') return `${item.reason} ${item.count}/${item.atMost}`;
    return item.type;
  });
  return words.join(', ');
}
