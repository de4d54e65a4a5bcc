/** What a subscription gives, and what it is asked with. */

import type { From, GapReason, Headers, Kind, Overflow, Position, Report } from './frame.js';

/** A message. */
export interface MessageItem<T = unknown> {
  type: 'message';
  topic: string;
  /** A parsed value (`json`), a string (`text`) or a `Uint8Array` (`binary`), as `kind` says. */
  data: T;
  kind: Kind;
  /** Its stream; absent for `default`, and for a message that is in none. */
  stream?: string | undefined;
  /** Its place in the stream, from 1; absent for a live-only message. */
  offset?: number | undefined;
  /** The offset of the topic's message before it, where the log held one. Its absence proves nothing. */
  prev?: number | undefined;
  key?: string | undefined;
  headers?: Headers | undefined;
  /** When the broker took it, in milliseconds since the Unix epoch. */
  time: number;
  /** What to give as `from` to go on behind it. Absent for a live-only message, and in a page of history. */
  position?: Position | undefined;
}

/** Messages were not given, and stand missing here: how many, which, why. */
export interface GapItem {
  type: 'gap';
  /** How many, exactly. */
  count?: number | undefined;
  /** How many at most, where nobody can know the number. With neither it is unknown. */
  atMost?: number | undefined;
  /** The first and the last offset that may be missing. Absent for live-only messages, and where the log is gone. */
  from?: number | undefined;
  to?: number | undefined;
  /**
   * `overflow`: this page was behind and `policy` let them go. `merged`: a newer value of the same key took their place.
   * `evicted`: the log no longer holds them. `epoch`: the broker was restarted and its log is gone. `away`: live-only
   * messages of a time without a connection. `books`: bytes were lost on the way, which must never happen.
   */
  reason: GapReason;
  policy: Overflow;
  /** Only where all of them are of one topic that is known. */
  topic?: string | undefined;
  stream?: string | undefined;
  /** What to give as `from` to go on behind it. Absent where `to` is. */
  position?: Position | undefined;
}

/** The connection was lost and is back. What was published meanwhile follows, or a gap. */
export interface ResumedItem {
  type: 'resumed';
  /** It goes on behind these. */
  positions: Position[];
}

/**
 * A stream's log is another incarnation: the broker was restarted with a log in memory. What stood in the old one and
 * was not given is lost, and what follows may be there a second time.
 */
export interface ResetItem {
  type: 'reset';
  reason: 'epoch';
  stream?: string | undefined;
  /** The incarnation that is gone. */
  old: string;
  /** Where the subscription stands now, in the new one. */
  position: Position;
}

/** One thing in a subscription's flow, at its place in it. */
export type Item<T = unknown> = MessageItem<T> | GapItem | ResumedItem | ResetItem;

/** How to subscribe. All of it may be left out. */
export interface SubscribeOptions {
  /**
   * What happens to messages while this page is behind: `catch_up` (the default in a stream: nothing is lost but what
   * the log no longer has), `drop_oldest` (the default outside of one), `drop_newest`, `latest` (the newest of each topic
   * and key), `disconnect`.
   */
  overflow?: Overflow | undefined;
  /** Where to start: `'live'` (the default), `'beginning'`, `{ last: 20 }`, `{ since: ms }`, or kept positions. */
  from?: From | undefined;
  /** How many messages may wait at the broker; 256 where left out. The broker cuts it to its own bound: see `terms`. */
  limit?: number | undefined;
  /** How many bytes may wait at the broker; 262,144 where left out. Cut as `limit` is. */
  limitBytes?: number | undefined;
  /** Whether it is given what this client published itself; true where left out. */
  echo?: boolean | undefined;
  /**
   * How many messages may wait in this page; beyond it they wait at the broker, under `overflow`. 256 where left out or
   * 0, and 1,024 for callbacks.
   */
  credit?: number | undefined;
}

/** What the broker said is in force for a subscription. */
export interface Terms {
  overflow: Overflow;
  limit: number;
  limit_bytes: number;
  /** Whether the filter reaches topics in no stream: those cannot be resumed. */
  live_only?: boolean;
}

/** How to publish. All of it may be left out. */
export interface PublishOptions {
  /** What `latest` tells the values of one topic apart by. At most 255 bytes. */
  key?: string | undefined;
  /** At most 16, 4,096 bytes together. */
  headers?: Headers | undefined;
  /**
   * By which key a repeat is known again, for 2 minutes; at most 64 bytes. The SDK makes its own where it is left out.
   * `false`: none, so it is sent once, and fails with 1502 (`outcome_unknown`) if the connection is lost before its ack.
   */
  idempotency?: string | false | undefined;
  /** Whether the ack shall say how the fan-out went. */
  report?: boolean | undefined;
  /** What the data is; by itself a `Uint8Array` or `ArrayBuffer` is `binary`, everything else `json`. */
  kind?: Kind | undefined;
}

/** The broker has the message. */
export interface PublishAck {
  /** The stream it is in; absent for `default`, and for a live-only topic. */
  stream?: string | undefined;
  epoch?: string | undefined;
  /** Its place in the stream; absent for a live-only topic. */
  offset?: number | undefined;
  /** Whether the idempotency key was known: the position is the first publish's. */
  duplicate: boolean;
  /** Where it was asked for. */
  report?: Report | undefined;
}

/** A part of a topic's log, oldest first. */
export interface HistoryPage<T = unknown> {
  messages: MessageItem<T>[];
  /** Where it ends: ask `from` it for the next. Absent for a topic in no stream. */
  position?: Position | undefined;
  /** Whether there is more up to the log's end. */
  more: boolean;
}
