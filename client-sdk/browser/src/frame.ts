/** What a client and a broker say to each other: protocol/src/frame.rs and docs/protocol.md, with the JSON names. */

/** A place in a stream: everything up to and with `offset` is had. `stream` is left out for `default`. */
export interface Position {
  stream?: string | undefined;
  /** The log's incarnation: 16 lower-case hexadecimal digits. */
  epoch: string;
  /** From 1; 0 is before the first message. Below 2^53. */
  offset: number;
}

/** Where a subscription starts, or which part of a topic's log is asked for. */
export type From =
  | 'live'
  | 'beginning'
  | { last: number; at?: number | readonly Position[] }
  /** Milliseconds since the Unix epoch, by the broker's clock. */
  | { since: number }
  | Position
  | readonly Position[];

/** What happens to a subscription's messages when its queue at the broker is full. */
export type Overflow = 'catch_up' | 'drop_oldest' | 'drop_newest' | 'latest' | 'disconnect';

/** Why messages are missing. `away` and `books` are made by the SDK. */
export type GapReason = 'overflow' | 'merged' | 'evicted' | 'epoch' | 'away' | 'books';

/** Names and values that travel beside a payload. */
export type Headers = Record<string, string>;

/** What a payload is: any JSON value, a text, or bytes. */
export type Kind = 'json' | 'text' | 'binary';

/** A payload as it is received: a `json` payload is the parsed value. */
export type Content =
  | { kind: 'json'; data: unknown }
  | { kind: 'text'; data: string }
  | { kind: 'binary'; data: Uint8Array };

/**
 * A payload as it is sent. A `json` payload is its JSON text: written down when it was published, so that a later
 * change of the value changes nothing, and its size is known.
 */
export type Payload = { kind: 'json' | 'text'; data: string } | { kind: 'binary'; data: Uint8Array };

/** May be left out, or `undefined`: the same on the wire. */
type Option<T> = T | undefined;

export interface Connect {
  op: 'connect';
  id: number;
  token?: Option<string>;
  client?: Option<string>;
  instance?: Option<string>;
}

export interface Subscribe {
  op: 'subscribe';
  id: number;
  filter: string;
  from?: Option<From>;
  overflow?: Option<Overflow>;
  limit?: Option<number>;
  limit_bytes?: Option<number>;
  credit?: Option<number>;
  echo?: Option<boolean>;
}

export type Publish = {
  op: 'publish';
  id?: Option<number>;
  topic: string;
  key?: Option<string>;
  headers?: Option<Headers>;
  idempotency?: Option<string>;
  report?: Option<boolean>;
} & Payload;

export interface HistoryRequest {
  op: 'history';
  id: number;
  topic: string;
  from?: Option<From>;
  limit?: Option<number>;
}

export type ClientFrame =
  | Connect
  | Subscribe
  | { op: 'unsubscribe'; id: number; sub: number }
  | Publish
  | HistoryRequest
  | { op: 'refresh'; id: number; token: string }
  | { op: 'credit'; sub: number; add: number }
  | { op: 'ping'; id: number };

export interface Welcome {
  op: 'welcome';
  id: number;
  connection: string;
  limits: {
    payload_bytes: number;
    message_bytes: number;
    subscriptions: number;
    limit: number;
    limit_bytes: number;
  };
  /** What may be published whose ack has not come yet. */
  publish_window: { messages: number; bytes: number };
  /** How often the broker pings and marks. */
  ping_ms: number;
  /** The window to draw reconnect delays from. */
  reconnect_ms: [from: number, to: number];
}

/** Where a new subscription stands in one stream; `live` is the last offset before live. */
export interface StartPosition extends Position {
  live: number;
}

/** How a fan-out stood, before the flush: see docs/protocol.md, `ack`. */
export interface Report {
  matched: number;
  queued: number;
  merged: number;
  dropped: number;
  behind: number;
  partial?: boolean;
}

/**
 * A request was carried out. With `positions` it is a subscribe's; else with `epoch` and `offset`, or with `live_only`,
 * a publish's.
 */
export interface Ack {
  op: 'ack';
  id: number;
  positions?: StartPosition[];
  overflow?: Overflow;
  limit?: number;
  limit_bytes?: number;
  live_only?: boolean;
  stream?: string;
  epoch?: string;
  offset?: number;
  duplicate?: boolean;
  report?: Report;
}

export interface ErrorFrame {
  op: 'error';
  id?: number;
  code: number;
  name: string;
  message: string;
  retry: boolean;
}

/** A message, without its `op`: so it stands in a page of history. */
export type Message = {
  topic: string;
  stream?: string;
  /** Absent for a message in no stream. */
  offset?: number;
  /** The offset of the topic's message before this one, where the log held one. */
  prev?: number;
  /** When the broker took it, in milliseconds since the Unix epoch. */
  time: number;
  key?: string;
  headers?: Headers;
  /** The one subscription it is for; absent where it is for every one that takes the topic. */
  sub?: number;
} & Content;

export interface Gap {
  op: 'gap';
  sub: number;
  stream?: string;
  topic?: string;
  count?: number;
  at_most?: number;
  from?: number;
  to?: number;
  reason: GapReason;
  policy: Overflow;
}

export interface Mark {
  op: 'mark';
  positions: Position[];
  subs: { sub: number; messages: number; gapped: number; behind?: boolean }[];
}

export interface HistoryPage {
  op: 'history';
  id: number;
  messages: Message[];
  position?: Position;
  more?: boolean;
}

/** Not from the wire: a frame that a codec could not read. Where it is `fatal` the frames after it are lost too. */
export interface Unreadable {
  op: 'unreadable';
  /** 1001, 1002, 1003 or 1202: see error.ts. */
  code: number;
  fatal: boolean;
}

export type ServerFrame =
  | Welcome
  | Ack
  | ErrorFrame
  | ({ op: 'message' } & Message)
  | Gap
  | Mark
  | HistoryPage
  | { op: 'unsubscribed'; sub: number; code?: number }
  | { op: 'drain'; reconnect_ms: number }
  | { op: 'pong'; id: number }
  | Unreadable;
