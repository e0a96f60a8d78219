// Runs are kept with what was typed, but not with passwords.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { hidePasswords } from '../../src/bench/hide-passwords.js';

test('addresses lose their passwords and nothing else', () => {
  assert.is(hidePasswords('redis://:secret@127.0.0.1:6379/2'), 'redis://:***@127.0.0.1:6379/2');
  assert.is(
    hidePasswords('vllm-pd bench --kv-shared-store rediss://me:p%40ss@host --seed 1'),
    'vllm-pd bench --kv-shared-store rediss://me:***@host --seed 1',
  );
  for (const text of ['/mnt/kv', 'redis://127.0.0.1:6379', 'http://a:1/b@c', 'redis://me@host']) {
    assert.is(hidePasswords(text), text);
  }
});

test.run();
