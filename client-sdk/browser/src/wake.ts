const TYPES = ['online', 'offline', 'visibilitychange', 'resume', 'pageshow', 'pagehide'];

/**
 * Tells when the page may have been away, or its network changed: `wake` where it is worth a look (with true where
 * another attempt to connect is too), `hide` where the page is left, be it for good or for the back/forward cache (an
 * open WebSocket would keep it out of that). Nothing where there are no such events. Gives the function that ends it.
 */
export function watch(wake: (again: boolean) => void, hide: () => void): () => void {
  const on = ({ type }: Event) => {
    if (type == 'pagehide') hide();
    else if (!(type == 'visibilitychange' && document.hidden)) wake(type != 'offline');
  };
  const each = (method: 'addEventListener' | 'removeEventListener') => {
    // While it is captured, what is for the document comes by the window.
    for (const type of TYPES) globalThis[method]?.(type, on, true);
  };
  each('addEventListener');
  return () => each('removeEventListener');
}
