// What each subscription was given and not given, second by second. No DOM in here; the clock is an argument.

/** How long a slice is, in milliseconds. */
export const SLICE_MS = 500;
/** Slices that are kept: one minute. */
export const SLICES = 120;

/** Rates of the last minute, from counters that only grow. */
export class Rates {
  /** By subscription: `{last, slices}`, the counters when the newest slice began and what the slices hold. */
  #series = new Map();
  #slice = 0;
  #began = null;

  /**
   * Takes the counters as they stand at `now`, in milliseconds of a clock that never goes back. A slice that nobody
   * sampled (a tab asleep) holds nothing; what grew meanwhile is put to the one that ends it.
   */
  sample(now, subscriptions) {
    this.#began ??= now;
    const slice = Math.floor((now - this.#began) / SLICE_MS);
    const moved = Math.min(slice - this.#slice, SLICES);
    this.#slice = slice;
    for (const { slices } of this.#series.values()) {
      for (let i = 0; i < moved; i += 1) slices.push({ received: 0, missed: 0 });
      slices.splice(0, slices.length - SLICES);
    }
    for (const subscription of this.#series.keys()) {
      if (!subscriptions.includes(subscription)) this.#series.delete(subscription);
    }
    for (const subscription of subscriptions) {
      const { received, missed } = subscription;
      if (!this.#series.has(subscription)) {
        const slices = Array.from({ length: SLICES }, () => ({ received: 0, missed: 0 }));
        this.#series.set(subscription, { last: { received: 0, missed: 0 }, slices });
      }
      const series = this.#series.get(subscription);
      const newest = series.slices.at(-1);
      newest.received += received - series.last.received;
      newest.missed += missed - series.last.missed;
      series.last = { received, missed };
    }
  }

  /** By subscription: `[received, missed]` a second of each slice that is over, the oldest first. */
  get lines() {
    const perSecond = 1000 / SLICE_MS;
    return new Map(
      Array.from(this.#series, ([subscription, { slices }]) => [
        subscription,
        slices.slice(0, -1).map(({ received, missed }) => [received * perSecond, missed * perSecond]),
      ]),
    );
  }
}

/** The next round number that is no less: 1, 2 or 5 times a power of ten, at least 10. */
export function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 10)));
  return [1, 2, 5, 10].map((step) => step * power).find((round) => round >= value);
}
