import { delay } from './backoff.js';
import type { ServerFrame } from './frame.js';
import { json } from './json.js';
import type { Transport } from './transport.js';

/** The most of one event, in UTF-16 units: no frame of a broker comes near it. */
const MOST_EVENT = 2 ** 24;
/** Several frames go into one request up to this, in UTF-16 units: below the broker's 128 KiB whatever they hold. */
const MOST_BODY = 2 ** 15;
/** How long an answer may take, in milliseconds: the broker waits for room for 5 s. */
const PATIENCE = 15_000;
/** How often the same frames are tried before the connection is given up. */
const TRIES = 6;
/** The close codes that stand for an answer of the broker's; any other answer means 1006. */
const CLOSES: Record<number, number> = { 401: 4500, 403: 4500, 413: 1009, 503: 4002 };

/**
 * Where there is no WebSocket: frames come as server-sent events, read with fetch, and go in requests, one at a time.
 * A request whose answer was lost is repeated under its number, which the broker carries out once.
 *
 * @param request another fetch than the global one
 */
export function sse(request: typeof fetch = (...args) => fetch(...args)): Transport {
  return {
    name: 'sse',
    open(url, _codec, handlers) {
      const address = new URL('v1/sessions', url.replace(/^ws/, 'http')).href.split('?')[0]!;
      const reading = new AbortController();
      let posting: AbortController | undefined;
      let isOver = false;
      let session: string | undefined;
      let queue: string[] = [];
      let waiting = 0;
      let seq = 0;

      const stop = () => {
        isOver = true;
        reading.abort();
        posting?.abort();
      };
      const over = (code: number, reason: string) => {
        if (isOver) return;
        stop();
        handlers.close(code, reason);
      };
      /** The broker's own words, where it is the broker that answers. */
      const refused = async (response: Response) => {
        const error = (await response.json().catch(() => {}))?.error;
        over((error && CLOSES[response.status]) || 1006, error?.message || `HTTP ${response.status}`);
      };

      const read = async () => {
        const response = await request(address, { method: 'POST', cache: 'no-store', signal: reading.signal });
        if (!response.ok) return refused(response);
        const reader = response.body!.getReader();
        const decoder = new TextDecoder();
        const parse = eventParser();
        while (!isOver) {
          const { value, done } = await reader.read();
          if (done) return over(1006, 'the event stream ended');
          const frames: ServerFrame[] = [];
          let closing: { code: number; reason: string } | undefined;
          for (const [event, data] of parse(decoder.decode(value, { stream: true }))) {
            if (event == 'message') frames.push(...json.decode(data));
            else if (event == 'close') closing = JSON.parse(data);
            else if (event == 'session') {
              session = JSON.parse(data).session;
              handlers.open();
            }
          }
          // A comment is a sign of life, too.
          if (!isOver) handlers.frames(frames);
          if (closing) over(closing.code, closing.reason);
        }
      };

      /** One request at a time, so that the frames keep their order. */
      const write = async () => {
        if (posting || !session) return;
        while (queue.length && !isOver) {
          let count = 0;
          let body = '';
          do body += queue[count++] + '\n';
          while (count < queue.length && body.length + queue[count]!.length < MOST_BODY);
          queue = queue.slice(count);
          seq++;
          await post(body);
          waiting -= body.length;
        }
        posting = undefined;
      };

      const post = async (body: string) => {
        for (let tried = 1; !isOver; tried++) {
          let response: Response | undefined;
          const attempt = (posting = new AbortController());
          const timer = setTimeout(() => attempt.abort(), PATIENCE);
          const { signal } = attempt;
          try {
            response = await request(`${address}/${session}/frames?seq=${seq}`, { method: 'POST', body, signal });
          } catch (error) {
            if (tried == TRIES) over(1006, String(error));
          }
          clearTimeout(timer);
          if (response?.ok) return;
          // Beside what the broker says is for lack of room, a proxy may fail for a moment.
          if (response && (response.status < 500 || tried == TRIES)) return refused(response);
          if (!isOver) await new Promise((done) => setTimeout(done, delay(tried)));
        }
      };

      // Not before this function returned.
      Promise.resolve().then(read).catch((error) => over(1006, String(error)));
      return {
        send(frames) {
          for (const frame of frames) {
            const line = json.encode([frame]) as string;
            queue.push(line);
            waiting += line.length + 1;
          }
          void write();
        },
        buffered: () => waiting,
        close: stop,
      };
    },
  };
}

/**
 * Reads an event stream piece by piece, as the HTML standard has it (9.2.6): gives the events that are complete, each
 * with its type and its data. Ids and delays are of no use here.
 */
export function eventParser(): (piece: string) => [event: string, data: string][] {
  let rest = '';
  let event = '';
  let data = '';
  return (piece) => {
    const events: [string, string][] = [];
    // A carriage return at the very end may be half a line break.
    const lines = (rest + piece).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop()!;
    for (const line of lines) {
      const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line)!;
      if (!line) {
        if (data) events.push([event || 'message', data.slice(0, -1)]);
        event = data = '';
      } else if (field == 'event') event = value!;
      else if (field == 'data') data += value + '\n';
    }
    if (rest.length + data.length > MOST_EVENT) throw new RangeError('an event without an end');
    return events;
  };
}
