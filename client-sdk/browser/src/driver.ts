/** Owns the connection: opens it, moves frames and time, and finds the transport that gets through. */

import type { Codec } from './codec.js';
import type { Session } from './session.js';
import type { Link, Transport } from './transport.js';
import { watch } from './wake.js';
import { NONE } from './websocket.js';

/** Bytes that may wait in the browser before more frames are handed to it. */
const MOST_BUFFERED = 65_536;

/** How often it is looked whether they have left, in milliseconds: nothing tells. */
const BUFFER_CHECK = 20;

/** A timer that is this late was held up by a page that slept or was frozen: nobody is blamed for the silence. */
const LATE = 2000;

/** How many WebSockets may fail where one got through before: a broker that restarts refuses some. */
const TRUST = 3;

/** How long after WebSockets did not get through another one is tried, with the next connection. */
const AVOID = 60_000;

export interface Route {
  /** Of the broker's WebSocket. */
  url: string;
  codec: Codec;
  /** In the order to be tried. */
  transports: readonly Transport[];
  /** Called before each connection. */
  token: () => Promise<string>;
}

export type Driver = ReturnType<typeof createDriver>;

export function createDriver(session: Session, { url, codec, transports, token }: Route) {
  let link: Link | undefined;
  /** Counts the attempts, so that what was waited for in an earlier one is told apart. */
  let turn = 0;
  /** Which transport is tried, or in use. */
  let which = 0;
  /** How many WebSockets may fail before the next transport is tried. */
  let left = 1;
  /** Until when no WebSocket is tried. */
  let avoid = 0;
  let isHidden = false;
  let unwatch: (() => void) | undefined;
  let connectAt = Infinity;
  let timerAt = Infinity;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isKicked = false;

  const drop = () => {
    turn++;
    link?.close();
    link = undefined;
    connectAt = Infinity;
  };

  const connect = async () => {
    drop();
    session.onAttempt(Date.now());
    kick();
    const mine = turn;
    let given: string | undefined;
    try {
      given = (await token()) || undefined;
    } catch (error) {
      return mine == turn && onLost(1006, `${error}`);
    }
    if (mine != turn) return;
    if (Date.now() >= avoid) which = 0;
    open(given);
  };

  const open = (token?: string) => {
    const transport = transports[which]!;
    session.transport = transport.name;
    link = transport.open(url, codec, {
      open() {
        session.onOpen(Date.now(), token);
        poll();
      },
      frames(frames) {
        session.onHeard(Date.now());
        for (const frame of frames) session.onFrame(frame);
        poll();
      },
      close: onClosed,
    });
    kick();
  };

  /** The connection is over, or never was. */
  const onClosed = (code: number, reason: string) => {
    const wasWelcomed = session.connection;
    const isWebSocket = session.transport == 'websocket';
    drop();
    if (!isWebSocket) which = wasWelcomed ? which : 0;
    else if (wasWelcomed) left = TRUST;
    else if (transports[1] && (code == NONE || (code == 1006 && --left < 1))) {
      // It may be the way of WebSockets alone that is blocked.
      which = 1;
      avoid = Date.now() + AVOID;
      // Where it was the session that gave the WebSocket up, it shall not give up this one, too.
      return void connect();
    }
    onLost(code || 1006, reason);
  };

  const onLost = (code: number, reason: string) => {
    const now = Date.now();
    const delay = session.onClosed(code, reason, now);
    connectAt = delay === undefined || isHidden ? Infinity : now + delay;
    kick();
  };

  const onWake = (isNew: boolean) => {
    const now = Date.now();
    session.onWake(now);
    if (isNew) {
      isHidden = false;
      if (!link && session.state == 'connecting') connectAt = now;
    }
    kick();
  };

  const onHide = () => {
    isHidden = true;
    if (link) onClosed(1001, 'page left');
    else drop();
  };

  const kick = (session.kick = () => {
    if (!isKicked) queueMicrotask(poll);
    isKicked = true;
  });

  /** Does what there is to do. */
  const poll = () => {
    isKicked = false;
    const now = Date.now();
    if (now >= connectAt) void connect();
    session.deliver();
    const writeAt = write(now) ? Infinity : now + BUFFER_CHECK;
    const { ending } = session;
    if (ending) return onClosed(ending.code, ending.reason);
    const at = Math.min(connectAt, writeAt, session.deadline());
    clearTimeout(timer);
    timerAt = at;
    if (at < Infinity) timer = setTimeout(onTimer, at - now);
  };

  /** False if there may be more, once what is on its way has left. */
  const write = (now: number): boolean => {
    for (let frame; link; link.send([frame])) {
      if (link.buffered() >= MOST_BUFFERED) return false;
      frame = session.next(now);
      if (!frame) break;
    }
    return true;
  };

  const onTimer = () => {
    const now = Date.now();
    if (now - timerAt > LATE) onWake(false);
    session.onTime(now);
    poll();
  };

  return {
    start(): void {
      session.start();
      unwatch ??= watch(onWake, onHide);
      connectAt = 0;
      kick();
    },

    stop(): void {
      unwatch?.();
      unwatch = undefined;
      drop();
      kick();
    },
  };
}
