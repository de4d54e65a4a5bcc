/** Publishes whose ack has not come: the window, the order, what goes again and what cannot. */

import { TidegateError } from '../error.js';
import type { Ack, Publish, Welcome } from '../frame.js';

/**
 * How long after a publish was first sent it may still be sent again, in milliseconds. The broker remembers an
 * idempotency key for 2 minutes; the rest is for the repeat to get there.
 */
const REPEATABLE = 110_000;

export type Window = Welcome['publish_window'];

interface Unacked {
  frame: Publish;
  bytes: number;
  settle: (result: Ack | TidegateError) => void;
  /** When it was first sent; `Infinity` if no broker can have seen it. */
  first: number;
}

export type Publishes = ReturnType<typeof createPublishes>;

export function createPublishes() {
  /** Not sent on this connection, in the order they were asked for. */
  let waiting: Unacked[] = [];
  /** Sent on this connection, by id, in the same order. */
  const sent = new Map<number, Unacked>();
  /** Payload bytes of both. */
  let held = 0;
  let flying = 0;
  let flyingBytes = 0;

  /** Without a result: nobody can learn it. */
  const settle = (unacked: Unacked, result: Ack | TidegateError = new TidegateError(1502)) => {
    held -= unacked.bytes;
    unacked.settle(result);
  };
  /** The broker may have forgotten its idempotency key. */
  const isForgotten = ({ first }: Unacked, now: number) => now - first >= REPEATABLE;
  /** Takes back all that was sent on this connection. */
  const land = () => {
    waiting = [...sent.values(), ...waiting];
    sent.clear();
    flying = flyingBytes = 0;
  };

  return {
    /** Whether nothing waits for an ack. */
    isIdle: () => !flying,

    /** Whether one more would go beyond these bounds. One alone never does. */
    isFull(bytes: number, { messages, bytes: most }: Window): boolean {
      return waiting.length + sent.size >= messages || (held > 0 && held + bytes > most);
    },

    push(frame: Publish, bytes: number, settle: Unacked['settle']): void {
      held += bytes;
      waiting.push({ frame, bytes, settle, first: Infinity });
    },

    /** The next one to write, now with `id`, if the window has room for it. What waited too long for it fails. */
    next(
      id: number,
      now: number,
      window: Window,
      isTooLarge: (frame: Publish, bytes: number) => boolean,
    ): Publish | undefined {
      for (let next; (next = waiting[0]); ) {
        const { frame, bytes } = next;
        const forgotten = isForgotten(next, now);
        // A message larger than the window goes alone.
        if (!forgotten && flying && (flying >= window.messages || flyingBytes + bytes > window.bytes)) return;
        waiting.shift();
        if (forgotten) settle(next);
        else if (isTooLarge(frame, bytes)) settle(next, new TidegateError(1203));
        else {
          frame.id = id;
          next.first = Math.min(next.first, now);
          sent.set(id, next);
          flying++;
          flyingBytes += bytes;
          return frame;
        }
      }
      return;
    },

    /** True if the answer to the request `id` is a publish's. */
    onAnswer(id: number, answer: Ack | TidegateError): boolean {
      const unacked = sent.get(id);
      if (!unacked) return false;
      flying--;
      flyingBytes -= unacked.bytes;
      if ((answer as Partial<TidegateError>).code == 1500) {
        // It was not published, and neither was what came after it: all of it goes to the next broker, in order.
        unacked.first = Infinity;
      } else {
        sent.delete(id);
        settle(unacked, answer);
      }
      return true;
    },

    /** There is no connection: what was sent goes again, but what has no key to be known by, or an old one. */
    onDisconnected(now: number): void {
      land();
      waiting = waiting.filter((unacked) => {
        const isLost = isForgotten(unacked, now) || (unacked.first < Infinity && !unacked.frame.idempotency);
        if (isLost) settle(unacked);
        return !isLost;
      });
    },

    /** The client ends. */
    failAll(error: TidegateError): void {
      land();
      for (const unacked of waiting.splice(0)) settle(unacked, unacked.first < Infinity ? undefined : error);
    },
  };
}
