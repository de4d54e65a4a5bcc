// The error and close tables against docs/protocol.md, and the delays between attempts.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { delay } from '../src/backoff.js';
import { comesBack } from '../src/close.js';
import { TidegateError } from '../src/error.js';

const PROTOCOL = readFileSync(new URL('../../../docs/protocol.md', import.meta.url), 'utf8');

/** The rows of a section's table. */
function rows(section: string): string[][] {
  const [, text] = PROTOCOL.split(`\n## ${section}\n`);
  const lines = text!.split('\n## ')[0]!.split('\n').filter((line) => /^\| \d/.test(line));
  return lines.map((line) => line.split('|').map((cell) => cell.trim()).slice(1, -1));
}

describe('errors', () => {
  for (const [code, name, retry] of rows('Errors')) {
    it(`${code}`, () => {
      const error = new TidegateError(Number(code));
      assert.deepEqual([`\`${error.name}\``, error.retry ? 'yes' : 'no'], [name, retry]);
      assert.ok(error instanceof Error && error.message);
    });
  }

  it('are all of the table', () => assert.equal(rows('Errors').length, 27));

  it('take the broker at its word where it is newer', () => {
    const error = new TidegateError(1299, 'too blue', { name: 'too_blue', retry: true });
    assert.deepEqual([error.name, error.message, error.retry], ['too_blue', 'too blue', true]);
    for (const code of [1007, 1600, 4500]) assert.equal(new TidegateError(code).name, 'unknown');
  });
});

describe('close codes', () => {
  for (const [code, , back] of rows('Close codes')) {
    it(`${code}`, () => assert.equal(comesBack(Number(code)) ? 'yes' : 'no', back));
  }

  it('are all of the table', () => assert.equal(rows('Close codes').length, 17));

  it('say by their range whether to come back, and that a lost connection does', () => {
    assert.deepEqual([4499, 4003, 1006, 3000].map(comesBack), [true, true, true, true]);
    assert.deepEqual([4999, 4600].map(comesBack), [false, false]);
  });
});

describe('delays', () => {
  const edges = (attempt: number, window?: readonly [number, number]) =>
    [0, 0.999999].map((drawn) => Math.round(delay(attempt, window, () => drawn)));

  it('begin within 200 ms, whatever the window', () => {
    assert.deepEqual(edges(0, [3000, 5000]), [0, 200]);
  });

  it('fill a window that doubles up to the broker’s', () => {
    assert.deepEqual([1, 2, 3, 5, 30, 1e9].map((attempt) => edges(attempt, [100, 5000])), [
      [100, 400],
      [100, 800],
      [100, 1600],
      [100, 5000],
      [100, 5000],
      [100, 5000],
    ]);
    assert.deepEqual(edges(9), [0, 5000]);
  });

  it('do not hammer for a window of no width, and keep a window’s lower edge', () => {
    assert.deepEqual(edges(4, [0, 0]), [0, 200]);
    assert.deepEqual(edges(1, [3000, 5000]), [3000, 3000]);
  });
});
