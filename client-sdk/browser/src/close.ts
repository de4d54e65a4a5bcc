/** Close codes below 4000 that say the broker would refuse this client again. */
const FINAL = [1000, 1002, 1003, 1007, 1008, 1009];

/** The reasons of the close codes, for a close frame that has none. */
const REASONS: Record<number, string> = {
  1000: 'normal',
  1001: 'going away',
  1002: 'websocket protocol error',
  1003: 'message kind not supported',
  1006: 'connection lost',
  1007: 'text is not UTF-8',
  1008: 'policy violation',
  1009: 'message too big',
  1011: 'internal error',
  4000: 'draining',
  4001: 'no pong',
  4002: 'over budget',
  4008: 'slow',
  4009: 'stalled',
  4500: 'unauthorized',
  4501: 'too many errors',
  4502: 'malformed frame',
  4503: 'closed by the operator',
};

/** Whether a client comes back after a connection closed with this code: 4500 to 4999 and a few others say no. */
export function comesBack(code: number): boolean {
  return code < 4500 && !FINAL.includes(code);
}

/** The reason to tell where the broker gave none. */
export function reasonOf(code: number): string {
  return REASONS[code] ?? '';
}
