// kv_transfer_params: what is accepted, what is refused and with which field named, and what they mean.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VllmPdError } from '../../src/errors.js';
import {
  cachedTokensOf,
  classifyTransfer,
  parseKvTransferParams,
  remoteBlocksOf,
  remoteDecodeParams,
} from '../../src/kv-transfer/params.js';
import { byBin, type PrefillStats } from '../../src/wire.js';

const hop2 = {
  do_remote_prefill: true,
  do_remote_decode: false,
  remote_block_ids: [[3, 4, 9]],
  remote_engine_id: 'engine-p',
  remote_request_id: 'cmpl-1-abcd1234',
  remote_host: '127.0.0.1',
  remote_port: 5600,
  tp_size: 1,
  remote_num_tokens: 40,
  remote_blocks_expiry_time: null,
  transfer_mode: 'pull',
};

function createPrefillStats(ledger: Partial<PrefillStats['ledger']> = {}): PrefillStats {
  return {
    num_prompt_tokens: 100,
    num_computed_tokens: 20,
    num_recomputed_tokens: 0,
    ledger: { ...byBin(() => 0), local_hit: 48, pulled_from_d: 32, new: 20, ...ledger },
    num_remote_tokens: 80,
    kv_bytes_d_to_p: 4096,
    kv_transfer_ms_d_to_p: 1.5,
    kv_bytes_p_to_d: 0,
    kv_transfer_ms_p_to_d: 0,
    num_decode_computed_tokens: 0,
  };
}

test("vLLM's hop 1, nulls included, is accepted as it is", () => {
  const hop1 = {
    do_remote_decode: true,
    do_remote_prefill: false,
    remote_engine_id: null,
    remote_block_ids: null,
    remote_host: null,
    remote_port: null,
  };
  assert.equal(parseKvTransferParams(hop1), hop1);
  assert.equal(remoteDecodeParams(), hop1);
  assert.is(classifyTransfer(remoteDecodeParams()), 'remote_decode');
  assert.is(remoteBlocksOf(remoteDecodeParams()), null);
});

test('hop 1 can say that D was asked and holds nothing', () => {
  assert.is(remoteDecodeParams(true).remote_num_tokens, 0);
  assert.is(remoteDecodeParams(false).remote_num_tokens, undefined);
});

test('hop 2 passes unchanged and names the blocks', () => {
  const params = parseKvTransferParams(hop2);
  assert.equal(params, hop2);
  assert.is(classifyTransfer(params), 'remote_prefill');
  assert.equal(remoteBlocksOf(params), {
    remote: { engineId: 'engine-p', host: '127.0.0.1', port: 5600, requestId: 'cmpl-1-abcd1234' },
    blockIds: [3, 4, 9],
  });
});

test('nothing, or an empty object, asks for nothing', () => {
  assert.is(parseKvTransferParams(undefined), null);
  assert.is(parseKvTransferParams(null), null);
  assert.equal(parseKvTransferParams({}), {});
  assert.is(classifyTransfer(null), 'none');
  assert.is(classifyTransfer({}), 'none');
  assert.is(classifyTransfer({ do_remote_prefill: false, do_remote_decode: false }), 'none');
  assert.is(classifyTransfer({ cache_query: true, do_remote_decode: true }), 'cache_query');
});

test('unknown keys are dropped, also those that reach for the prototype', () => {
  const params = parseKvTransferParams(
    JSON.parse('{"dcp_size": 4, "__proto__": {"lease": true}, "lease": false}'),
  );
  assert.equal(params, { lease: false });
});

test('a peer that is named incompletely is no peer', () => {
  for (const key of ['remote_engine_id', 'remote_request_id', 'remote_host', 'remote_port']) {
    assert.is(remoteBlocksOf(parseKvTransferParams({ ...hop2, [key]: null })), null, key);
  }
});

test('an offer without blocks still names the peer to be notified', () => {
  for (const blocks of [null, [], [[]]]) {
    assert.equal(remoteBlocksOf(parseKvTransferParams({ ...hop2, remote_block_ids: blocks }))?.blockIds, []);
  }
});

test("P's statistics are accepted when they add up", () => {
  const stats = createPrefillStats();
  assert.equal(parseKvTransferParams({ remote_prefill_stats: stats }), { remote_prefill_stats: stats });
  assert.is(cachedTokensOf(stats), 80);
});

test('statistics that cannot be are dropped, with a reason, and the request goes on', () => {
  const cases: [field: string, value: unknown][] = [
    ['remote_prefill_cached_tokens', -5],
    ['remote_prefill_cached_tokens', 'many'],
    ['remote_prefill_stats', {}],
    ['remote_prefill_stats', 'good'],
    ['remote_prefill_stats', createPrefillStats({ new: 21 })],
    ['remote_prefill_stats', createPrefillStats({ new: 30, evicted: -10 })],
    ['remote_prefill_stats', { ...createPrefillStats(), kv_bytes_d_to_p: -1 }],
  ];
  for (const [field, value] of cases) {
    const reasons: string[] = [];
    const params = parseKvTransferParams({ ...hop2, [field]: value }, (reason) => reasons.push(reason));
    const { [field as keyof typeof hop2]: _, ...rest } = parseKvTransferParams(hop2)!;
    assert.equal(params, rest, field);
    assert.is(reasons.length, 1);
    assert.match(reasons[0]!, `Expected kv_transfer_params.${field} to be`);
  }
});

const refused: [field: string | null, value: unknown][] = [
  [null, 7],
  [null, 'do_remote_decode'],
  [null, []],
  [null, true],
  ['do_remote_prefill', 'true'],
  ['do_remote_prefill', null],
  ['do_remote_decode', 1],
  ['remote_engine_id', ''],
  ['remote_engine_id', 12],
  ['remote_engine_id', 'x'.repeat(513)],
  ['remote_request_id', ['a']],
  ['remote_request_id', 'x'.repeat(100_000)],
  ['remote_host', ''],
  ['remote_host', 'h'.repeat(256)],
  ['remote_host', {}],
  ['remote_port', 0],
  ['remote_port', -1],
  ['remote_port', 65_536],
  ['remote_port', 80.5],
  ['remote_port', '5600'],
  ['remote_block_ids', 3],
  ['remote_block_ids', [1, 2]],
  ['remote_block_ids', [[1], [2]]],
  ['remote_block_ids', [[-1]]],
  ['remote_block_ids', [[1.5]]],
  ['remote_block_ids', [[2 ** 31]]],
  ['remote_block_ids', [['1']]],
  ['remote_block_ids', [[null]]],
  ['remote_block_ids', [new Array(65_537).fill(1)]],
  ['remote_num_tokens', -1],
  ['remote_num_tokens', 1e300],
  ['remote_num_tokens', Number.NaN],
  ['remote_num_tokens', '40'],
  ['remote_num_tokens', null],
  ['tp_size', 0],
  ['tp_size', 1e6],
  ['remote_blocks_expiry_time', 'soon'],
  ['remote_blocks_expiry_time', Number.POSITIVE_INFINITY],
  ['transfer_mode', 'push'],
  ['remote_lease_expires_in_ms', -1],
  ['remote_lease_expires_in_ms', 1e13],
  ['cache_query', 'yes'],
  ['lease', 0],
];

test('every malformed field is refused with its name and a sentence', () => {
  for (const [field, value] of refused) {
    const label = `${field} = ${JSON.stringify(value)?.slice(0, 60)}`;
    try {
      parseKvTransferParams(field === null ? value : { ...hop2, [field]: value });
      assert.unreachable(`${label} was accepted`);
    } catch (error) {
      assert.ok(error instanceof VllmPdError, label);
      assert.is(error.code, 'INVALID_ARGUMENT', label);
      assert.is(error.param, field === null ? 'kv_transfer_params' : `kv_transfer_params.${field}`, label);
      assert.match(error.message, /^Expected kv_transfer_params\S* to be .+ but received .+\.$/, label);
      assert.ok(error.message.length < 400, label);
    }
  }
});

test('a request cannot be both the one that prefills and the one that decodes', () => {
  try {
    parseKvTransferParams({ ...hop2, do_remote_decode: true });
    assert.unreachable();
  } catch (error) {
    assert.is((error as VllmPdError).param, 'kv_transfer_params.do_remote_decode');
  }
});

test.run();
