/** One wire subscription's rules: where it is, what it has, how much it may be sent, how it comes back. */

import type { TidegateError } from '../error.js';
import type { Ack, From, Gap, GapReason, Mark, Message, Position, Subscribe } from '../frame.js';
import type { GapItem, Item, MessageItem, SubscribeOptions } from '../item.js';

/** With so many notices waiting it is not asked for again before its reader has taken some. */
const MOST_NOTICES = 64;

/**
 * `subscribing`: asked for, or about to be, the first time or again. `subscribed`: the broker has said so on this
 * connection. `unsubscribed`: over, by `unsubscribe()`, by the broker or because the client was closed.
 */
export type SubscriptionState = 'subscribing' | 'subscribed' | 'unsubscribed';

/** Who reads a subscriber. */
export interface Reader {
  /** Given an item, where the subscriber hands them out by itself; else there is one to take. */
  onItem(item?: Item): void;
  onState(state: SubscriptionState, error?: TidegateError): void;
}

interface StreamState extends Position {
  /** The last of the newest of each topic, where it started with those: until there it is amid them. */
  live: number;
}

/** Counts since the subscription's ack on this connection. */
interface Books {
  /** Message frames. */
  messages: number;
  /** Messages told missing by gap frames: exact counts, else upper bounds. */
  gapped: number;
}

/**
 * Books that did not agree, while the log is read on from the subscription's own position: what comes up to the mark's
 * positions is what was missing at the end. The rest was lost in the middle, and becomes a gap.
 */
interface Repair {
  missing: number;
  /** The mark's positions that are still ahead. */
  ahead: Position[];
  /** Whether `missing` is no mere bound. */
  exact: boolean;
}

export type Subscriber = ReturnType<typeof createSubscriber>;

/** @param credit messages that may wait in this process, at least 1 */
export function createSubscriber(filter: string, options: SubscribeOptions, credit: number, pushes: boolean) {
  const { from = 'live' } = options;
  const last = typeof from == 'object' && 'last' in from ? from.last : 0;
  // One that goes on from kept positions learns of another incarnation of the log as one that was cut does.
  let streams: StreamState[] = [from]
    .flat()
    .flatMap((from) => (typeof from == 'object' && 'epoch' in from ? [{ ...from, live: from.offset }] : []));
  /** What waits for the reader. Messages are bounded by the credit, notices by merging and `MOST_NOTICES`. */
  const queue: Item[] = [];
  /** Messages in it. */
  let waiting = 0;
  /** What the broker may still send on this connection. */
  let outstanding = 0;
  /** Whether a credit frame is on its way out. */
  let asked = false;
  let askedLast: boolean | 0 = false;
  let books: Books = { messages: 0, gapped: 0 };
  /** The books when the last mark came. */
  let marked: Books = books;
  let repair: Repair | undefined;
  let isRepairing = false;
  /** Whether the broker may count, since the ack, what is here or was told missing already. */
  let countsDouble: boolean | 0 = false;

  /** How many more may wait. */
  const room = () => Math.max(0, credit - waiting);
  const find = (stream: string | undefined, epoch?: string) =>
    streams.find((state) => state.stream == stream && (!epoch || state.epoch == epoch));
  const positions = (key: 'offset' | 'live' = 'offset'): Position[] =>
    streams.map((state) => ({ stream: state.stream, epoch: state.epoch, offset: state[key] }));

  /** Appends a notice; a gap is merged with one of its cause that no message has followed yet. */
  const notice = (item: Exclude<Item, MessageItem>) => {
    for (let i = queue.length; item.type == 'gap' && i--; ) {
      const waiting = queue[i]!;
      if (waiting.type != 'gap') break;
      if (waiting.reason == item.reason && waiting.stream == item.stream && !waiting.from == !item.from) {
        return mergeGaps(waiting, item);
      }
    }
    queue.push(item);
  };

  /** A gap of the SDK's own making. */
  const gap = (reason: GapReason, more?: Partial<GapItem>) =>
    notice({ type: 'gap', reason, policy: self.terms!.overflow!, ...more });

  /** Something came that stands for so many messages, from `from` up to `to`. */
  const mend = (state: StreamState, messages: number, from: number, to: number) => {
    const target = repair?.ahead.find((target) => target.stream == state.stream);
    if (target) {
      if (to <= target.offset) repair!.missing = Math.max(0, repair!.missing - messages);
      // Some of its messages are of those that are missed, and nobody says how many.
      else if (from <= target.offset) repair!.exact = false;
    }
    settleRepair();
  };

  /** Ends the repair once the position is where the mark said, or the log is gone that could mend it. */
  const settleRepair = (isGone?: boolean) => {
    if (!repair) return;
    const { missing, exact } = repair;
    repair.ahead = repair.ahead.filter((target) => (find(target.stream, target.epoch)?.offset ?? Infinity) < target.offset);
    if (!self.isActive || (repair.ahead.length && !isGone)) return;
    repair = undefined;
    if (missing) {
      countsDouble = true;
      gap('books', exact && !isGone ? { count: missing } : { atMost: missing });
    }
  };

  const self = {
    filter,
    /** Whether it hands items out as they come, instead of having them taken. */
    pushes,
    /** One; several where they share it. */
    readers: new Set<Reader>(),
    /** Where the reader is, in each stream: after what it has taken. */
    read: positions(),
    /** On this connection: the id it was asked for with; 0 before. */
    id: 0,
    /** Whether it was acknowledged on this connection. */
    isActive: false,
    /** Whether it was never acknowledged. */
    isNew: true,
    /** What the last ack said is in force. */
    terms: undefined as Ack | undefined,

    /** Whether its reader has left room for notices. */
    isOpen: () => queue.length - waiting < MOST_NOTICES,

    /** The frame that asks for it: at first from where the application said, then from where it is. */
    ask(id: number): Subscribe {
      self.id = id;
      outstanding = room();
      asked = false;
      const { overflow, limit, limitBytes, echo } = options;
      // Cut in the midst of the newest `n`: they come again as they stood then, and what is here is skipped.
      const isAmid = last && streams.some(({ offset, live }) => offset < live);
      const on: From = isAmid ? { last, at: positions('live') } : streams.length ? positions() : 'live';
      askedLast = last && (self.isNew || isAmid);
      const start = self.isNew ? from : on;
      return { op: 'subscribe', id, filter, from: start, overflow, limit, limit_bytes: limitBytes, credit: outstanding, echo };
    },

    /** The broker's ack. It comes before anything else of the subscription. */
    onAck(ack: Ack): void {
      const { isNew } = self;
      self.isActive = true;
      self.isNew = false;
      self.terms = ack;
      books = { messages: 0, gapped: 0 };
      marked = { ...books };
      countsDouble = askedLast && !isNew;

      let kept = false;
      const held = streams;
      const started: Position[] = [];
      streams = ack.positions!.map(({ stream, epoch, offset, live }) => {
        const before = held.find((state) => state.stream == stream);
        const position = { stream, epoch, offset };
        if (!before) {
          started.push(position);
          return { ...position, live: askedLast ? live : offset };
        }
        if (before.epoch == epoch && !(isNew && offset < before.offset)) {
          // What is missing between the two follows, or a gap; should the line be cut before, it is asked for again.
          kept = true;
          return before;
        }
        // All of the new log follows, whatever was asked of the old one. Should the line be cut before what the new
        // one has evicted is told, it is asked for again.
        position.offset = 0;
        notice({ type: 'reset', reason: 'epoch', stream, old: before.epoch, position });
        settleRepair(true);
        return { ...position, live: 0 };
      });
      for (const { stream } of held) if (!find(stream)) gap('epoch', { stream });

      merge(self.read, started);
      if (!isNew) {
        if (kept && !isRepairing) notice({ type: 'resumed', positions: positions() });
        if (ack.live_only) gap('away');
      }
      isRepairing = false;
      settleRepair();
    },

    /** False where the broker sends beyond the credit it was given. */
    onMessage(message: Message): boolean {
      books.messages++;
      outstanding--;
      const { offset, stream } = message;
      const state = offset && find(stream);
      let position: Position | undefined;
      if (state) {
        if (offset <= state.offset) return true;
        state.offset = offset;
        position = { stream, epoch: state.epoch, offset };
        mend(state, 1, offset, offset);
      }
      queue.push(messageItem(message, position));
      return waiting++ < 2 * credit;
    },

    onGap({ op: _op, sub: _sub, at_most: atMost, ...gap }: Gap): void {
      const { stream, from, to, count } = gap;
      const messages = count ?? atMost ?? 0;
      books.gapped += messages;
      const state = to && find(stream);
      const position = state
        ? { stream, epoch: state.epoch, offset: (state.offset = Math.max(state.offset, to)) }
        : undefined;
      // Before what a repair has to say that ends with it: that is of what this gap may have told already.
      notice({ type: 'gap', ...gap, atMost, position });
      if (state) mend(state, messages, from!, to);
    },

    /** Compares first. Where the books agree, the mark's positions hold, but for one that is behind. */
    onMark(mark: Mark): { filter: string; told: number; had: number } | undefined {
      const entry = mark.subs.find(({ sub }) => sub == self.id);
      // One that is not listed had no traffic since the last mark.
      const { messages, gapped } = entry ?? marked;
      const had = books;
      if (messages == had.messages && gapped == had.gapped) {
        marked = { ...had };
        if (!entry?.behind) {
          for (const position of mark.positions) {
            const { stream, epoch, offset } = position;
            const state = find(stream, epoch);
            // Positions never go back, and those of another incarnation say nothing.
            if (!state || state.offset >= offset) continue;
            state.offset = offset;
            // With items to be taken first, the reader is where it was: what is between holds nothing for it.
            if (!queue.length) merge(self.read, [position]);
          }
          settleRepair();
        }
        return;
      }
      // What came since may be on its way into the next mark.
      if (!entry) return;

      const missing = Math.max(0, messages - had.messages) + Math.max(0, gapped - had.gapped);
      if (!streams.length) {
        // No log can mend it.
        books = { messages, gapped };
        marked = { ...books };
        if (missing) gap('books', { count: missing });
      } else if (missing) {
        repair = {
          // Some of what was missed already may be among these: what is read again can be lost again.
          missing: missing + (repair?.missing ?? 0),
          exact: !entry.behind && !repair && !countsDouble,
          ahead: entry.behind ? [] : mark.positions.filter(({ stream, epoch }) => find(stream, epoch)),
        };
      }
      return { filter, told: messages + gapped, had: had.messages + had.gapped };
    },

    /** The log is to be read on from its own position. False where there is none, and nothing to be asked for again. */
    beginRepair(): boolean {
      self.onDisconnected();
      return (isRepairing = streams.length > 0);
    },

    onDisconnected(): void {
      self.id = 0;
      self.isActive = isRepairing = false;
    },

    /** Hands out what is here, or says that it is. */
    hand(): void {
      for (let item; !self.pushes || (item = self.take()); ) {
        for (const reader of self.readers) reader.onItem(item);
        if (!item) break;
      }
    },

    /** The reader takes the next item. */
    take(): Item | undefined {
      const item = queue.shift();
      if (item?.type == 'message') waiting--;
      const position = item && (item as MessageItem).position;
      if (position) merge(self.read, [position]);
      return item;
    },

    /** Whether enough was taken to ask for more. Says so once until `more`. */
    wantsCredit(): boolean {
      const due = self.isActive && !asked && room() - outstanding >= Math.max(1, credit >> 1);
      asked ||= due;
      return due;
    },

    /** How many more to ask for. */
    more(): number {
      asked = false;
      const add = self.isActive ? room() - outstanding : 0;
      outstanding += add;
      return add;
    },
  };
  return self;
}

/** Moves `positions` to the newer ones. */
function merge(positions: Position[], newer: readonly Position[]): void {
  for (const position of newer) {
    const i = positions.findIndex(({ stream }) => stream == position.stream);
    positions[i < 0 ? positions.length : i] = position;
  }
}

/** A message as the application gets it. */
export function messageItem(message: Message, position?: Position): MessageItem {
  // What the frame had besides: a codec may leave the payload where it stood.
  const { op, sub, json, text, binary, ...rest } = message as Message & Record<string, unknown>;
  return { type: 'message', ...rest, position };
}

/** Adds to a gap what a later one says: exact only where both are, bounded only where both are. */
function mergeGaps(gap: GapItem, { count, atMost, topic, to, position }: GapItem): void {
  const bound = (gap.count ?? gap.atMost)! + (count ?? atMost)!;
  // What is not told is no number, and makes none.
  gap.count = gap.count! + count! || undefined;
  gap.atMost = (!gap.count && bound) || undefined;
  if (gap.topic != topic) gap.topic = undefined;
  gap.to = to;
  gap.position = position;
}
