import { delay } from './backoff.js';
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
const CLOSES: Record<number, number> = { 403: 4500, 413: 1009 };

/**
 * Where there is no WebSocket: frames come as server-sent events, read with fetch, and go in requests, one at a time.
 * A request whose answer was lost is repeated under its number, which the broker carries out once.
 *
 * @param request another fetch than the global one
 */
export function sse(request = fetch): Transport {
  return {
    name: 'sse',
    open(url, _codec, handlers) {
      const address = new URL('v1/sessions', url.replace('ws', 'http')).href;
      const reading = new AbortController();
      const { signal } = reading;
      /** Where requests go, but for their number. */
      let path: string | undefined;
      const queue: string[] = [];
      let waiting = 0;
      let isPosting = false;
      let seq = 0;

      const over = (code: number, reason: unknown) => {
        if (signal.aborted) return;
        reading.abort();
        handlers.close(code, `${reason}`);
      };
      /** The broker's own words, where it is the broker that answers; else the status, or why there is no answer. */
      const refused = async (answer: Partial<Response>) => {
        const error = (await answer.json?.().catch(() => {}))?.error;
        over((error && CLOSES[answer.status!]) || 1006, error?.message || `HTTP: ${answer.status ?? answer}`);
      };

      const read = async () => {
        // Not before this function returned.
        await 0;
        const response = await request(address, { method: 'POST', signal });
        if (!response.ok) return refused(response);
        // What came is the head alone: a proxy may hold the events back.
        handlers.frames([]);
        const reader = response.body!.getReader();
        const decoder = new TextDecoder();
        const parse = eventParser();
        while (!signal.aborted) {
          const { value, done } = await reader.read();
          if (done) return over(1006, 'stream ended');
          // A comment is a sign of life, too.
          handlers.frames([]);
          for (const [event, data] of parse(decoder.decode(value, { stream: true }))) {
            if (signal.aborted) break;
            if (event == 'message') handlers.frames(json.decode(data));
            else {
              const { session, code, reason } = JSON.parse(data);
              if (code) over(code, reason);
              if (session) {
                path = `${address}/${session}/frames?seq=`;
                handlers.open();
              }
            }
          }
        }
      };

      /** One request at a time, so that the frames keep their order. */
      const write = async () => {
        if (isPosting) return;
        isPosting = true;
        while (queue.length && !signal.aborted) {
          let body = queue.shift()!;
          while (queue.length && body.length + queue[0]!.length < MOST_BODY) body += queue.shift();
          seq++;
          await post(body);
          waiting -= body.length;
        }
        isPosting = false;
      };

      const post = async (body: string) => {
        for (let tried = 1; !signal.aborted; tried++) {
          // One under way when the connection is closed may get through.
          const sent = request(path! + seq, { method: 'POST', body, signal: AbortSignal.timeout(PATIENCE) });
          const answer: Partial<Response> = await sent.catch((error) => error);
          if (answer.ok) return;
          // Beside what the broker says is for lack of room, a proxy or the network may fail for a moment.
          if (answer.status! < 500 || tried == TRIES) await refused(answer);
          else await new Promise((done) => setTimeout(done, delay(tried)));
        }
      };

      read().catch((error) => over(1006, error));
      return {
        send(frames) {
          for (const frame of frames) {
            const line = json.encode([frame]) + '\n';
            queue.push(line);
            waiting += line.length;
          }
          void write();
        },
        buffered: () => waiting,
        close: () => reading.abort(),
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
    if (rest.length + data.length > MOST_EVENT) throw new Error('event too large');
    return events;
  };
}
