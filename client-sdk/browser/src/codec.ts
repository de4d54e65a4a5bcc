import type { ClientFrame, ServerFrame, Unreadable } from './frame.js';

/** How frames are written, agreed on by WebSocket subprotocol. */
export interface Codec {
  /** The WebSocket subprotocol's name. */
  readonly subprotocol: string;
  /** Writes frames as one WebSocket message. */
  encode(frames: readonly ClientFrame[]): string | Uint8Array<ArrayBuffer>;
  /**
   * Reads the frames of one WebSocket message, in order. Never throws: what cannot be read stands among them as
   * `unreadable`.
   */
  decode(data: string | ArrayBuffer): ServerFrame[];
}

/** What stands for a frame that could not be read; `code` is one of error.ts. */
export function unreadable(code: number, fatal = false): Unreadable {
  return { op: 'unreadable', code, fatal };
}

/** Why a gap may be: the protocol's order is their number in bincode. */
export const REASONS = ['overflow', 'merged', 'evicted', 'epoch', 'away', 'books'] as const;
