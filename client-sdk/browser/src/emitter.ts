/** Listeners by event name. `Events` maps each name to what is told. */
export class Emitter<Events> {
  #listeners = new Map<keyof Events, Set<(event: never) => void>>();

  /** Calls `listener` with every such event from now on. Gives the function that ends it. */
  on<Name extends keyof Events>(name: Name, listener: (event: Events[Name]) => void): () => void {
    let listeners = this.#listeners.get(name);
    if (!listeners) this.#listeners.set(name, (listeners = new Set()));
    // The same function twice is two listeners.
    const entry = (event: Events[Name]) => listener(event);
    listeners.add(entry);
    return () => void listeners.delete(entry);
  }

  /** False where nobody listens. A listener that throws harms no other; its error is reported as uncaught. */
  emit<Name extends keyof Events>(name: Name, event: Events[Name]): boolean {
    const listeners = [...(this.#listeners.get(name) ?? [])];
    for (const listener of listeners) {
      try {
        listener(event as never);
      } catch (error) {
        setTimeout(() => {
          throw error;
        });
      }
    }
    return listeners.length > 0;
  }
}
