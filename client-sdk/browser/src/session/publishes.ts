/** Publishes whose ack has not come: the window, the order, what goes again and what cannot. */

import { TidegateError } from '../error.js';
import type { Ack, ErrorFrame, Publish, Welcome } from '../frame.js';

/**
 * How long after a publish was first sent it may still be sent again, in milliseconds. The broker remembers an
 * idempotency key for 2 minutes; the rest is for the repeat to get there.
 */
const REPEATABLE = 110_000;

/** The most publishes, and bytes of payload, that wait for a place in the broker's window. */
const MOST_WAITING = { messages: 16_384, bytes: 16 << 20 };

type Window = Welcome['publish_window'];

interface Unacked {
  frame: Publish;
  bytes: number;
  settle: (result: Ack | TidegateError) => void;
  /** Absent if no broker can have seen it. */
  first?: number | undefined;
  /** Whether the broker refused it for now: it was sent, but is not in flight. */
  refused?: boolean;
}

export class Publishes {
  /** Not sent on this connection, in the order they were asked for. */
  #waiting: Unacked[] = [];
  /** Sent on this connection, by id, in the same order. */
  #sent = new Map<number, Unacked>();
  #bytes = 0;
  #flying = { messages: 0, bytes: 0 };
  /** What the last welcome said; until the first one what brokers say by default. */
  window: Window = { messages: 1024, bytes: 1 << 20 };

  get inFlight(): number {
    return this.#flying.messages;
  }

  /** Whether one more would have to wait for a place in the window. */
  isFull(bytes: number, window: Window = this.window): boolean {
    const count = this.#waiting.length + this.#sent.size;
    return count > 0 && (count >= window.messages || this.#bytes + bytes > window.bytes);
  }

  push(frame: Publish, bytes: number, settle: Unacked['settle']): void {
    if (this.isFull(bytes, MOST_WAITING)) {
      settle(new TidegateError(0, 'too many publishes wait for their acks', { name: 'queue_full', retry: true }));
      return;
    }
    this.#bytes += bytes;
    this.#waiting.push({ frame, bytes, settle });
  }

  /** The next one to write, now with `id`, if the window has room for it. What waited too long for it fails. */
  next(id: number, now: number, isTooLarge: (frame: Publish, bytes: number) => boolean): Publish | undefined {
    for (let next; (next = this.#waiting[0]); ) {
      const { frame, bytes } = next;
      const { messages, bytes: flying } = this.#flying;
      const forgotten = isForgotten(next, now);
      // A message larger than the window goes alone.
      if (!forgotten && messages && (messages >= this.window.messages || flying + bytes > this.window.bytes)) return;
      this.#waiting.shift();
      if (forgotten) this.#fail(next, 1502);
      else if (isTooLarge(frame, bytes)) this.#fail(next, 1203);
      else {
        frame.id = id;
        next.first ??= now;
        this.#sent.set(id, next);
        this.#flying = { messages: messages + 1, bytes: flying + bytes };
        return frame;
      }
    }
    return;
  }

  /** True if the answer is a publish's. */
  onAnswer(answer: Ack | ErrorFrame): boolean {
    const id = answer.id ?? 0;
    const unacked = this.#sent.get(id);
    if (!unacked) return false;
    if (!unacked.refused) {
      this.#flying.messages--;
      this.#flying.bytes -= unacked.bytes;
    }
    if (answer.op == 'error' && answer.code == 1500) {
      // It was not published, and neither was what came after it: all of it goes to the next broker, in order.
      unacked.refused = true;
      unacked.first = undefined;
    } else {
      this.#sent.delete(id);
      this.#settle(unacked, answer.op == 'ack' ? answer : new TidegateError(answer.code, answer.message, answer));
    }
    return true;
  }

  /** The connection is gone: what was sent goes again, but what has no key to be known by. */
  onDisconnected(now: number): void {
    const again = [...this.#sent.values()];
    this.#sent.clear();
    this.#flying = { messages: 0, bytes: 0 };
    this.#waiting = [
      ...again.filter((unacked) => {
        unacked.refused = false;
        const lost = unacked.first !== undefined && unacked.frame.idempotency === undefined;
        if (lost) this.#fail(unacked, 1502);
        return !lost;
      }),
      ...this.#waiting,
    ];
    this.expire(now);
  }

  /** Fails what can no longer be sent again. Only while there is no connection. */
  expire(now: number): void {
    this.#waiting = this.#waiting.filter((unacked) => {
      const forgotten = isForgotten(unacked, now);
      if (forgotten) this.#fail(unacked, 1502);
      return !forgotten;
    });
  }

  /** When `expire` has something to do. */
  deadline(): number {
    // Sent in order, so the first is the oldest; one that was never sent, or refused for now, has no time.
    const oldest = this.#waiting.find((unacked) => unacked.first !== undefined);
    return oldest ? oldest.first! + REPEATABLE : Infinity;
  }

  /** The client ends. */
  failAll(error: TidegateError): void {
    const all = [...this.#sent.values(), ...this.#waiting];
    this.#sent.clear();
    this.#waiting = [];
    this.#flying = { messages: 0, bytes: 0 };
    for (const unacked of all) {
      if (unacked.first === undefined) this.#settle(unacked, error);
      else this.#fail(unacked, 1502);
    }
  }

  #fail(unacked: Unacked, code: number): void {
    this.#settle(unacked, new TidegateError(code));
  }

  #settle(unacked: Unacked, result: Ack | TidegateError): void {
    this.#bytes -= unacked.bytes;
    unacked.settle(result);
  }
}

/** Whether the broker may have forgotten its idempotency key. */
function isForgotten({ first }: Unacked, now: number): boolean {
  return first !== undefined && now - first >= REPEATABLE;
}
