/** One wire subscription's rules: where it is, what it has, how much it may be sent, how it comes back. */

import type { TidegateError } from '../error.js';
import type { Ack, From, Gap, GapReason, Mark, Message, Overflow, Position, Subscribe } from '../frame.js';
import type { GapItem, Item, MessageItem, SubscribeOptions } from '../item.js';
import { type Books, Repair, shortfall } from './books.js';

/** One place in a subscription's flow. */
interface Entry {
  item: Item;
  /** Where the reader is once it has taken this. */
  at: Position[];
}

interface StreamState extends Position {
  /** The last of the newest of each topic, where it started with those: until there it is amid them. */
  live: number;
}

/** What its next ack means to the reader. */
type Cause = 'first' | 'reconnect' | 'repair';

/**
 * `subscribing`: asked for, or about to be, the first time or again. `subscribed`: the broker has said so on this
 * connection. `unsubscribed`: over, by `unsubscribe()`, by the broker or because the client was closed.
 */
export type SubscriptionState = 'subscribing' | 'subscribed' | 'unsubscribed';

/** Who reads a subscriber. */
export interface Reader {
  /** Given an item, where the subscriber hands them out by itself. */
  onItem(item: Item): void;
  /** There is something to take. */
  onReady(): void;
  onState(state: SubscriptionState, error: TidegateError | undefined): void;
}

/** A mark's counts of a subscription that differ from its own. */
export interface Difference {
  told: number;
  had: number;
}

export class Subscriber {
  /** On this connection: the id it was asked for with; 0 before. */
  id = 0;
  /** Whether it was acknowledged on this connection. */
  isActive = false;
  /** Whether it was never acknowledged. */
  isNew = true;
  /** One; several where they share it. */
  readonly readers = new Set<Reader>();
  /** Whether it hands items out as they come, instead of having them taken. */
  pushes = false;
  /** What waits for the reader. Messages are bounded by the credit, notices by merging. */
  readonly queue: Entry[] = [];
  /** Where the reader is, in each stream: after what it has taken. */
  read: Position[] = [];
  /** What the last ack said is in force. */
  terms: Ack | undefined;
  /** Messages that came although the position excludes them. */
  duplicates = 0;

  #cause: Cause = 'first';
  #streams: StreamState[];
  #askedLast = false;
  #books: Books = { messages: 0, gapped: 0 };
  /** The books when the last mark came. */
  #marked = this.#books;
  #repair: Repair | undefined;
  /** Whether the broker may count, since the ack, what is here or was told missing already. */
  #countsDouble = false;
  /** Messages in the queue. */
  #waiting = 0;
  /** What the broker may still send on this connection. */
  #outstanding = 0;
  /** Whether a credit frame is on its way out. */
  #asked = false;

  /** @param credit messages that may wait in this process, at least 1 */
  constructor(
    readonly filter: string,
    readonly options: SubscribeOptions,
    readonly credit: number,
  ) {
    // One that goes on from a kept position learns of another incarnation of the log as one that was cut does.
    const { from = 'live' } = options;
    const positions = Array.isArray(from) ? (from as Position[]) : typeof from == 'object' && 'epoch' in from ? [from] : [];
    this.#streams = positions.map((position) => ({ ...position, live: position.offset }));
    this.read = positions.map((position) => ({ ...position }));
  }

  /** The frame that asks for it, the first time or again. */
  ask(id: number): Subscribe {
    this.id = id;
    this.#outstanding = this.#room();
    this.#asked = false;
    const from = this.#from();
    this.#askedLast = typeof from == 'object' && 'last' in from;
    const { overflow, limit, limitBytes, echo } = this.options;
    const credit = this.#outstanding;
    return { op: 'subscribe', id, filter: this.filter, from, overflow, limit, limit_bytes: limitBytes, credit, echo };
  }

  /** Where to start: at first where the application said, then where it is. */
  #from(): From {
    const { from = 'live' } = this.options;
    if (this.isNew) return from;
    const streams = this.#streams;
    if (!streams.length) return 'live';
    // Cut in the midst of the newest `n`: they come again as they stood then, and what is here is skipped.
    if (typeof from == 'object' && 'last' in from && streams.some((state) => state.offset < state.live)) {
      return { last: from.last, at: streams.map((state) => at(state, state.live)) };
    }
    return streams.map((state) => at(state));
  }

  /** The broker's ack. It comes before anything else of the subscription. */
  onAck(ack: Ack): void {
    const first = this.#cause == 'first';
    this.isActive = true;
    this.#books = { messages: 0, gapped: 0 };
    this.#marked = this.#books;
    this.#countsDouble = this.#askedLast && !first;
    this.terms = ack;

    let kept = false;
    const started: Position[] = [];
    const held = this.#streams;
    this.#streams = (ack.positions ?? []).map(({ stream, epoch, offset, live }) => {
      const state: StreamState = { ...at({ stream, epoch, offset }), live };
      const before = held.find((held) => held.stream == stream);
      if (!before) {
        if (!this.#askedLast) state.live = offset;
        started.push(at(state));
      } else if (before.epoch == epoch && !(first && offset < before.offset)) {
        // What is missing between the two follows, or a gap; should the line be cut before, it is asked for again.
        state.offset = before.offset;
        state.live = before.live;
        kept = true;
      } else {
        // All of the new log follows, whatever was asked of the old one. Should the line be cut before what the new
        // one has evicted is told, it is asked for again.
        state.offset = state.live = 0;
        const position = at(state);
        this.#notice({ type: 'reset', reason: 'epoch', ...(stream && { stream }), old: before.epoch, position }, [position]);
        this.#giveUpRepair();
      }
      return state;
    });
    for (const { stream } of held) if (!this.#stream(stream)) this.#gap('epoch', { stream });

    this.#moved(started);
    if (kept && this.#cause == 'reconnect') {
      this.#notice({ type: 'resumed', positions: this.#streams.map((state) => at(state)) });
    }
    if (!first && ack.live_only) this.#gap('away');
    this.isNew = false;
    this.#settleRepair();
  }

  /** False where the broker sends beyond the credit it was given. */
  onMessage(message: Message): boolean {
    this.#books.messages++;
    this.#outstanding = Math.max(0, this.#outstanding - 1);
    const { offset } = message;
    const state = offset === undefined ? undefined : this.#stream(message.stream);
    if (state) {
      if (offset! <= state.offset) {
        this.duplicates++;
        return true;
      }
      state.offset = offset!;
      if (this.#repair) this.#mend(state, 1, offset!, offset!);
    }
    if (this.#waiting >= 2 * this.credit) return false;
    this.#waiting++;
    const position = state && at(state);
    this.queue.push({ item: messageItem(message, position), at: position ? [position] : [] });
    return true;
  }

  onGap(gap: Gap): void {
    const { stream, from, to } = gap;
    const messages = gap.count ?? gap.at_most ?? 0;
    this.#books.gapped += messages;
    const state = to === undefined ? undefined : this.#stream(stream);
    if (state) {
      state.offset = Math.max(state.offset, to!);
      this.#mend(state, messages, from ?? 0, to!);
    }
    this.#notice(gapItem(gap), state && [at(state)]);
  }

  /** Compares first. Where the books agree, the mark's positions hold, but for one that is behind. */
  onMark({ positions, subs }: Mark): Difference | undefined {
    const mark = subs.find(({ sub }) => sub == this.id);
    // One that is not listed had no traffic since the last mark.
    const told: Books = mark ?? this.#marked;
    const had = this.#books;
    if (told.messages == had.messages && told.gapped == had.gapped) {
      this.#marked = { ...had };
      if (!mark?.behind) {
        // Positions never go back, and those of another incarnation say nothing.
        const ahead = positions.filter((position) => {
          const state = this.#stream(position.stream);
          return state?.epoch == position.epoch && state.offset < position.offset;
        });
        for (const { stream, offset } of ahead) this.#stream(stream)!.offset = offset;
        this.#moved(ahead);
        this.#settleRepair();
      }
      return;
    }
    // What came since may be on its way into the next mark.
    if (!mark) return;

    const missing = shortfall(told, had);
    if (!this.#streams.length) {
      // No log can mend it.
      this.#books = { messages: told.messages, gapped: told.gapped };
      this.#marked = { ...this.#books };
      if (missing) this.#gap('books', { count: missing });
    } else if (missing) {
      const targets = positions.filter((target) => this.#stream(target.stream)?.epoch == target.epoch);
      const bound = this.#repair ? this.#repair.missing : this.#countsDouble ? 0 : undefined;
      this.#repair = new Repair(missing, mark.behind ? undefined : targets, bound);
    }
    return { told: told.messages + told.gapped, had: had.messages + had.gapped };
  }

  /** It will be asked for again, from its own position. False where no log can give what is missing. */
  beginRepair(): boolean {
    if (!this.#streams.length) return false;
    this.id = 0;
    this.isActive = false;
    this.#cause = 'repair';
    return true;
  }

  onDisconnected(): void {
    this.id = 0;
    this.isActive = false;
    if (!this.isNew) this.#cause = 'reconnect';
  }

  /** Hands out what is here, or says that it is. */
  hand(): void {
    if (!this.pushes) for (const reader of this.readers) reader.onReady();
    else for (let item; (item = this.take()); ) for (const reader of this.readers) reader.onItem(item);
  }

  /** The reader takes the next item. */
  take(): Item | undefined {
    const entry = this.queue.shift();
    if (!entry) return;
    if (entry.item.type == 'message') this.#waiting--;
    merge(this.read, entry.at);
    return entry.item;
  }

  /** Whether enough was taken to ask for more. Says so once until `more`. */
  wantsCredit(): boolean {
    const due = this.isActive && !this.#asked && this.#missing() >= Math.max(1, this.credit >> 1);
    this.#asked ||= due;
    return due;
  }

  /** How many more to ask for. */
  more(): number {
    this.#asked = false;
    const add = this.isActive ? this.#missing() : 0;
    this.#outstanding += add;
    return add;
  }

  /** How many more may wait. */
  #room(): number {
    return Math.max(0, this.credit - this.#waiting);
  }

  /** How many more the broker may be asked for. */
  #missing(): number {
    return this.#room() - this.#outstanding;
  }

  #stream(stream: string | undefined): StreamState | undefined {
    return this.#streams.find((state) => state.stream == stream);
  }

  #mend({ stream }: StreamState, messages: number, from: number, to: number): void {
    this.#repair?.on(stream, messages, from, to);
    this.#settleRepair();
  }

  /** Ends the repair once the position is where the mark said. */
  #settleRepair(): void {
    const repair = this.#repair;
    if (!repair) return;
    repair.ahead = repair.ahead.filter((target) => {
      const state = this.#stream(target.stream);
      return state?.epoch == target.epoch && state.offset < target.offset;
    });
    if (this.isActive && !repair.ahead.length) this.#finishRepair(repair);
  }

  #finishRepair({ missing, exact }: Repair): void {
    this.#repair = undefined;
    if (missing) {
      this.#countsDouble = true;
      this.#gap('books', exact ? { count: missing } : { atMost: missing });
    }
  }

  /** The log that could mend it is gone, and with it the count of what it mended. */
  #giveUpRepair(): void {
    if (this.#repair) this.#finishRepair({ ...this.#repair, exact: false } as Repair);
  }

  /** A gap of the SDK's own making. */
  #gap(reason: GapReason, more?: { count?: number; atMost?: number; stream?: string | undefined }): void {
    const { stream, ...rest } = more ?? {};
    const topic = /[*>]/.test(this.filter) ? {} : { topic: this.filter };
    this.#notice({ type: 'gap', reason, policy: this.terms!.overflow as Overflow, ...topic, ...(stream && { stream }), ...rest });
  }

  /** The position moved while no message came. */
  #moved(positions: readonly Position[]): void {
    merge(this.queue.at(-1)?.at ?? this.read, positions);
  }

  /** Appends a notice, or merges it with one of those that no message has followed yet. */
  #notice(item: Exclude<Item, MessageItem>, at: Position[] = []): void {
    const { queue } = this;
    let start = queue.length;
    while (start && queue[start - 1]!.item.type != 'message') start--;
    if (item.type == 'reset') {
      // It takes the place of one before it of the same stream: what stood between them is told before both.
      const i = queue.findIndex(
        ({ item: waiting }, i) => i >= start && waiting.type == 'reset' && waiting.stream == item.stream,
      );
      if (i >= 0) {
        const [before, ...between] = queue.splice(i);
        item.old = (before!.item as typeof item).old;
        for (const entry of between) this.#notice(entry.item as typeof item, entry.at);
      }
    } else {
      for (let i = queue.length; --i >= start; ) {
        const entry = queue[i]!;
        const waiting = entry.item;
        // What comes after a reset is of the new log: it must not go before it.
        if (waiting.type == 'reset') break;
        if (item.type == 'resumed' ? waiting.type == 'resumed' : waiting.type == 'gap' && haveSameCause(waiting, item)) {
          entry.item = item.type == 'gap' ? mergeGaps(waiting as GapItem, item) : item;
          merge(entry.at, at);
          return;
        }
      }
    }
    queue.push({ item, at });
  }
}

function at({ stream, epoch, offset }: { stream?: string | undefined; epoch: string; offset: number }, to = offset): Position {
  return stream === undefined ? { epoch, offset: to } : { stream, epoch, offset: to };
}

/** Moves `positions` to the newer ones. */
function merge(positions: Position[], newer: readonly Position[]): void {
  for (const position of newer) {
    const i = positions.findIndex(({ stream }) => stream == position.stream);
    positions[i < 0 ? positions.length : i] = position;
  }
}

/** A message as the application gets it. */
export function messageItem(message: Message, position: Position | undefined): MessageItem {
  // What the frame had besides: a codec may leave the payload where it stood.
  const { op: _op, sub: _sub, json: _json, text: _text, binary: _binary, ...rest } = message as Message & Record<string, unknown>;
  return { type: 'message', ...rest, ...(position && { position }) } as MessageItem;
}

function gapItem({ op: _op, sub: _sub, at_most: atMost, ...rest }: Gap): GapItem {
  return { type: 'gap', ...rest, ...(atMost !== undefined && { atMost }) };
}

function haveSameCause(a: GapItem, b: GapItem): boolean {
  return a.stream == b.stream && a.reason == b.reason && a.policy == b.policy && (a.from === undefined) == (b.from === undefined);
}

/** One gap that says what two say: exact only where both are, bounded only where both are. */
function mergeGaps(a: GapItem, b: GapItem): GapItem {
  const { count, atMost, topic, ...rest } = { ...a };
  const bound = (a.count ?? a.atMost)! + (b.count ?? b.atMost)!;
  if (a.from !== undefined) {
    rest.from = Math.min(a.from, b.from!);
    rest.to = Math.max(a.to!, b.to!);
  }
  return {
    ...rest,
    ...(topic == b.topic && topic !== undefined && { topic }),
    ...(count !== undefined && b.count !== undefined ? { count: bound } : bound >= 0 && { atMost: bound }),
  };
}
