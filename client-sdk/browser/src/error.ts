/**
 * The errors of the protocol: a line for each hundred, from 1000, with the names of its numbers. Those with a `!` can
 * succeed when the same is asked again later.
 */
const NAMES = [
  'internal! malformed_frame unknown_op bad_field id_not_growing already_connected',
  'unauthorized token_invalid token_expired permission_denied',
  'topic_invalid filter_invalid payload_invalid payload_too_large too_deep topic_reserved attributes_too_large',
  'subscription_unknown too_many_subscriptions from_invalid no_history',
  'over_budget! rate_limited! history_busy!',
  'draining! engine_unavailable! outcome_unknown!',
];

/** What went wrong: a number of the table in docs/protocol.md, its name, and whether the same can succeed later. */
export class TidegateError extends Error {
  declare readonly code: number;
  declare readonly retry: boolean;

  /** @param frame the broker's own words, which go before the table's: it may be newer than this client */
  constructor(code: number, message?: string, frame?: { name: string; retry: boolean }) {
    const known = NAMES[Math.floor(code / 100) - 10]?.split(' ')[code % 100] ?? 'unknown';
    const name = frame?.name ?? known.replace('!', '');
    super(message || name);
    this.code = code;
    this.name = name;
    this.retry = frame?.retry ?? known.endsWith('!');
  }
}
