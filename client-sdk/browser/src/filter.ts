const BYTES = 255;
const TOKENS = 16;

/** Whether the text is a topic: dotted tokens without wildcards, white space and control characters. */
export function isTopic(text: string): boolean {
  return check(text, false);
}

/** Whether the text is a filter: a topic in which a token may be `*`, and the last may be `>`. */
export function isFilter(text: string): boolean {
  return check(text, true);
}

/** Whether a filter takes a topic. A wildcard stands for no token that starts with `$`. Both have to be valid. */
export function matches(filter: string, topic: string): boolean {
  // Most filters of a page that has many are plain topics.
  if (!/[*>]/.test(filter)) return filter == topic;
  const tokens = topic.split('.');
  const wanted = filter.split('.');
  const beyond = tokens.length - wanted.length;
  return (
    (wanted.at(-1) == '>' ? beyond >= 0 : !beyond) &&
    tokens.every((token, i) => {
      const want = wanted[i] ?? '>';
      return '*>'.includes(want) ? token[0] != '$' : want == token;
    })
  );
}

function check(text: string, wildcards: boolean): boolean {
  const tokens = text.split('.');
  return (
    tokens.length <= TOKENS &&
    new TextEncoder().encode(text).length <= BYTES &&
    tokens.every(
      (token, i) =>
        /^[^*>\p{White_Space}\p{Cc}]+$/u.test(token) ||
        (wildcards && (token == '*' || (token == '>' && i == tokens.length - 1))),
    )
  );
}
