/** The guide says what the code does: no error, close code, option, event or gap reason is missing from it. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { comesBack } from '../src/close.js';

const read = (path: string) => readFileSync(new URL(path, import.meta.url), 'utf8');

const guide = read('../../../docs/guide.md');
const rows = guide.split('\n').filter((line) => line.startsWith('| '));
const cells = rows.map((row) => row.split('|').slice(1, -1).map((cell) => cell.trim().replaceAll('`', '')));

/** The tables of the protocol's page, which its own tests hold to the code: rows that begin with a number. */
const numbered = (heading: string) => {
  const [, section] = read('../../../docs/protocol.md').split(`\n## ${heading}\n`);
  const table = [...section!.split('\n## ')[0]!.matchAll(/^\| (\d{4}) \| `?([^|`]+?)`? \| (yes|no) \|/gm)];
  assert.ok(table.length > 5, heading);
  return table.map(([, code, name, again]) => ({ code, name, again }));
};

test('every error code stands in the guide under its name', () => {
  for (const { code, name } of numbered('Errors')) {
    assert.ok(cells.some(([c, n]) => c === code && n === name), `${code} ${name}`);
  }
});

test('every close code stands in the guide, and whether the client comes back', () => {
  for (const { code, again } of numbered('Close codes')) {
    assert.ok(cells.some(([c, back]) => c === code && back === again), `${code} ${again}`);
    assert.equal(comesBack(Number(code)), again === 'yes', code);
  }
});

test('every option, event and gap reason stands in the guide', () => {
  const members = (file: string, name: string) => {
    const [, body] = read(file).match(new RegExp(`export interface ${name}\\b[^{]*\\{\\n([^]*?)\\n\\}`)) ?? [];
    const found = [...body!.matchAll(/^ {2}(\w+)\??:/gm)].map(([, member]) => member!);
    assert.ok(found.length > 2, name);
    return found;
  };
  const first = new Set(cells.map(([cell]) => cell));
  const tables = [
    ...members('../src/client.ts', 'ClientOptions'),
    ...members('../src/client.ts', 'ClientEvents'),
    ...members('../src/item.ts', 'SubscribeOptions'),
    ...members('../src/item.ts', 'PublishOptions'),
    ...Array.from(read('../src/frame.ts').match(/GapReason = ([^;]+);/)![1]!.matchAll(/'(\w+)'/g), ([, reason]) => reason!),
  ];
  for (const word of tables) assert.ok(first.has(word), word);
  for (const event of members('../src/subscription.ts', 'SubscriptionEvents')) {
    assert.ok(guide.includes(`\`${event}\``), event);
  }
});

test('the three lines of the README are those that a page is tried with', () => {
  const lines = (text: string) => text.match(/<script type="module">\n([^]*?)<\/script>/)![1]!.trim().split(/\n\s*/);
  assert.deepEqual(lines(read('../../../README.md')), lines(read('./browser/pages/three-lines.html')));
});

test('the lines without the SDK subscribe by the URL, and read bursts of frames', () => {
  const [, lines] = guide.split('\n## Without the SDK\n')[1]!.match(/```js\n([^]*?)```/)!;
  const logged: unknown[][] = [];
  const opened: { url: string; onmessage?: (event: { data: string }) => void }[] = [];
  function Socket(this: (typeof opened)[0], url: string) {
    this.url = url;
    opened.push(this);
  }
  new Function('WebSocket', 'console', lines!)(Socket, { log: (...words: unknown[]) => logged.push(words) });
  const [socket] = opened;
  assert.deepEqual([...new URL(socket!.url).searchParams], [['subscribe', 'chat.*'], ['from', 'last:20']]);
  const frames = [
    { op: 'ack', id: 1, positions: [], overflow: 'catch_up', limit: 256, limit_bytes: 262144 },
    { op: 'message', topic: 'chat.a', offset: 1, time: 1, json: { text: 'hi' } },
    { op: 'message', topic: 'chat.b', offset: 2, time: 1, text: 'ho' },
  ];
  socket!.onmessage!({ data: frames.map((frame) => JSON.stringify(frame)).join('\n') });
  assert.deepEqual(logged, [['chat.a', { text: 'hi' }], ['chat.b', 'ho']]);
});
