// Stop strings in text that comes in pieces.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { StopChecker } from '../../src/engine/stop-checker.js';

const table: readonly {
  name: string;
  stops: readonly string[];
  include?: boolean;
  pieces: readonly string[];
  out: readonly string[];
  stop: string | null;
  flush?: string;
}[] = [
  {
    name: 'no stop strings: everything passes at once',
    stops: [],
    pieces: ['a', 'b'],
    out: ['a', 'b'],
    stop: null,
  },
  {
    name: 'a stop string inside one piece',
    stops: ['END'],
    pieces: ['one END two'],
    out: ['one '],
    stop: 'END',
  },
  {
    name: 'it is kept on request',
    stops: ['END'],
    include: true,
    pieces: ['one END two'],
    out: ['one END'],
    stop: 'END',
  },
  {
    name: 'it may be spread over pieces',
    stops: ['END'],
    pieces: ['xE', 'N', 'Dy'],
    out: ['x', '', ''],
    stop: 'END',
  },
  {
    name: 'what only began like one is given out',
    stops: ['END'],
    pieces: ['xE', 'No'],
    out: ['x', 'ENo'],
    stop: null,
  },
  {
    name: 'a held beginning comes out at the end',
    stops: ['END'],
    pieces: ['xEN'],
    out: ['x'],
    stop: null,
    flush: 'EN',
  },
  {
    name: 'a beginning within a beginning',
    stops: ['aab'],
    pieces: ['aa', 'a', 'b'],
    out: ['', 'a', ''],
    stop: 'aab',
  },
  {
    name: 'the earliest of several counts',
    stops: ['two', 'one'],
    pieces: ['one two'],
    out: [''],
    stop: 'one',
  },
  { name: 'of equals the first of the list', stops: ['on', 'one'], pieces: ['one'], out: [''], stop: 'on' },
  {
    name: 'a stop string of one character holds nothing back',
    stops: ['.'],
    pieces: ['ab', 'c.'],
    out: ['ab', 'c'],
    stop: '.',
  },
];

for (const { name, stops, include = false, pieces, out, stop, flush = '' } of table) {
  test(name, () => {
    const checker = new StopChecker(stops, include);
    const checks = pieces.map((piece) => checker.push(piece));
    assert.equal(
      checks.map((check) => check.text),
      out,
    );
    assert.is(checks.at(-1)!.stop, stop);
    assert.is(checker.flush(), flush);
  });
}

test('text under min_tokens passes, and a stop string must lie behind it', () => {
  const checker = new StopChecker(['ab'], false);
  assert.is(checker.pass('xab a'), 'xab a');
  assert.equal(checker.push('b'), { text: 'b', stop: null });
  assert.equal(checker.push('ab'), { text: '', stop: 'ab' });
});

test.run();
