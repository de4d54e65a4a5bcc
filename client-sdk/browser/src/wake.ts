/**
 * Tells when the page may have been away, or its network changed: `wake` where it is worth a look (`again` where another
 * attempt to connect is too), `hide` where the page is left, be it for good or for the back/forward cache (an open
 * WebSocket would keep it out of that). Nothing where there are no such events. Gives the function that ends it.
 */
export function watch(wake: (again: boolean) => void, hide: () => void): () => void {
  const on = ({ type }: Event) => {
    if (type == 'pagehide') hide();
    else if (type != 'visibilitychange' || !document.hidden) wake(type != 'offline');
  };
  const targets: [EventTarget | undefined, string[]][] = [
    [typeof addEventListener == 'function' ? globalThis : undefined, ['online', 'offline', 'pageshow', 'pagehide']],
    [globalThis.document, ['visibilitychange', 'resume']],
  ];
  const each = (method: 'addEventListener' | 'removeEventListener') => {
    for (const [target, types] of targets) for (const type of types) target?.[method](type, on);
  };
  each('addEventListener');
  return () => each('removeEventListener');
}
