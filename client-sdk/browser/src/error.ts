/** Every error of the protocol: number to name. Those with a `!` can succeed when the same is asked again later. */
const NAMES: Record<number, string> = {
  1000: 'internal!',
  1001: 'malformed_frame',
  1002: 'unknown_op',
  1003: 'bad_field',
  1004: 'id_not_growing',
  1005: 'already_connected',
  1100: 'unauthorized',
  1101: 'token_invalid',
  1102: 'token_expired',
  1103: 'permission_denied',
  1200: 'topic_invalid',
  1201: 'filter_invalid',
  1202: 'payload_invalid',
  1203: 'payload_too_large',
  1204: 'too_deep',
  1205: 'topic_reserved',
  1206: 'attributes_too_large',
  1300: 'subscription_unknown',
  1301: 'too_many_subscriptions',
  1302: 'from_invalid',
  1303: 'no_history',
  1400: 'over_budget!',
  1401: 'rate_limited!',
  1402: 'history_busy!',
  1500: 'draining!',
  1501: 'engine_unavailable!',
  1502: 'outcome_unknown!',
};

/** What went wrong: a number of the table in docs/protocol.md, its name, and whether the same can succeed later. */
export class TidegateError extends Error {
  readonly code: number;
  readonly retry: boolean;

  /** @param frame the broker's own words, which go before the table's: it may be newer than this client */
  constructor(code: number, message?: string, frame?: { name: string; retry: boolean }) {
    const name = NAMES[code] ?? 'unknown';
    super(message || (frame ? frame.name : name.replace('!', '')));
    this.code = code;
    this.name = frame ? frame.name : name.replace('!', '');
    this.retry = frame ? frame.retry : name.endsWith('!');
  }
}
