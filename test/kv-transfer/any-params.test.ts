// kv_transfer_params of any shape are taken as they stand or refused by name, and claims that were changed are dropped.
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import { macOfClaims, withoutForgedClaims } from '../../src/kv-transfer/claims.js';
import { firstTokenOf } from '../../src/kv-transfer/first-token.js';
import { classifyTransfer, parseKvTransferParams, remoteBlocksOf } from '../../src/kv-transfer/params.js';
import type { KvTransferParams } from '../../src/wire.js';

const limits = { numRuns: 400, interruptAfterTimeLimit: 10_000, markInterruptAsFailure: false };

const small = fc.nat(2 ** 31 - 1);
const id = fc.string({ unit: 'binary', minLength: 1, maxLength: 100 });

/** What nodes send. */
const valid = fc.record(
  {
    do_remote_prefill: fc.constant(true),
    remote_engine_id: fc.option(id),
    remote_block_ids: fc.option(fc.array(fc.array(small, { maxLength: 20 }), { maxLength: 1 })),
    remote_request_id: fc.option(id),
    remote_host: fc.option(id),
    remote_port: fc.option(fc.integer({ min: 1, max: 65_535 })),
    tp_size: fc.integer({ min: 1, max: 1024 }),
    remote_num_tokens: small,
    transfer_mode: fc.constant('pull' as const),
    remote_prefill_cached_tokens: small,
    remote_lease_expires_in_ms: fc.nat(1_000_000),
    lease: fc.boolean(),
    remote_first_token: fc.option(fc.record({ token_id: small }, { noNullPrototype: true })),
  },
  {
    requiredKeys: ['remote_engine_id', 'remote_request_id', 'remote_prefill_cached_tokens'],
    noNullPrototype: true,
  },
);

const fieldNames = [
  'do_remote_prefill',
  'do_remote_decode',
  'remote_engine_id',
  'remote_block_ids',
  'remote_request_id',
  'remote_host',
  'remote_port',
  'tp_size',
  'remote_num_tokens',
  'remote_blocks_expiry_time',
  'transfer_mode',
  'remote_prefill_cached_tokens',
  'remote_lease_expires_in_ms',
  'cache_query',
  'lease',
  'remote_claims_mac',
  'remote_shared_block_hashes',
  'remote_answer_token_ids',
  'remote_prefill_stats',
  'return_first_token',
  'remote_first_token',
] as const;

/** Valid ones in which some fields are anything that JSON can say. */
const anyParams = fc
  .tuple(valid, fc.dictionary(fc.constantFrom(...fieldNames), fc.jsonValue(), { maxKeys: 3 }))
  .map(([fields, changes]): unknown => ({ ...fields, ...changes }));

function parsed(value: unknown): KvTransferParams | null {
  try {
    return parseKvTransferParams(value);
  } catch (error) {
    const isRefusal = error instanceof VllmPdError && error.code === 'INVALID_ARGUMENT';
    if (!isRefusal) throw error;
    assert.match(String(error.param), /^kv_transfer_params(\.\w+)?$/);
    assert.ok(error.message.length < 1000, 'a refusal does not repeat all that it was sent');
    return null;
  }
}

test('params of any shape are refused by the name of their field, or parse to the same again', () => {
  fc.assert(
    fc.property(fc.oneof(anyParams, fc.jsonValue()), (value) => {
      const params = parsed(value);
      if (params === null) return;
      assert.equal(parsed(JSON.parse(JSON.stringify(params))), params);
      classifyTransfer(params);
      remoteBlocksOf(params);
      firstTokenOf(params);
    }),
    limits,
  );
});

test('params that nodes send are taken as they are', () => {
  fc.assert(
    fc.property(valid, (value) => {
      assert.equal(parseKvTransferParams(value), value);
    }),
    limits,
  );
});

// Fails without the comparison in claims.ts.
test('claims that were changed, or are about another prompt, are dropped; reordered ones are not', () => {
  const change = fc.constantFrom('engine', 'request', 'count', 'prompt', 'mac');
  fc.assert(
    fc.property(valid, fc.array(small, { maxLength: 20 }), id, change, (value, prompt, key, what) => {
      const params: KvTransferParams = value;
      const signed = { ...params, remote_claims_mac: macOfClaims(key, params, prompt) };
      const reordered = Object.fromEntries(Object.entries(signed).reverse());
      assert.equal(withoutForgedClaims(key, reordered, prompt), reordered);
      const changed = {
        ...signed,
        ...(what === 'engine' && { remote_engine_id: `${signed.remote_engine_id}?` }),
        ...(what === 'request' && { remote_request_id: `${signed.remote_request_id}?` }),
        ...(what === 'count' && { remote_prefill_cached_tokens: value.remote_prefill_cached_tokens + 1 }),
        ...(what === 'mac' && { remote_claims_mac: 'f'.repeat(64) }),
      };
      const kept = withoutForgedClaims(key, changed, what === 'prompt' ? [...prompt, 1] : prompt);
      assert.is(kept?.remote_prefill_cached_tokens, undefined, what);
    }),
    limits,
  );
});

test.run();
