/** Listeners by event name. `Events` maps each name to what is told. */
export type Emitter<Events> = ReturnType<typeof createEmitter<Events>>;

export function createEmitter<Events>() {
  const listeners = new Set<[name: keyof Events, listener: (event: never) => void]>();
  return {
    /** Calls `listener` with every such event from now on. Gives the function that ends it. */
    on<Name extends keyof Events>(name: Name, listener: (event: Events[Name]) => void): () => void {
      const entry: [Name, typeof listener] = [name, listener];
      listeners.add(entry);
      return () => void listeners.delete(entry);
    },

    /** False where nobody listens. A listener that throws harms no other; its error is reported as uncaught. */
    emit<Name extends keyof Events>(name: Name, event: Events[Name]): boolean {
      const told = [...listeners].filter((entry) => entry[0] == name);
      for (const [, listener] of told) {
        try {
          listener(event as never);
        } catch (error) {
          setTimeout(() => {
            throw error;
          });
        }
      }
      return told.length > 0;
    },
  };
}
