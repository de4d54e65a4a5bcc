/** Owns the connection: opens it, moves frames and time, and finds the transport that gets through. */

import type { Codec } from './codec.js';
import type { ClientFrame } from './frame.js';
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

/**
 * Publishes of less than so many UTF-16 units, without headers, go out together, up to so many: however they are written,
 * they stay below the 128 KiB of a WebSocket message. All else goes alone.
 */
const SMALL = 512;
const BURST = 16;

/** How long an answer over HTTP is waited for, in milliseconds. */
const PATIENCE = 5000;

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
  /** Called before anything is written. */
  prepare: () => void;
}

export type Driver = ReturnType<typeof createDriver>;

export function createDriver(session: Session, { url, codec, transports, token, prepare }: Route) {
  let link: Link | undefined;
  let isOpen = false;
  /** Counts what may be under way, so that what belongs to an earlier attempt is told apart. */
  let turn = 0;
  /** Which transport is tried, or in use. */
  let which = 0;
  /** WebSockets that failed one after the other although HTTP was answered. */
  let blocked = 0;
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
    isOpen = false;
    connectAt = Infinity;
  };

  const connect = async () => {
    drop();
    const mine = turn;
    try {
      session.token = (await token()) || undefined;
    } catch (error) {
      return mine == turn && onLost(1006, `no token: ${error}`);
    }
    if (mine != turn) return;
    if (avoid && Date.now() >= avoid) {
      // Once they did not get through, one more failure is enough.
      which = avoid = 0;
      blocked = 1;
    }
    open();
  };

  const open = () => {
    const mine = ++turn;
    const now = Date.now();
    /** Nothing of an earlier attempt is listened to. */
    const guard =
      <Args extends unknown[]>(on: (...args: Args) => void) =>
      (...args: Args) => {
        if (mine == turn) on(...args);
      };
    session.onAttempt(now);
    link = transports[which]!.open(url, codec, {
      open: guard(() => {
        isOpen = true;
        session.onOpen(Date.now());
        poll();
      }),
      frames: guard((frames) => {
        session.onHeard(Date.now());
        for (const frame of frames) session.onFrame(frame);
        poll();
      }),
      close: guard(onClosed),
    });
    kick();
  };

  /** The connection is over, or never was. */
  const onClosed = (code: number, reason: string, isHung?: boolean) => {
    const wasWelcomed = session.connection !== undefined;
    const isWebSocket = transports[which]!.name == 'websocket';
    drop();
    if (wasWelcomed) blocked = 0;
    else if (isWebSocket && transports[1] && (code == 1006 || code == NONE)) return void onBlocked(code, reason, isHung);
    // The other way does not get through either.
    else if (avoid) avoid = 1;
    onLost(code || 1006, reason);
  };

  /** A WebSocket failed. Where it is WebSockets alone that do not get through, the next transport is tried. */
  const onBlocked = async (code: number, reason: string, isHung?: boolean) => {
    const mine = turn;
    // Any answer will do.
    const asked = { mode: 'no-cors', cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) } as const;
    const isThere = code == NONE || (await fetch(new URL('live', url.replace('ws', 'http')), asked).catch(() => {}));
    if (mine != turn) return;
    if (!isThere) return onLost(1006, reason);
    // A broker that has just come up refused a WebSocket and answers now: one failure alone says little.
    blocked += isHung || code == NONE ? 2 : 1;
    if (blocked > 1) {
      which = 1;
      avoid = Date.now() + AVOID;
    }
    open();
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
      if (!link && session.state == 'connecting' && !session.isHeldBack) connectAt = now;
    }
    kick();
  };

  const onHide = () => {
    isHidden = true;
    onClosed(1001, 'page left');
  };

  const kick = () => {
    if (!isKicked) queueMicrotask(poll);
    isKicked = true;
  };

  /** Does what there is to do. */
  const poll = () => {
    isKicked = false;
    const now = Date.now();
    if (now >= connectAt) void connect();
    prepare();
    session.deliver();
    const writeAt = write(now) ? Infinity : now + BUFFER_CHECK;
    const { ending } = session;
    if (ending) return onClosed(ending.code, ending.reason, true);
    const at = Math.min(connectAt, writeAt, session.deadline());
    if (at == timerAt) return;
    clearTimeout(timer);
    timerAt = at;
    if (at < Infinity) timer = setTimeout(onTimer, at - now);
  };

  /** False if there may be more, once what is on its way has left. */
  const write = (now: number): boolean => {
    if (!link || !isOpen) return true;
    const burst: ClientFrame[] = [];
    const flush = () => burst.length && link!.send(burst.splice(0));
    for (let frame; link.buffered() < MOST_BUFFERED && (frame = session.next(now)); ) {
      const isSmall = 'data' in frame && frame.data.length < SMALL && !frame.headers;
      if (!isSmall || burst.length == BURST) flush();
      burst.push(frame);
      if (!isSmall) flush();
    }
    flush();
    return link.buffered() < MOST_BUFFERED;
  };

  const onTimer = () => {
    const now = Date.now();
    if (now - timerAt > LATE) onWake(false);
    timerAt = Infinity;
    session.onTime(now);
    poll();
  };

  return {
    kick,

    /** What the connection runs on. */
    transport: () => (session.connection === undefined ? undefined : transports[which]!.name),

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
