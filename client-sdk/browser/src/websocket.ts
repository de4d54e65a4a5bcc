import type { Transport } from './transport.js';

/**
 * The browser's own WebSocket. It cannot be told to stop reading: `credit` bounds what the broker sends.
 *
 * @param Constructor another WebSocket than the global one
 */
export function websocket(Constructor: typeof WebSocket | undefined = globalThis.WebSocket): Transport {
  return {
    name: 'websocket',
    open(url, codec, handlers) {
      let socket: WebSocket | undefined;
      let isOver = false;
      const over = (code: number, reason: string) => {
        if (isOver) return;
        isOver = true;
        handlers.close(code, reason);
      };
      try {
        socket = new Constructor!(url, codec.subprotocol);
        socket.binaryType = 'arraybuffer';
        socket.onopen = () => isOver || handlers.open();
        socket.onmessage = ({ data }) => isOver || handlers.frames(codec.decode(data));
        socket.onclose = ({ code, reason }) => over(code, reason);
        // What there is to say about it comes with the close.
        socket.onerror = () => {};
      } catch (error) {
        queueMicrotask(() => over(NONE, String(error)));
      }
      return {
        send: (frames) => socket?.send(codec.encode(frames)),
        buffered: () => socket?.bufferedAmount ?? 0,
        close(code, reason) {
          isOver = true;
          socket?.close(code ?? 1000, reason);
        },
      };
    },
  };
}

/** The close code where there is no WebSocket to be had at all. */
export const NONE = 0;
