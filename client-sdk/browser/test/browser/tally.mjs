// What a tab was given, held against what was published.
//
// A tab writes down every item in the order it came: `{type: "message", n, offset}` for the message numbered n,
// `{type: "gap", …}`, `{type: "resumed"}`, `{type: "reset", …}`. Both checks answer with sentences, one for each fault:
// an empty list is a whole flow. `tally.test.mjs` proves that they notice.

/** A flow with thousands of faults tells as much in its first few. */
const MOST_FAULTS = 10;

/**
 * What is wrong with a flow of messages that were published in the order of their numbers, `first` to `last`: every
 * number must come, once, in order. Only right behind a `reset` may numbers be missing, or come again; a gap is a
 * fault, but for the one of a log that is gone, beside a `reset`.
 */
export function faultsOfWholeFlow(entries, { first = 1, last }) {
  const faults = [];
  let expected = first;
  let previous = "the start";
  let beside = false;
  for (const entry of entries) {
    if (entry.type === "reset") {
      beside = true;
    } else if (entry.type === "gap") {
      if (!(beside && entry.reason === "epoch")) faults.push(`${previous}: a gap: ${JSON.stringify(entry)}`);
    } else if (entry.type === "message") {
      if (entry.n !== expected && !beside) faults.push(misplaced(entry.n, expected, previous));
      expected = entry.n + 1;
      previous = `behind ${entry.n}`;
      beside = false;
    } else if (entry.type !== "resumed") {
      faults.push(`${previous}: an item of no known type: ${JSON.stringify(entry)}`);
    }
  }
  if (expected !== last + 1) faults.push(`the flow ends ${previous}, and not with ${last}`);
  return faults.slice(0, MOST_FAULTS);
}

function misplaced(n, expected, previous) {
  if (!Number.isInteger(n)) return `${previous}: the message is not a number: ${JSON.stringify(n)}`;
  if (n < expected) return `${previous}: ${n} came again, or out of order`;
  return `${previous}: ${n} came, and ${n - expected} before it did not`;
}

/**
 * What is wrong with the gaps of a flow that was given messages of one topic alone in its stream, numbered like its
 * offsets from 1 to `last`: each message is given in order or told by exactly one gap, in its place. `placed: false` lets a gap
 * be told later than its hole (as where `latest` merges values of several keys), and only the sums must be right.
 */
export function faultsOfToldFlow(entries, { last, placed = true }) {
  const faults = [];
  let given = 0;
  let told = 0;
  /** Everything up to here has been given, or told by a gap. */
  let upTo = 0;
  let missing = 0;
  for (const entry of entries) {
    if (entry.type === "message") {
      given += 1;
      if (entry.n !== entry.offset) faults.push(`the message numbered ${entry.n} has offset ${entry.offset}`);
      if (entry.n <= upTo) faults.push(`${entry.n} came behind ${upTo}`);
      missing += entry.n - upTo - 1;
      if (placed && missing !== 0) faults.push(`before ${entry.n}, ${missing} are missing that no gap has told`);
      missing = placed ? 0 : missing;
      upTo = Math.max(upTo, entry.n);
    } else if (entry.type === "gap") {
      told += entry.count ?? 0;
      if (entry.count === undefined) faults.push(`a gap without its count: ${JSON.stringify(entry)}`);
      if (placed) {
        if (entry.from !== upTo + 1) faults.push(`behind ${upTo} a gap from ${entry.from}`);
        if (entry.to - entry.from + 1 !== entry.count) {
          faults.push(`a gap of ${entry.count} from ${entry.from} to ${entry.to}`);
        }
        upTo = entry.to;
      }
    } else {
      faults.push(`an item that is neither message nor gap: ${JSON.stringify(entry)}`);
    }
  }
  if (given + told !== last) faults.push(`${given} were given and ${told} told by gaps, together ${given + told} of ${last}`);
  if (upTo !== last) faults.push(`the flow ends behind ${upTo}, and not with ${last}`);
  return faults.slice(0, MOST_FAULTS);
}
