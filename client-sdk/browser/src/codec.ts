import type { ClientFrame, ServerFrame } from './frame.js';

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
