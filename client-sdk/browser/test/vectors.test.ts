// protocol/vectors holds both codecs, and the Rust ones, to the same frames and bytes.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { bincode, CLIENT, read, SERVER, write, Writer } from '../src/bincode.js';
import type { ClientFrame, ServerFrame } from '../src/frame.js';
import { isFilter, isTopic } from '../src/filter.js';
import { json } from '../src/json.js';

interface Vector {
  name: string;
  json: string;
  bincode: string;
  from?: 'client' | 'server';
  codec?: 'json' | 'bincode';
  input?: string;
  json_tagged?: string;
  bincode_tagged?: string;
  code?: number;
  fatal?: boolean;
  frames?: number;
}
type Fields = Record<string, unknown>;

const loaded: Record<string, Vector[]> = {};

describe('client frames', () => {
  for (const vector of vectors('client')) {
    // JavaScript writes numbers and texts in its own way; what the broker reads is the same.
    it(`writes: ${vector.name}`, () => {
      const frame = sent(vector.json);
      assert.deepEqual(JSON.parse(text(json.encode([frame]))), JSON.parse(vector.json));
      assert.equal(hex(bincode.encode([frame])), vector.bincode);
    });
  }

  it('writes a JSON payload as the text it was published as', () => {
    const frame: ClientFrame = { op: 'publish', id: 3, topic: 'a', kind: 'json', data: '{ "b" : [1, 2 ,true] }' };
    assert.equal(text(json.encode([frame])), '{"op":"publish","id":3,"topic":"a","json":{ "b" : [1, 2 ,true] }}');
  });

  it('leaves out what is undefined', () => {
    const frame: ClientFrame = { op: 'connect', id: 1, token: undefined };
    assert.equal(json.encode([frame]), '{"op":"connect","id":1}');
    assert.equal(hex(bincode.encode([frame])), '0101000000');
  });

  it('writes a payload larger than its buffer ever was', () => {
    const data = new Uint8Array(300_000).fill(7);
    const bytes = bincode.encode([{ op: 'publish', topic: 'a', kind: 'binary', data }]) as Uint8Array;
    assert.equal(bytes.length, 300_000 + 14);
    const frame = json.encode([{ op: 'publish', topic: 'a', kind: 'binary', data }]);
    assert.equal(JSON.parse(text(frame)).binary, Buffer.from(data).toString('base64'));
  });
});

describe('server frames', () => {
  for (const vector of vectors('server')) {
    it(`reads: ${vector.name}`, () => {
      const frame = received(vector.json);
      assert.deepEqual(json.decode(vector.json).map(plain), [frame]);
      assert.deepEqual(bincode.decode(buffer(vector.bincode)), [frame]);
    });
    it(`reads nothing but an error from any cut of: ${vector.name}`, () => {
      const bytes = buffer(vector.bincode);
      for (let end = 1; end < bytes.byteLength; end++) {
        assert.deepEqual(bincode.decode(bytes.slice(0, end)), [{ op: 'unreadable', code: 1001, fatal: true }]);
      }
      for (let end = 1; end < vector.json.length; end++) {
        assert.deepEqual(json.decode(vector.json.slice(0, end)), [{ op: 'unreadable', code: 1001, fatal: false }]);
      }
    });
  }

  for (const vector of vectors('tagged')) {
    it(`reads: ${vector.name}`, () => {
      const frame = received(vector.json_tagged!);
      assert.deepEqual(json.decode(vector.json_tagged!).map(plain), [frame]);
      assert.deepEqual(bincode.decode(buffer(vector.bincode_tagged!)), [frame]);
    });
  }

  it('leaves a byte order mark in a text', () => {
    const frame = bincode.decode(buffer('130161000000000103efbbbf000000'))[0];
    assert.ok(frame?.op == 'message');
    assert.equal(frame.data, '\ufeff');
  });

  it('takes a WebSocket message of the other kind for unreadable', () => {
    assert.deepEqual(json.decode(buffer('1905')), [{ op: 'unreadable', code: 1001, fatal: false }]);
    assert.deepEqual(bincode.decode('{"op":"pong","id":5}'), [{ op: 'unreadable', code: 1001, fatal: true }]);
  });

  it('goes on behind a frame it cannot read', () => {
    const lines = json.decode('{"op":"dance"}\n\n{"op":"pong","id":5}\n{"op":"message","topic":"a","time":1,"binary":"*"}');
    assert.deepEqual(lines.map((frame) => ('code' in frame ? frame.code : frame.op)), [1002, 'pong', 1202]);
    // A gap whose reason is the seventh, and a pong.
    assert.deepEqual(bincode.decode(buffer('140200000000000006001905')), [
      { op: 'unreadable', code: 1003, fatal: false },
      { op: 'pong', id: 5 },
    ]);
  });

  for (const line of [
    '5', 'null', '[]', '{"op":"pong"}', '{"op":"pong","id":"5"}', '{"op":"pong","id":9007199254740992}',
    '{"op":"welcome","id":1,"connection":"c"}', '{"op":"history","id":1,"messages":[5]}',
  ]) {
    it(`refuses ${line}`, () => assert.equal(json.decode(line)[0]?.op, 'unreadable'));
  }
});

describe('bursts', () => {
  for (const vector of vectors('bursts')) {
    it(vector.name, () => {
      const lines = vector.json.split('\n');
      assert.equal(lines.length, vector.frames);
      if (vector.from == 'client') {
        const frames = lines.map(sent);
        assert.equal(json.encode(frames), vector.json);
        assert.equal(hex(bincode.encode(frames)), vector.bincode);
      } else {
        const frames = lines.map(received);
        assert.deepEqual(json.decode(vector.json).map(plain), frames);
        assert.deepEqual(bincode.decode(buffer(vector.bincode)), frames);
      }
    });
  }
});

describe('accepted', () => {
  for (const vector of vectors('accepted')) {
    // This side reads no client frames, but by its own tables it can.
    it(`${vector.codec}: ${vector.name}`, () => {
      if (vector.from == 'server') {
        assert.deepEqual(json.decode(vector.input!).map(fields), json.decode(vector.json).map(fields));
      } else if (vector.codec == 'bincode') {
        assert.deepEqual(read(buffer(vector.input!), CLIENT), [received(vector.json)]);
      } else {
        const [frame, input] = [sent(vector.json), sent(vector.input!.replace('"stream":"default",', ''))];
        const data = (frame: ClientFrame) =>
          frame.op == 'publish' && frame.kind == 'json' ? { ...frame, data: JSON.parse(frame.data) } : frame;
        const written = (frame: ClientFrame) => hex(bincode.encode([data(frame)]));
        assert.equal(written(input), written(frame));
      }
    });
  }
});

describe('refused', () => {
  for (const vector of vectors('refused')) {
    it(`${vector.codec}: ${vector.name}`, () => {
      const { code, fatal, input = '' } = vector;
      if (vector.from == 'server') {
        assert.deepEqual(json.decode(input), [{ op: 'unreadable', code, fatal }]);
      } else if (vector.codec == 'bincode' && (fatal || code == 1202 || /not known|2\^53/.test(vector.name))) {
        assert.deepEqual(read(buffer(input), CLIENT), [{ op: 'unreadable', code, fatal }]);
      } else if (vector.codec == 'json' && code == 1001) {
        assert.deepEqual(json.decode(input)[0], { op: 'unreadable', code: 1001, fatal: false });
      } else if (code == 1200 || code == 1201) {
        const frame = vector.codec == 'json' ? JSON.parse(input) : read(buffer(input), CLIENT)[0];
        assert.equal(code == 1200 ? isTopic(frame.topic) : isFilter(frame.filter), false);
      } else {
        // The broker's own bounds: this side sends such a frame, and is told.
        assert.ok([1002, 1003, 1202, 1204, 1206].includes(code!), vector.name);
      }
    });
  }

  it('takes no frame of one side for one of the other', () => {
    assert.deepEqual(bincode.decode(buffer('0805')), [{ op: 'unreadable', code: 1002, fatal: true }]);
    assert.deepEqual(json.decode('{"op":"ping","id":5}'), [{ op: 'unreadable', code: 1002, fatal: false }]);
  });
});

describe('every vector', () => {
  for (const vector of [...vectors('client'), ...vectors('server')]) {
    const frames = vectors('client').includes(vector) ? CLIENT : SERVER;
    it(`is the same after it was read and written: ${vector.name}`, () => {
      const [frame] = read(buffer(vector.bincode), frames) as (ServerFrame & Fields)[];
      const writer = new Writer();
      const again = (message: Fields) =>
        message['kind'] == 'json' ? { ...message, data: JSON.stringify(message['data']) } : message;
      const messages = frame!['messages'] as Fields[] | undefined;
      write(writer, (messages ? { ...frame, messages: messages.map(again) } : again(frame!)) as never, frames);
      if (/publish JSON as it was written|publish a number/.test(vector.name)) return;
      assert.equal(hex(writer.bytes.subarray(0, writer.at)), vector.bincode);
    });
  }
});

function vectors(name: string): Vector[] {
  return (loaded[name] ??= JSON.parse(
    readFileSync(new URL(`../../../protocol/vectors/${name}.json`, import.meta.url), 'utf8'),
  ));
}

/** A client frame as the session would make it; its JSON payload stands as in the vector. */
function sent(line: string): ClientFrame {
  const { json, text, binary, ...frame } = JSON.parse(line);
  if (frame.op != 'publish') return frame;
  if (text !== undefined) return { ...frame, kind: 'text', data: text };
  if (binary !== undefined) return { ...frame, kind: 'binary', data: new Uint8Array(Buffer.from(binary, 'base64')) };
  const raw = /"json":\s*(.*?)\s*(,"key".*)?\}\s*$/su.exec(line)![1]!;
  assert.deepEqual(JSON.parse(raw), json);
  return { ...frame, kind: 'json', data: raw };
}

/** A server frame as both codecs give it. */
function received(line: string): Fields {
  const frame = JSON.parse(line);
  const content = ({ json, text, binary, ...message }: Fields): Fields =>
    text !== undefined
      ? { ...message, kind: 'text', data: text }
      : binary !== undefined
        ? { ...message, kind: 'binary', data: new Uint8Array(Buffer.from(binary as string, 'base64')) }
        : json !== undefined
          ? { ...message, kind: 'json', data: json }
          : message;
  if (frame.op == 'history' && frame.messages) frame.messages = frame.messages.map(content);
  return content(frame);
}

/** Without the fields of the wire that the JSON codec leaves standing beside `kind` and `data`. */
function plain(frame: ServerFrame): Fields {
  const { json, text, binary, ...rest } = frame as Fields;
  const messages = rest['messages'] as ServerFrame[] | undefined;
  return messages ? { ...rest, messages: messages.map(plain) } : rest;
}

/** Without fields of a newer broker, which the JSON codec passes on, and false ones. */
function fields(frame: ServerFrame): Fields {
  return JSON.parse(
    JSON.stringify(frame, (name, value) => (['x', 'load'].includes(name) || value === false ? undefined : value)),
  );
}

const text = (data: string | Uint8Array): string => {
  assert.equal(typeof data, 'string');
  return data as string;
};
const hex = (data: string | Uint8Array): string => Buffer.from(data as Uint8Array).toString('hex');
const buffer = (hex: string): ArrayBuffer => {
  const bytes = Buffer.from(hex, 'hex');
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) as ArrayBuffer;
};
