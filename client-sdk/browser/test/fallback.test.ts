// The fallback against a fetch that is played by hand, with a clock that the test moves.
//
// How to extend: `start` gives a connection whose event stream the test writes (`say`) and whose requests it answers one
// by one (`await posted()`, then `answer`). Nothing is answered by itself.
import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';

import { eventParser, sse } from '../src/fallback.js';
import type { ClientFrame, ServerFrame } from '../src/frame.js';
import { json } from '../src/json.js';

const SESSION = 'event: session\ndata: {"session":"5e55"}\n\n';
const ping = (id: number): ClientFrame => ({ op: 'ping', id });

describe('the event stream parser', () => {
  const parsed = (...pieces: string[]) => {
    const parse = eventParser();
    return pieces.flatMap((piece) => parse(piece));
  };

  it('takes the examples of the HTML standard', () => {
    assert.deepEqual(parsed('data: YHOO\ndata: +2\ndata: 10\n\n'), [['message', 'YHOO\n+2\n10']]);
    assert.deepEqual(parsed(': test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n'), [
      ['message', 'first event'],
      ['message', 'second event'],
      ['message', ' third event'],
    ]);
    assert.deepEqual(parsed('data\n\ndata\ndata\n\ndata:'), [
      ['message', ''],
      ['message', '\n'],
    ]);
    assert.deepEqual(parsed('data:test\n\ndata: test\n\n'), [
      ['message', 'test'],
      ['message', 'test'],
    ]);
    assert.deepEqual(parsed('event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: nothing\n\ndata: 1\n\n'), [
      ['add', '73857293'],
      ['remove', '2153'],
      ['message', '1'],
    ]);
  });

  it('gives the same whatever the line breaks and wherever it is cut', () => {
    const events = [
      ['message', 'a:b\n{"c": 1}'],
      ['gap', 'd'],
    ];
    for (const end of ['\n', '\r\n', '\r']) {
      const text = `: hi${end}data: a:b${end}data: {"c": 1}${end}${end}event: gap${end}data: d${end}${end}:${end}`;
      for (let cut = 0; cut <= text.length; cut++) {
        assert.deepEqual(parsed(text.slice(0, cut), text.slice(cut)), events, JSON.stringify([end, cut]));
      }
      assert.deepEqual(parsed(...text), events);
    }
  });

  it('gives nothing of an event that is not complete', () => {
    assert.deepEqual(parsed('data: a\n'), []);
  });

  it('holds no event without an end', () => {
    const parse = eventParser();
    const piece = 'x'.repeat(2 ** 20);
    assert.throws(() => {
      for (let i = 0; i < 20; i++) parse(i ? piece : 'data: ');
    }, /event too large/);
    const lines = eventParser();
    assert.throws(() => {
      for (let i = 0; i < 20; i++) lines(`data: ${piece}\n`);
    }, /event too large/);
  });
});

describe('reading', () => {
  it('is open once the session is named, and hands on what comes in its order', async (t) => {
    const line = start(t);
    const stream = await line.opened();
    assert.equal(stream.url, 'https://example.org/base/v1/sessions');
    assert.equal(stream.init.method, 'POST');
    // The head is a sign of life.
    assert.equal(await line.tells('[]'), '[]');
    assert.deepEqual(line.told, ['[]']);
    stream.say(SESSION);
    await line.tells('open');
    stream.say('data: {"op":"pong","id":1}\ndata: {"op":"pong","id":2}\n\nda');
    stream.say('ta: {"op":"pong","id":3}\n\n');
    assert.deepEqual(await line.frames(3), [1, 2, 3].map((id) => ({ op: 'pong', id })));
  });

  it('takes text that is cut amid a character', async (t) => {
    const line = start(t);
    const stream = await line.opened();
    const bytes = new TextEncoder().encode(`${SESSION}data: {"op":"message","topic":"ä","time":1,"text":"😀"}\n\n`);
    for (const byte of bytes) stream.write(Uint8Array.of(byte));
    const [frame] = await line.frames(1);
    assert.ok(frame?.op == 'message');
    assert.deepEqual([frame.topic, frame.data], ['ä', '😀']);
  });

  it('takes a comment for a sign of life', async (t) => {
    const line = start(t);
    const stream = await line.opened();
    stream.say(SESSION);
    await line.tells('open');
    line.told.length = 0;
    stream.say(': \n\n');
    await line.tells('[]');
    assert.deepEqual(line.told, ['[]']);
  });

  it('ends with what the broker says at its close, after the last frames', async (t) => {
    const line = start(t);
    const stream = await line.opened();
    stream.say(`${SESSION}data: {"op":"pong","id":1}\n\nevent: close\ndata: {"code":4008,"reason":"slow"}\n\n`);
    await line.tells('close 4008 slow');
    assert.deepEqual(line.told, ['[]', '[]', 'open', '[pong]', 'close 4008 slow']);
    assert.ok(stream.init.signal!.aborted);
  });

  it('is lost where the stream ends or breaks without a word', async (t) => {
    const ended = start(t);
    (await ended.opened()).end();
    await ended.tells('close 1006 stream ended');
    const broken = start(t);
    (await broken.opened()).fail('cable');
    await broken.tells('close 1006 TypeError: cable');
    const garbled = start(t);
    (await garbled.opened()).say('event: session\ndata: <html>\n\n');
    assert.match(await garbled.tells('close 1006'), /SyntaxError/);
  });

  for (const [status, body, close] of [
    [403, { error: { message: 'origin https://evil.example is not welcome' } }, 'close 4500 origin https://evil.example is not welcome'],
    [503, { error: { message: 'at the budget' } }, 'close 1006 at the budget'],
    [404, { error: { message: 'no such page' } }, 'close 1006 no such page'],
    [403, '<html>', 'close 1006 HTTP: 403'],
    [502, null, 'close 1006 HTTP: 502'],
  ] as const) {
    it(`tells ${close} of ${status} with ${JSON.stringify(body)}`, async (t) => {
      const line = start(t);
      const opening = await line.asked();
      opening.answer(status, body);
      await line.tells(close);
    });
  }

  it('tells of a fetch that fails or throws, after it has returned', async () => {
    for (const request of [
      async () => Promise.reject(new TypeError('no network')),
      () => {
        throw new TypeError('no network');
      },
    ]) {
      const told: string[] = [];
      await new Promise<void>((done) => {
        sse(request).open('ws://a/ws', json, {
          open: () => told.push('open'),
          frames: () => told.push('frames'),
          close: (code, reason) => {
            told.push(`${code} ${reason}`);
            done();
          },
        });
        assert.deepEqual(told, []);
      });
      assert.deepEqual(told, ['1006 TypeError: no network']);
    }
  });

  it('says nothing more once it was closed', async (t) => {
    const line = start(t);
    const stream = await line.opened();
    stream.say(SESSION);
    await line.tells('open');
    line.link.close();
    assert.ok(stream.init.signal!.aborted);
    await settled();
    assert.deepEqual(line.told, ['[]', '[]', 'open']);
  });

  it('reads no further while its reader is at work: what comes meanwhile waits at the broker', async (t) => {
    const line = start(t);
    const stream = await line.opened();
    stream.say(SESSION);
    await line.tells('open');
    // The body is pulled for one piece at a time.
    const before = stream.pulls;
    stream.say('data: {"op":"pong","id":1}\n\n');
    await line.frames(1);
    assert.ok(stream.pulls - before <= 1);
  });
});

describe('writing', () => {
  it('sends one request at a time, numbered, with all that waits', async (t) => {
    const line = await connected(t);
    line.link.send([ping(1)]);
    line.link.send([ping(2), ping(3)]);
    const first = await line.posted();
    assert.equal(first.url, 'https://example.org/base/v1/sessions/5e55/frames?seq=1');
    assert.equal(first.init.body, '{"op":"ping","id":1}\n');
    assert.equal(line.link.buffered(), 3 * 21);
    first.answer(204);
    const second = await line.posted();
    assert.match(second.url, /seq=2$/);
    assert.equal(second.init.body, '{"op":"ping","id":2}\n{"op":"ping","id":3}\n');
    assert.equal(line.link.buffered(), 2 * 21);
    second.answer(204);
    await settled();
    assert.equal(line.link.buffered(), 0);
    assert.equal(line.waiting(), 0);
  });

  it('cuts what waits into requests the broker takes, and sends a larger frame alone', async (t) => {
    const line = await connected(t);
    const text = (size: number): ClientFrame => ({ op: 'publish', topic: 'a', kind: 'text', data: 'x'.repeat(size) });
    line.link.send([ping(1), text(20_000), text(20_000), text(60_000), ping(2)]);
    const counts = [];
    for (let left = 5; left > 0; ) {
      const request = await line.posted();
      const lines = String(request.init.body).trim().split('\n').length;
      counts.push(lines);
      left -= lines;
      request.answer(204);
    }
    assert.deepEqual(counts, [2, 1, 1, 1]);
  });

  it('repeats a request whose answer was lost, under its number', async (t) => {
    const line = await connected(t);
    line.link.send([ping(1)]);
    line.link.send([ping(2)]);
    (await line.posted()).fail('reset');
    await line.wait(400);
    const again = await line.posted();
    assert.match(again.url, /seq=1$/);
    assert.equal(again.init.body, '{"op":"ping","id":1}\n');
    again.answer(503, { error: { message: 'no room' } });
    await line.wait(800);
    const third = await line.posted();
    assert.match(third.url, /seq=1$/);
    third.answer(204);
    assert.match((await line.posted()).url, /seq=2$/);
    assert.deepEqual(line.told, ['[]', '[]', 'open']);
  });

  it('gives up a request that is not answered in time, and repeats it', async (t) => {
    const line = await connected(t);
    line.link.send([ping(1)]);
    const first = await line.posted();
    await line.wait(15_000);
    assert.ok(first.init.signal!.aborted);
    await line.wait(400);
    assert.match((await line.posted()).url, /seq=1$/);
  });

  it('is lost where no request gets through', async (t) => {
    const line = await connected(t);
    line.link.send([ping(1)]);
    for (let tried = 1; tried <= 6; tried++) {
      (await line.posted()).fail('blocked');
      await line.wait(5000);
    }
    await line.tells('close 1006 HTTP: TypeError: blocked');
    assert.equal(line.waiting(), 0);
  });

  for (const [status, message, close] of [
    [404, 'there is no such session', 'close 1006 there is no such session'],
    [409, 'request 3 came where 2 was to come', 'close 1006 request 3 came where 2 was to come'],
    [413, '131072 is the most', 'close 1009 131072 is the most'],
  ] as const) {
    it(`is over after ${status}`, async (t) => {
      const line = await connected(t);
      line.link.send([ping(1)]);
      (await line.posted()).answer(status, { error: { message } });
      await line.tells(close);
    });
  }

  it('lets a request under way get through when it is closed, and sends no other', async (t) => {
    const line = await connected(t);
    line.link.send([ping(1)]);
    const request = await line.posted();
    line.link.send([ping(2)]);
    line.link.close();
    assert.ok(!request.init.signal!.aborted);
    request.answer(204);
    await settled();
    assert.equal(line.waiting(), 0);
  });
});

/** A connection up to its session. */
async function connected(t: TestContext) {
  const line = start(t);
  const stream = await line.opened();
  stream.say(SESSION);
  await line.tells('open');
  return line;
}

/** A connection whose requests the test answers. */
function start(t: TestContext) {
  t.mock.timers.reset();
  t.mock.timers.enable({ apis: ['setTimeout'] });
  t.mock.method(AbortSignal, 'timeout', (ms: number) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), ms);
    return controller.signal;
  });
  const requests: Request[] = [];
  const told: string[] = [];
  const frames: ServerFrame[] = [];
  let changed = () => {};
  const until = async <T>(found: () => T | undefined): Promise<T> => {
    for (;;) {
      const value = found();
      if (value !== undefined) return value;
      await new Promise<void>((done) => (changed = done));
    }
  };
  const tell = (what: string) => {
    told.push(what);
    changed();
  };
  const request = (url: string, init: RequestInit = {}) => {
    const asked = new Request(url, init);
    requests.push(asked);
    changed();
    return asked.response;
  };
  const link = sse(request as typeof fetch).open('wss://example.org/base/ws?x=1', json, {
    open: () => tell('open'),
    frames: (came) => {
      frames.push(...came);
      tell(`[${came.map(({ op }) => op)}]`);
    },
    close: (code, reason) => tell(`close ${code} ${reason}`),
  });
  const asked = () => until(() => requests.shift());
  return {
    link,
    told,
    asked,
    posted: asked,
    /** How many requests were not looked at. */
    waiting: () => requests.length,
    opened: async () => (await asked()).stream(),
    tells: (start: string) => until(() => told.find((what) => what.startsWith(start))),
    frames: async (count: number) => {
      await until(() => (frames.length >= count ? true : undefined));
      return frames;
    },
    /** Moves the clock. */
    async wait(ms: number) {
      await settled();
      t.mock.timers.tick(ms);
      await settled();
    },
  };
}

/** A request under way. */
class Request {
  readonly response: Promise<Response>;
  /** How often its body was asked for more. */
  pulls = 0;
  #resolve!: (response: Response) => void;
  #reject!: (error: Error) => void;
  #body!: ReadableStreamDefaultController<Uint8Array>;

  constructor(
    readonly url: string,
    readonly init: RequestInit,
  ) {
    this.response = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    init.signal?.addEventListener('abort', () => {
      const error = new DOMException('aborted', 'AbortError');
      this.#reject(error);
      try {
        this.#body?.error(error);
      } catch {
        // It had ended.
      }
    });
  }

  /** Answers with an event stream, to be written by `say`. */
  stream(): this {
    const body = new ReadableStream<Uint8Array>(
      {
        start: (controller) => void (this.#body = controller),
        pull: () => void this.pulls++,
      },
      { highWaterMark: 0 },
    );
    this.#resolve(new Response(body, { headers: { 'content-type': 'text/event-stream' } }));
    return this;
  }

  say(text: string): void {
    this.write(new TextEncoder().encode(text));
  }

  write(bytes: Uint8Array): void {
    this.#body.enqueue(bytes);
  }

  end(): void {
    this.#body.close();
  }

  answer(status: number, body?: unknown): void {
    const text = status == 204 ? null : typeof body == 'string' ? body : JSON.stringify(body);
    this.#resolve(new Response(text, { status }));
  }

  fail(reason: string): void {
    const error = new TypeError(reason);
    this.#reject(error);
    this.#body?.error(error);
  }
}

/** Everything that was to happen without an event or a timer has happened. */
async function settled(): Promise<void> {
  await new Promise((done) => setImmediate(done));
}
