import { REASONS, type Codec } from './codec.js';
import type { ClientFrame, ServerFrame } from './frame.js';

/** The integers a frame cannot do without, and by that what it can be. A newer broker may send more fields. */
const INTEGERS: Record<string, string[]> = {
  welcome: ['id', 'ping_ms'],
  ack: ['id'],
  error: ['code'],
  message: ['time'],
  gap: ['sub'],
  mark: [],
  history: ['id'],
  unsubscribed: ['sub'],
  drain: ['reconnect_ms'],
  pong: ['id'],
};

/** What JSON.parse gives, before it was looked at. */
type Parsed = any;

/** One frame a line: `tidegate.v1.json`. */
export const json: Codec = {
  subprotocol: 'tidegate.v1.json',
  encode: (frames) => frames.map(encode).join('\n'),
  // A binary message reads as a line that is no frame.
  decode: (data) => `${data}`.split('\n').filter((line) => line.trim()).map(decode),
};

function encode(frame: ClientFrame): string {
  if (frame.op != 'publish') return JSON.stringify(frame);
  const { kind, data, ...rest } = frame;
  const payload = kind == 'json' ? data : JSON.stringify(typeof data == 'string' ? data : base64(data));
  return `${JSON.stringify(rest).slice(0, -1)},"${kind}":${payload}}`;
}

function decode(line: string): ServerFrame {
  let code = 1001;
  try {
    const frame: Parsed = JSON.parse(line);
    const { op } = frame;
    const integers = INTEGERS[op];
    if (op) code = 1002;
    if (integers) {
      code = 1003;
      if (integers.every((name) => Number.isSafeInteger(frame[name])) && (op != 'gap' || REASONS.includes(frame.reason))) {
        code = 1202;
        if (op == 'message') content(frame);
        if (op == 'history') frame.messages.forEach(content);
        return frame;
      }
    }
  } catch {
    // The code says how far it came.
  }
  return { op: 'unreadable', code, fatal: false };
}

/** Puts a message's payload where both codecs have it. Its own field stays: to delete it would make the object slow. */
function content(message: Parsed): void {
  const kind = 'json' in message ? 'json' : 'text' in message ? 'text' : 'binary';
  message.kind = kind;
  message.data = message[kind];
  if (kind == 'binary') message.data = Uint8Array.from(atob(message.binary), (char) => char.charCodeAt(0));
}

/** Not by spreading the bytes into one call: its arguments stand on the stack. */
const base64 = (bytes: Uint8Array): string => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
