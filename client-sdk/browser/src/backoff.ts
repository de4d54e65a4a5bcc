/** The first retry comes within this time, and the later ones' window grows from it. */
const FIRST = 200;

/**
 * How long a connection has to last, in milliseconds, for its loss to be a new one. A broker that welcomes and closes
 * at once must not be met five times a second.
 */
export const LIVED = 1000;

/**
 * The delay before attempt number `attempt` (0 is the first after a connection that lived), in milliseconds. Full
 * jitter: drawn evenly from a window that doubles with each attempt up to the broker's own, so that clients who lost
 * the same broker do not come back together. After 4008 and 4009 start with attempt 1.
 *
 * @param window the `reconnect_ms` of the last welcome
 */
export function delay(
  attempt: number,
  [from, to]: readonly [from: number, to: number] = [0, 5000],
  random: () => number = Math.random,
): number {
  if (!attempt) return random() * FIRST;
  // A window of no width would have every client hammer a broker that is down.
  const most = Math.max(from, Math.min(Math.max(to, FIRST), FIRST * 2 ** Math.min(attempt, 20)));
  return from + random() * (most - from);
}
