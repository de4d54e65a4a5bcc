// What the page writes: figures, times, and the words for what the broker says.

const GAP_REASONS = {
  overflow: "the subscription's queue was full",
  merged: "newer values of the same key took their place",
  evicted: "the log no longer holds them",
  epoch: "the log began anew, as after a restart of the broker",
  away: "live-only messages while this page was away",
  books: "the broker's count and this page's did not agree; reading on from the log",
};

export function number(n) {
  return n.toLocaleString("en");
}

export function milliseconds(ms) {
  return `${ms < 10 ? ms.toFixed(1) : number(Math.round(ms))} ms`;
}

/** A time of day, by this computer's zone; `time` in milliseconds since the Unix epoch. */
export function clock(time) {
  const date = new Date(time);
  const digits = (n, width) => String(n).padStart(width, "0");
  const [hours, minutes, seconds] = [date.getHours(), date.getMinutes(), date.getSeconds()].map((n) => digits(n, 2));
  return `${hours}:${minutes}:${seconds}.${digits(date.getMilliseconds(), 3)}`;
}

/** A message frame's payload. */
export function payloadText({ text, binary, json }, pretty = false) {
  if (text !== undefined) return text;
  if (binary !== undefined) return `${number(binaryLength(binary))} B  ${binary}`;
  return JSON.stringify(json, null, pretty ? 2 : 0);
}

export function gapText({ count, at_most: atMost, from, to, reason, policy }) {
  const where = from === undefined ? "" : from === to ? `, offset ${from}` : `, offsets ${from} to ${to}`;
  return `${lossText(count, atMost)}${where}: ${GAP_REASONS[reason] ?? reason} (${policy})`;
}

/** A publish ack's report; what is 0 goes without saying, but for the first two. */
export function reportText({ matched, queued, merged, dropped, behind, partial }) {
  const rest = Object.entries({ merged, dropped, behind }).filter(([, count]) => count > 0);
  const counts = [["matched", matched], ["queued", queued], ...rest].map(([name, count]) => `${name} ${number(count)}`);
  return counts.join(", ") + (partial ? " (partial)" : "");
}

/** A subscription's positions, by stream, as the form's `after epoch:offset` takes them. */
export function positionText(positions) {
  const texts = Array.from(positions, ([stream, { epoch, offset }]) => `${stream ? `${stream} ` : ""}${epoch}:${offset}`);
  return texts.join(", ");
}

function lossText(count, atMost) {
  const missing = count ?? atMost;
  if (missing === undefined) return "Messages may be missing, how many is not known";
  const messages = `${number(missing)} message${missing === 1 ? "" : "s"} not delivered`;
  return count === undefined ? `At most ${messages}` : messages;
}

function binaryLength(base64) {
  const padding = base64.endsWith("==") ? 2 : base64.endsWith("=") ? 1 : 0;
  return (base64.length / 4) * 3 - padding;
}
