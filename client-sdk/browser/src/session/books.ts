/** What a subscription was given, held against what the broker says it wrote. */

import type { Position } from '../frame.js';

/** Counts since the subscription's ack on this connection. */
export interface Books {
  /** Message frames. */
  messages: number;
  /** Messages told missing by gap frames: exact counts, else upper bounds. */
  gapped: number;
}

/** How much of `told` did not come. */
export function shortfall(told: Books, had: Books): number {
  return Math.max(0, told.messages - had.messages) + Math.max(0, told.gapped - had.gapped);
}

/**
 * Books that did not agree, while the log is read on from the subscription's own position: what comes up to the mark's
 * positions is what was missing at the end. The rest was lost in the middle, and becomes a gap.
 */
export class Repair {
  missing: number;
  /** The mark's positions that are still ahead. */
  ahead: readonly Position[];
  /** Whether `missing` is no mere bound. */
  exact: boolean;

  /**
   * @param targets the mark's positions; none where they do not hold
   * @param bound messages missing already, which may be among these: what is read again can be lost again
   */
  constructor(missing: number, targets: readonly Position[] | undefined, bound?: number) {
    this.missing = missing + (bound ?? 0);
    this.ahead = targets ?? [];
    this.exact = !!targets && bound === undefined;
  }

  /** Something came that stands for so many messages, from `from` up to `to`. */
  on(stream: string | undefined, messages: number, from: number, to: number): void {
    const target = this.ahead.find((target) => target.stream == stream);
    if (!target) return;
    if (to <= target.offset) this.missing = Math.max(0, this.missing - messages);
    // Some of its messages are of those that are missed, and nobody says how many.
    else if (from <= target.offset) this.exact = false;
  }
}
