import { REASONS, unreadable, type Codec } from './codec.js';
import type { ClientFrame, ServerFrame } from './frame.js';

/** bincode 2, standard configuration, without a dependency: `tidegate.v1.bincode`. The tables are docs/protocol.md's. */
export const bincode: Codec = {
  subprotocol: 'tidegate.v1.bincode',
  encode(frames) {
    const writer = new Writer();
    for (const frame of frames) write(writer, frame);
    return writer.bytes.subarray(0, writer.at);
  },
  decode: (data) => (typeof data == 'string' ? [unreadable(1001, true)] : read(data, SERVER)),
};

/** Whatever a field holds: the vectors, and no type, hold these tables to the protocol. */
type Value = any;

interface Type {
  write(writer: Writer, value: Value): void;
  /** Throws `END` where the rest of the message is lost. `undefined` leaves the field out. */
  read(reader: Reader): Value;
}

const END = new Error('unreadable');
const utf8 = new TextEncoder();
// A byte order mark is text like any other.
const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Exported for the tests. */
export class Writer {
  bytes = new Uint8Array(256);
  at = 0;

  /** Makes room for `count` bytes more and returns where they start. */
  take(count: number): number {
    const start = this.at;
    this.at += count;
    if (this.at > this.bytes.length) {
      const grown = new Uint8Array(2 * this.at);
      grown.set(this.bytes);
      this.bytes = grown;
    }
    return start;
  }
}

class Reader {
  at = 0;
  /** The error of a value that cannot be, in a frame that can still be read to its end. The first one counts. */
  bad = 0;

  constructor(readonly view: DataView<ArrayBuffer>) {}

  /** Passes `count` bytes and returns where they start. Whatever the count claims, they have to be there. */
  take(count: number): number {
    const start = this.at;
    if (count > this.view.byteLength - start) throw END;
    this.at += count;
    return start;
  }

  refuse(code: number): undefined {
    this.bad ||= code;
  }
}

const integer: Type = {
  write(writer, value: number) {
    const size = value < 251 ? 0 : value < 2 ** 16 ? 2 : value < 2 ** 32 ? 4 : 8;
    const at = writer.take(1 + size);
    const view = new DataView(writer.bytes.buffer);
    view.setUint8(at, size ? 250 + Math.log2(size) : value);
    if (size == 2) view.setUint16(at + 1, value, true);
    // Unsigned conversion takes the value modulo 2^32.
    if (size > 2) view.setUint32(at + 1, value, true);
    if (size == 8) view.setUint32(at + 5, value / 2 ** 32, true);
  },
  read(reader) {
    const { view } = reader;
    const first = view.getUint8(reader.take(1));
    if (first < 251) return first;
    if (first > 253) throw END;
    const at = reader.take(2 ** (first - 250));
    if (first == 251) return view.getUint16(at, true);
    const low = view.getUint32(at, true);
    if (first == 252) return low;
    const value = view.getUint32(at + 4, true) * 2 ** 32 + low;
    if (value > Number.MAX_SAFE_INTEGER) reader.refuse(1003);
    return value;
  },
};

const bytes: Type = {
  write(writer, value: Uint8Array) {
    integer.write(writer, value.length);
    const at = writer.take(value.length);
    writer.bytes.set(value, at);
  },
  read(reader) {
    const length = integer.read(reader);
    const at = reader.take(length);
    return new Uint8Array(reader.view.buffer, at, length);
  },
};

const text: Type = {
  write: (writer, value: string) => bytes.write(writer, utf8.encode(value)),
  read(reader) {
    try {
      return strict.decode(bytes.read(reader));
    } catch {
      throw END;
    }
  },
};

const boolean: Type = {
  write: (writer, value: boolean) => integer.write(writer, +value),
  read: (reader) => choice(reader, 2) == 1,
};

/** A boolean that is left out where it is `absent`. */
const flag = (absent: boolean): Type => ({
  write: (writer, value = absent) => boolean.write(writer, value),
  read(reader) {
    const value = boolean.read(reader);
    return value == absent ? undefined : value;
  },
});

const optional = (type: Type): Type => ({
  write(writer, value) {
    boolean.write(writer, value !== undefined);
    if (value !== undefined) type.write(writer, value);
  },
  read: (reader) => (boolean.read(reader) ? type.read(reader) : undefined),
});

const list = (type: Type): Type => ({
  write(writer, value: Value[]) {
    integer.write(writer, value.length);
    for (const item of value) type.write(writer, item);
  },
  read(reader) {
    const items = [];
    // Every item takes a byte at least, so a count too large ends with the bytes.
    for (let left = integer.read(reader); left > 0; left--) items.push(type.read(reader));
    return items;
  },
});

/** One of these names, by number. */
const name = (names: readonly string[]): Type => ({
  write: (writer, value) => integer.write(writer, names.indexOf(value)),
  read: (reader) => names[integer.read(reader)] ?? reader.refuse(1003),
});

/** Fields, in order. One whose name starts with `...` stands among the fields of what holds it. */
const record = (fields: Record<string, Type>): Type => ({
  write(writer, value) {
    for (const field in fields) fields[field]!.write(writer, field[0] == '.' ? value : value[field]);
  },
  read(reader) {
    const value: Value = {};
    for (const field in fields) {
      const got = fields[field]!.read(reader);
      if (field[0] == '.') Object.assign(value, got);
      else if (got !== undefined) value[field] = got;
    }
    return value;
  },
});

/** Reads a number below `count`: beyond it nobody knows what follows. */
function choice(reader: Reader, count: number): number {
  const number = integer.read(reader);
  if (number >= count) throw END;
  return number;
}

const KINDS = ['json', 'text', 'binary'];
const payload: Type = {
  write(writer, { kind, data }) {
    integer.write(writer, KINDS.indexOf(kind));
    (kind == 'binary' ? bytes : text).write(writer, data);
  },
  read(reader) {
    const kind = KINDS[integer.read(reader)] ?? reader.refuse(1003);
    const data = bytes.read(reader);
    try {
      // A copy, so that one small payload does not keep the whole message alive.
      return { kind, data: kind == 'binary' ? data.slice() : kind == 'json' ? JSON.parse(strict.decode(data)) : strict.decode(data) };
    } catch {
      return reader.refuse(1202);
    }
  },
};

const pairs = list({
  write(writer, [name, value]) {
    text.write(writer, name);
    text.write(writer, value);
  },
  read: (reader) => [text.read(reader), text.read(reader)],
});
const headers: Type = {
  write: (writer, value = {}) => pairs.write(writer, Object.entries(value)),
  read(reader) {
    const entries = pairs.read(reader);
    return entries.length ? Object.fromEntries(entries) : undefined;
  },
};

const position = record({ stream: optional(text), epoch: text, offset: integer });
const positions = list(position);

const at: Type = {
  write(writer, value) {
    const isList = Array.isArray(value);
    integer.write(writer, +isList);
    (isList ? positions : integer).write(writer, value);
  },
  read: (reader) => (choice(reader, 2) ? positions : integer).read(reader),
};
const last = record({ last: integer, at: optional(at) });

const from: Type = {
  write(writer, value = 'live') {
    const number = value == 'live' ? 0 : value == 'beginning' ? 1 : 'last' in value ? 2 : 'since' in value ? 3 : 4;
    integer.write(writer, number);
    if (number == 2) last.write(writer, value);
    if (number == 3) integer.write(writer, value.since);
    if (number == 4) positions.write(writer, [value].flat());
  },
  read(reader) {
    const number = choice(reader, 5);
    if (number < 2) return number ? 'beginning' : undefined;
    if (number == 2) return last.read(reader);
    if (number == 3) return { since: integer.read(reader) };
    const list = positions.read(reader);
    return list.length == 1 ? list[0] : list;
  },
};

const overflow = name(['catch_up', 'drop_oldest', 'drop_newest', 'latest', 'disconnect']);

const report = record({
  matched: integer,
  queued: integer,
  merged: integer,
  dropped: integer,
  behind: integer,
  partial: flag(false),
});
const subscribed = record({
  positions: list(record({ '...position': position, live: integer })),
  overflow,
  limit: integer,
  limit_bytes: integer,
  live_only: flag(false),
});
const published = record({
  '...position': {
    write: (writer, value) => optional(position).write(writer, value.epoch && value),
    read: (reader) => optional(position).read(reader) ?? { live_only: true },
  },
  duplicate: flag(false),
  report: optional(report),
});
const acked: Type = {
  write(writer, value) {
    const number = value.positions ? 1 : value.epoch || value.live_only ? 2 : 0;
    integer.write(writer, number);
    if (number) (number == 1 ? subscribed : published).write(writer, value);
  },
  read(reader) {
    const number = choice(reader, 3);
    return number && (number == 1 ? subscribed : published).read(reader);
  },
};

const message = record({
  topic: text,
  stream: optional(text),
  offset: optional(integer),
  prev: optional(integer),
  time: integer,
  '...payload': payload,
  key: optional(text),
  headers,
  sub: optional(integer),
});

type Frames = Record<number, [op: string, fields: Type]>;

/** Exported for the tests, which read them too. */
export const CLIENT: Frames = {
  1: ['connect', record({ id: integer, token: optional(text), client: optional(text), instance: optional(text) })],
  2: [
    'subscribe',
    record({
      id: integer,
      filter: text,
      from,
      overflow: optional(overflow),
      limit: optional(integer),
      limit_bytes: optional(integer),
      credit: optional(integer),
      echo: flag(true),
    }),
  ],
  3: ['unsubscribe', record({ id: integer, sub: integer })],
  4: [
    'publish',
    record({
      id: optional(integer),
      topic: text,
      '...payload': payload,
      key: optional(text),
      headers,
      idempotency: optional(text),
      report: flag(false),
    }),
  ],
  5: ['history', record({ id: integer, topic: text, from, limit: optional(integer) })],
  6: ['refresh', record({ id: integer, token: text })],
  7: ['credit', record({ sub: integer, add: integer })],
  8: ['ping', record({ id: integer })],
};

/** Exported for the tests, which write them too. */
export const SERVER: Frames = {
  16: [
    'welcome',
    record({
      id: integer,
      connection: text,
      limits: record({
        payload_bytes: integer,
        message_bytes: integer,
        subscriptions: integer,
        limit: integer,
        limit_bytes: integer,
      }),
      publish_window: record({ messages: integer, bytes: integer }),
      ping_ms: integer,
      reconnect_ms: {
        write: (writer, value) => value.forEach((edge: number) => integer.write(writer, edge)),
        read: (reader) => [integer.read(reader), integer.read(reader)],
      },
    }),
  ],
  17: ['ack', record({ id: integer, '...acked': acked })],
  18: ['error', record({ id: optional(integer), code: integer, name: text, message: text, retry: boolean })],
  19: ['message', message],
  20: [
    'gap',
    record({
      sub: integer,
      stream: optional(text),
      topic: optional(text),
      count: optional(integer),
      at_most: optional(integer),
      from: optional(integer),
      to: optional(integer),
      reason: name(REASONS),
      policy: overflow,
    }),
  ],
  21: [
    'mark',
    record({
      positions,
      subs: list(record({ sub: integer, messages: integer, gapped: integer, behind: flag(false) })),
    }),
  ],
  22: [
    'history',
    record({ id: integer, messages: list(message), position: optional(position), more: flag(false) }),
  ],
  23: ['unsubscribed', record({ sub: integer, code: optional(integer) })],
  24: ['drain', record({ reconnect_ms: integer })],
  25: ['pong', record({ id: integer })],
};

/** Exported for the tests. */
export function write(writer: Writer, frame: ClientFrame | ServerFrame, frames: Frames = CLIENT): void {
  for (const number in frames) {
    const [op, fields] = frames[number]!;
    if (op != frame.op) continue;
    integer.write(writer, +number);
    fields.write(writer, frame);
  }
}

/** Exported for the tests. */
export function read(data: ArrayBuffer, frames: Frames): ServerFrame[] {
  const reader = new Reader(new DataView(data));
  const found: ServerFrame[] = [];
  while (reader.at < data.byteLength) {
    reader.bad = 0;
    try {
      const number = integer.read(reader);
      const known = frames[number];
      if (!known) return [...found, unreadable(1002, true)];
      const fields = known[1].read(reader);
      found.push(reader.bad ? unreadable(reader.bad) : { op: known[0], ...fields });
    } catch {
      return [...found, unreadable(1001, true)];
    }
  }
  return found;
}
