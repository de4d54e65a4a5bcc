/**
 * The errors of the protocol: from each number the names of it and those that follow. Those with a `!` can succeed when
 * the same is asked again later.
 */
const NAMES: Record<number, string> = {
  1000: 'internal! malformed_frame unknown_op bad_field id_not_growing already_connected',
  1100: 'unauthorized token_invalid token_expired permission_denied',
  1200: 'topic_invalid filter_invalid payload_invalid payload_too_large too_deep topic_reserved attributes_too_large',
  1300: 'subscription_unknown too_many_subscriptions from_invalid no_history',
  1400: 'over_budget! rate_limited! history_busy!',
  1500: 'draining! engine_unavailable! outcome_unknown!',
};

/** What went wrong: a number of the table in docs/protocol.md, its name, and whether the same can succeed later. */
export class TidegateError extends Error {
  readonly code: number;
  readonly retry: boolean;

  /** @param frame the broker's own words, which go before the table's: it may be newer than this client */
  constructor(code: number, message?: string, frame?: { name: string; retry: boolean }) {
    const known = NAMES[code - (code % 100)]?.split(' ')[code % 100] ?? 'unknown';
    const name = frame?.name ?? known.replace('!', '');
    super(message || name);
    this.code = code;
    this.name = name;
    this.retry = frame?.retry ?? known.endsWith('!');
  }
}
