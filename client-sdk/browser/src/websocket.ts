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
      let socket: WebSocket;
      let isOver = false;
      try {
        socket = new Constructor!(url, codec.subprotocol);
        socket.binaryType = 'arraybuffer';
        socket.onopen = handlers.open;
        socket.onmessage = ({ data }) => handlers.frames(codec.decode(data));
        socket.onclose = ({ code, reason }) => handlers.close(code, reason);
        // What there is to say about it comes with the close.
        socket.onerror = () => {};
      } catch (error) {
        queueMicrotask(() => isOver || handlers.close(NONE, `${error}`));
      }
      return {
        send: (frames) => socket.send(codec.encode(frames)),
        buffered: () => socket?.bufferedAmount || 0,
        close() {
          isOver = true;
          if (!socket) return;
          socket.onopen = socket.onmessage = socket.onclose = null;
          socket.close(1000);
        },
      };
    },
  };
}

/** The close code where there is no WebSocket to be had at all. */
export const NONE = 0;
