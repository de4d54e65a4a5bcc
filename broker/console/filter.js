// Filters: topics in which `*` stands for one token and a last `>` for one or more. The same rule as the broker's:
// a wildcard never stands for a token that starts with `$`.

/** Whether `filter` takes `topic`. Both are valid: the broker has let them in. */
export function matches(filter, topic) {
  if (filter === topic) return true;
  const wanted = filter.split(".");
  const tokens = topic.split(".");
  for (let i = 0; i < wanted.length; i++) {
    if (i >= tokens.length) return false;
    if (wanted[i] === ">") return tokens.slice(i).every(isOpen);
    if (wanted[i] === "*" ? !isOpen(tokens[i]) : wanted[i] !== tokens[i]) return false;
  }
  return wanted.length === tokens.length;
}

function isOpen(token) {
  return !token.startsWith("$");
}
