// Logs: which level is heard, and that a process that ends with its peers says nothing of their silence.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { logged } from './logged.js';

const said = (script: string, level?: string) =>
  logged('log.js', 'createLogger, endQuietly', script, level).map(({ msg }) => msg);

test('warnings are heard, notes only when asked for', () => {
  const script = "const log = createLogger('x'); log.info('a note'); log.warn('a warning');";
  assert.equal(said(script), ['a warning']);
  assert.equal(said(script, 'info'), ['a note', 'a warning']);
});

test('a process that ends with its peers logs no warnings, through loggers it already has', () => {
  const script =
    "const log = createLogger('x'); endQuietly(); log.warn('a peer is gone'); log.error('an error');";
  assert.equal(said(script), ['an error']);
  assert.equal(
    said(script, 'debug'),
    ['a peer is gone', 'an error'],
    'whoever asks for more hears all of it',
  );
});

test.run();
