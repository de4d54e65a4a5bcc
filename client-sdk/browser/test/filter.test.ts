import assert from 'node:assert/strict';
import { it } from 'node:test';

import { isFilter, isTopic, matches } from '../src/filter.js';

const FILTERS = ['a', 'a.b', '*', 'a.*', '*.b', '*.*', '>', 'a.>', '*.>', 'a.b.>', 'a.*.c', '$sys', '$sys.>', '$sys.*', 'a.$x', 'a.$x.>'];
const TOPICS = ['a', 'a.b', 'b.b', 'a.b.c', 'a.b.c.d', 'b', '$sys', '$sys.load', 'a.$x', 'a.$x.b', 'a.b.$x', 'ab', 'a.bc'];

/** The dullest matcher that can be right. */
function takes([want, ...wants]: string[], [token, ...tokens]: string[]): boolean {
  if (want === undefined || token === undefined) return want === token;
  if (want == '>') return [token, ...tokens].every((token) => !token.startsWith('$'));
  if (want == '*' ? token.startsWith('$') : want != token) return false;
  return takes(wants, tokens);
}

it('takes the topics that a token-by-token matcher takes', () => {
  let taken = 0;
  for (const filter of FILTERS) {
    for (const topic of TOPICS) {
      const expected = takes(filter.split('.'), topic.split('.'));
      assert.equal(matches(filter, topic), expected, `${filter} ${topic}`);
      taken += +expected;
    }
  }
  assert.ok(taken > 30, `${taken}`);
});

it('tells topics and filters from other texts', () => {
  const most = Array(16).fill('a').join('.');
  for (const topic of ['a', 'chat.room1', 'größe.日本', '$sys.load', 'a-b_c/d', most, 'x'.repeat(255)]) {
    assert.ok(isTopic(topic) && isFilter(topic), topic);
  }
  for (const filter of ['*', '>', 'a.*', '*.b', 'a.*.>']) assert.ok(isFilter(filter) && !isTopic(filter), filter);
  for (const no of ['', '.', 'a.', '.a', 'a..b', 'a b', 'a\tb', 'a\u00a0b', 'a\u3000b', 'a\u0000', 'a*', '>.a', '>>', `${most}.a`, 'x'.repeat(256), 'ä'.repeat(128)]) {
    assert.ok(!isTopic(no) && !isFilter(no), JSON.stringify(no));
  }
});
