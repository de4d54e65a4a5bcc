import { REASONS, unreadable, type Codec } from './codec.js';
import type { ClientFrame, ServerFrame } from './frame.js';

const MESSAGE = { topic: '', time: 0, $offset: 0, $prev: 0, $sub: 0 };
const POSITION = { epoch: '', offset: 0 };
/**
 * What the session relies on in a frame: fields of these types (0 is a safe integer); those with `$` may be absent. A
 * newer broker may send more.
 */
const SHAPES: Record<string, Shape> = {
  welcome: {
    id: 0,
    connection: '',
    limits: { payload_bytes: 0, message_bytes: 0 },
    publish_window: { messages: 0, bytes: 0 },
    ping_ms: 0,
    reconnect_ms: [0],
  },
  ack: { id: 0, $positions: [{ ...POSITION, live: 0 }], $epoch: '', $offset: 0 },
  error: { $id: 0, code: 0, name: '', message: '' },
  message: MESSAGE,
  gap: { sub: 0, $count: 0, $at_most: 0, $from: 0, $to: 0, reason: '', policy: '' },
  mark: { positions: [POSITION], subs: [{ sub: 0, messages: 0, gapped: 0 }] },
  history: { id: 0, messages: [MESSAGE], $position: POSITION },
  unsubscribed: { sub: 0, $code: 0 },
  drain: { reconnect_ms: 0 },
  pong: { id: 0 },
};
type Shape = number | string | [Shape] | { [name: string]: Shape };

/** What JSON.parse gives, before it was looked at. */
type Parsed = any;

/** One frame a line: `tidegate.v1.json`. */
export const json: Codec = {
  subprotocol: 'tidegate.v1.json',
  encode: (frames) => frames.map(encode).join('\n'),
  decode: (data) =>
    typeof data == 'string'
      ? data
          .split('\n')
          .filter((line) => line.trim())
          .map(decode)
      : [unreadable(1001, true)],
};

function encode(frame: ClientFrame): string {
  if (frame.op != 'publish') return JSON.stringify(frame);
  const { kind, data, ...rest } = frame;
  const payload = kind == 'json' ? data : JSON.stringify(typeof data == 'string' ? data : base64(data));
  return `${JSON.stringify(rest).slice(0, -1)},"${kind}":${payload}}`;
}

function decode(line: string): ServerFrame {
  let frame: Parsed;
  try {
    frame = JSON.parse(line);
  } catch {
    return unreadable(1001);
  }
  const shape = SHAPES[frame?.op];
  if (!shape) return unreadable(frame?.op ? 1002 : 1001);
  if (!fits(frame, shape) || (frame.op == 'gap' && !REASONS.includes(frame.reason))) return unreadable(1003);
  try {
    if (frame.op == 'message') content(frame);
    if (frame.op == 'history') frame.messages.forEach(content);
  } catch {
    return unreadable(1202);
  }
  return frame;
}

function fits(value: Parsed, shape: Shape): boolean {
  if (typeof shape == 'number') return Number.isSafeInteger(value);
  if (typeof shape != 'object') return typeof value == 'string';
  if (Array.isArray(shape)) return Array.isArray(value) && value.every((item) => fits(item, shape[0]));
  for (const name in shape) {
    const optional = name[0] == '$';
    const field = value?.[optional ? name.slice(1) : name];
    if (!(optional && field === undefined) && !fits(field, shape[name]!)) return false;
  }
  return true;
}

/** Puts a message's payload where both codecs have it. Its own field stays: to delete it would make the object slow. */
function content(message: Parsed): void {
  const kind = 'json' in message ? 'json' : 'text' in message ? 'text' : 'binary';
  message.kind = kind;
  message.data = message[kind];
  if (kind == 'binary') message.data = Uint8Array.from(atob(message.binary), (char) => char.charCodeAt(0));
}

/** Not by spreading the bytes into one call: its arguments stand on the stack. */
function base64(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}
