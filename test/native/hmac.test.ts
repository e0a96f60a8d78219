// The module's HMAC-SHA256 is the standard's.
import { createHmac, randomBytes } from 'node:crypto';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { VllmPdError } from '../../src/errors.js';
import { loadNative } from '../../src/native.js';

test('digests are those of another implementation, whatever the lengths of key and message', () => {
  for (const numKeyBytes of [0, 1, 20, 32, 63, 64]) {
    for (const numBytes of [0, 1, 54, 55, 56, 63, 64, 65, 119, 120, 1000, 147_000]) {
      const key = randomBytes(numKeyBytes);
      const message = randomBytes(numBytes);
      const expected = createHmac('sha256', key).update(message).digest('hex');
      const name = `${numBytes} bytes under a key of ${numKeyBytes}`;
      assert.is(loadNative().hmacSha256(key, message).toString('hex'), expected, name);
    }
  }
});

test('a key that would have to be hashed first is refused', () => {
  try {
    loadNative().hmacSha256(Buffer.alloc(65), Buffer.alloc(1));
    assert.unreachable();
  } catch (error) {
    assert.is((error as VllmPdError).code, 'INVALID_ARGUMENT');
  }
});

test.run();
