import type { Codec } from './codec.js';
import type { ClientFrame, ServerFrame } from './frame.js';

/** One way to reach a broker. */
export interface Transport {
  readonly name: 'websocket' | 'sse';
  /**
   * Starts a connection. Never throws, and calls no handler before it returns: a missing or throwing constructor is
   * a `close` that was never opened.
   *
   * @param url of the broker's WebSocket (`ws://…/ws`, `wss://…/ws`); others derive their own addresses from it
   * @param codec of a WebSocket; the fallback speaks JSON whatever it is
   */
  open(url: string, codec: Codec, handlers: Handlers): Link;
}

/** What a connection tells. After `close` nothing comes. */
export interface Handlers {
  /** Frames can be sent. */
  open(): void;
  /** Frames in their order. An empty list is a sign of life alone. */
  frames(frames: ServerFrame[]): void;
  /** The connection is over, or never was. 1006 where the broker said nothing. */
  close(code: number, reason: string): void;
}

/** A connection under way or open. */
export interface Link {
  /** Sends frames, in order. What the network does not take at once waits, and is counted by `buffered`. */
  send(frames: readonly ClientFrame[]): void;
  /** Bytes (UTF-16 units for text) handed to `send` that have not left yet. */
  buffered(): number;
  /** Ends it; no handler is called afterwards. */
  close(): void;
}
