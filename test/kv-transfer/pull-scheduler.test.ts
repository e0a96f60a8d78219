// The connector's scheduler half: which blocks are loaded, what is held for whom, and when nothing is.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { KvTransferConfig } from '../../src/config.js';
import type { PullConnectorScheduler } from '../../src/kv-transfer/pull-scheduler.js';
import type { FinishedPull, PullSpec } from '../../src/outputs.js';
import type { Request } from '../../src/request.js';
import { byBin, type KvTransferParams, type PrefillStats } from '../../src/wire.js';
import {
  allocate,
  assertIdle,
  createConnector,
  createRequest,
  handOverFromP,
  hashesOf,
  idsFrom,
  leaseMs,
  offerFromD,
  ticketMs,
} from './create-connector.js';

function takePulls(connector: PullConnectorScheduler): readonly PullSpec[] {
  return connector.buildConnectorMeta()?.pulls ?? [];
}

function finishedPull(requestId: string, failure: FinishedPull['failure'] = null): FinishedPull {
  return { requestId, numBlocks: 1, numBytes: 4096, transferMs: 2, failure };
}

const received = (...finishedRecving: FinishedPull[]) => ({
  finishedSending: [],
  finishedRecving,
  invalidBlockIds: [],
});
const notified = (...ids: string[]) => ({
  finishedSending: ids.map((requestId) => ({ requestId, numBlocks: 1 })),
  finishedRecving: [],
  invalidBlockIds: [],
});

// ---------------------------------------------------------------------------------------------- loads

test('a load reads the blocks behind the local hit, aligned at the prefix', () => {
  const { connector } = createConnector();
  const request = createRequest(550, offerFromD(496));
  allocate(connector, request, 192, 304);
  assert.is(connector.hasQueuedPulls, true);
  assert.is(connector.numPendingLoads, 1);
  assert.equal(takePulls(connector), [
    {
      requestId: 'r1',
      remote: { engineId: 'engine-d', host: '127.0.0.1', port: 5700, requestId: 'lease-1' },
      remoteBlockIds: idsFrom(112, 19),
      localBlockIds: idsFrom(13, 19),
      blockHashes: hashesOf(496).slice(12),
    },
  ]);
  assert.is(connector.hasQueuedPulls, false);
  assert.is(connector.buildConnectorMeta(), null);
});

test('a longer remote list than the prompt needs is cut at its end, not at its beginning (trap d)', () => {
  const { connector } = createConnector();
  const request = createRequest(450, offerFromD(499));
  const numExternalTokens = connector.getNumNewMatchedTokens(request, 192)!;
  allocate(connector, request, 192, numExternalTokens);
  const [pull] = takePulls(connector);
  assert.equal(pull?.remoteBlockIds, idsFrom(112, 16));
  assert.equal(pull?.localBlockIds, idsFrom(13, 16));
});

test('a partial last block is one more block, with its own hash', () => {
  const { connector } = createConnector({ role: 'decode' });
  const request = createRequest(41, handOverFromP(41));
  allocate(connector, request, 16, 25);
  const [pull] = takePulls(connector);
  assert.equal(pull?.remoteBlockIds, [101, 102]);
  assert.equal(pull?.localBlockIds, [2, 3]);
  assert.equal(pull?.blockHashes, ['hash-1', 'hash-2']);
});

test('there is one load a request, honoured in both count and start, also after preemption (trap e)', () => {
  const { connector } = createConnector();
  const request = createRequest(550, offerFromD(496));
  allocate(connector, request, 192, connector.getNumNewMatchedTokens(request, 192)!);
  assert.is(connector.getNumNewMatchedTokens(request, 0), 0);
  assert.is(connector.getNumRemoteTokens(request), 496, 'what was offered stays known');
  assert.is(takePulls(connector).length, 1);
  connector.updateConnectorOutput(received(finishedPull('r1', 'stale')));

  request.status = 'PREEMPTED';
  request.numPreemptions = 1;
  assert.is(connector.getNumNewMatchedTokens(request, 0), 0);
  allocate(connector, request, 0, 0);
  allocate(connector, request, 0, 304);
  assert.equal(takePulls(connector), [], 'neither a second read nor a second notification');
  assert.is(connector.numPendingLoads, 0);
});

test('the second allocation of an asynchronous load queues nothing', () => {
  const { connector } = createConnector({ role: 'decode' });
  const request = createRequest(41, handOverFromP(41));
  allocate(connector, request, 0, 41);
  takePulls(connector);
  connector.updateConnectorOutput(received(finishedPull('r1')));
  allocate(connector, request, 41, 0);
  connector.requestFinished(request, [], 0);
  assertIdle(connector);
});

const unread: [
  name: string,
  config: Partial<KvTransferConfig>,
  params: KvTransferParams,
  numLocal: number,
][] = [
  ['below the threshold', {}, offerFromD(255), 192],
  ['nothing beyond the local hit', {}, offerFromD(160), 192],
  ['mode uni', { mode: 'uni' }, offerFromD(496), 192],
  ['a full hit on D', { role: 'decode' }, handOverFromP(550), 544],
];

for (const [name, config, params, numLocalTokens] of unread) {
  test(`nothing to read (${name}): the peer is told once, so that its hold ends`, () => {
    const { connector } = createConnector(config);
    const request = createRequest(550, params);
    allocate(connector, request, numLocalTokens, 0);
    allocate(connector, request, numLocalTokens, 0);
    assert.equal(
      takePulls(connector).map((pull) => [pull.remote.requestId, pull.remoteBlockIds, pull.localBlockIds]),
      [['lease-1', [], []]],
    );
    assert.is(connector.numPendingLoads, 0, 'a bare notification is not a load');
    assert.is(connector.getNumNewMatchedTokens(request, 0), 0);
  });
}

test('a request dropped before allocation frees what the peer holds', () => {
  for (const params of [offerFromD(496), handOverFromP(550)]) {
    const { connector } = createConnector();
    const request = createRequest(550, params);
    connector.requestDropped(request);
    assert.is(connector.hasQueuedPulls, true);
    assert.equal(
      takePulls(connector).map((pull) => pull.remoteBlockIds),
      [[]],
    );
    assertIdle(connector);
  }
});

test('a request that ends without ever having been allocated does so too', () => {
  const { connector } = createConnector();
  const request = createRequest(550, offerFromD(496));
  request.status = 'FINISHED_ABORTED';
  assert.equal(connector.requestFinished(request, [], 0), { holdBlocks: false, kvTransferParams: null });
  assert.is(takePulls(connector).length, 1);
  assertIdle(connector);
});

test('requests without a peer queue nothing at any point', () => {
  for (const params of [null, {}, { do_remote_decode: true }, { cache_query: true }]) {
    const { connector } = createConnector();
    const request = createRequest(64, params);
    allocate(connector, request, 0, 0);
    connector.requestDropped(request);
    assertIdle(connector);
  }
});

test('a load of an aborted request is still reported', () => {
  const { connector } = createConnector();
  const request = createRequest(550, offerFromD(496));
  allocate(connector, request, 0, 496);
  takePulls(connector);
  request.status = 'FINISHED_ABORTED';
  connector.requestFinished(request, idsFrom(1, 35), 0);
  assert.is(connector.hasQueuedPulls, false, 'the load notifies by itself');
  assert.is(connector.numPendingLoads, 1);
  assert.is(connector.updateConnectorOutput(received(finishedPull('r1'))).length, 1);
  assertIdle(connector);
});

test('a load is reported once, and a load of nobody never', () => {
  const { connector } = createConnector();
  const request = createRequest(550, offerFromD(496));
  allocate(connector, request, 0, 496);
  assert.equal(connector.updateConnectorOutput(received(finishedPull('r1'), finishedPull('stranger'))), [
    { requestId: 'r1', numBytes: 4096, transferMs: 2, failure: null },
  ]);
  assert.equal(connector.updateConnectorOutput(received(finishedPull('r1'))), []);
});

const failures: [FinishedPull['failure'], string | null][] = [
  [null, null],
  ['expired', 'lease_expired'],
  ['stale', 'transfer_failed'],
  ['failed', 'transfer_failed'],
];

for (const [failure, expected] of failures) {
  test(`a load that ended ${failure ?? 'well'} is ${expected ?? 'good'} in the ledger`, () => {
    const { connector } = createConnector();
    const request = createRequest(550, offerFromD(496));
    allocate(connector, request, 0, 496);
    const [outcome] = connector.updateConnectorOutput(received(finishedPull('r1', failure)));
    assert.is(outcome?.failure, expected);
  });
}

test('a request that names this very node ends the hold here, without a message', () => {
  const { connector } = createConnector({ role: 'both' });
  const lease = connector.grantLease(createRequest(64, { cache_query: true }, 'query'), [1, 2, 3, 4], 64);
  const request = createRequest(200, lease.kvTransferParams, 'turn');
  assert.is(connector.getNumNewMatchedTokens(request, 0), 0);
  allocate(connector, request, 0, 0);
  assert.is(connector.hasQueuedPulls, false);
  assert.equal(connector.takeEndedHolds(), [lease.id]);
  assert.is(connector.numHolds, 0);
});

// ---------------------------------------------------------------------------------------------- holds

function finish(
  connector: PullConnectorScheduler,
  params: KvTransferParams | null,
  status: Request['status'],
  stats: PrefillStats | null = null,
) {
  const request = createRequest(40, params);
  request.status = status;
  request.prefillStats = stats;
  return connector.requestFinished(request, [5, 6, 7, 8], 40);
}

test("P holds a finished prompt and answers with vLLM's hop 2", () => {
  for (const status of ['FINISHED_LENGTH_CAPPED', 'FINISHED_STOPPED'] as const) {
    const { connector } = createConnector();
    assert.equal(finish(connector, { do_remote_decode: true }, status), {
      holdBlocks: true,
      kvTransferParams: {
        do_remote_prefill: true,
        do_remote_decode: false,
        remote_block_ids: [[5, 6, 7]],
        remote_engine_id: 'this-engine',
        remote_request_id: 'r1',
        remote_host: '127.0.0.1',
        remote_port: 5600,
        tp_size: 1,
        remote_num_tokens: 40,
        remote_blocks_expiry_time: null,
        transfer_mode: 'pull',
        remote_lease_expires_in_ms: leaseMs,
      },
    });
    assert.is(connector.numHolds, 1);
    assert.is(connector.nextDeadlineMs(), 1000 + leaseMs);
  }
});

test("P's part of the ledger travels with the hand-over", () => {
  const { connector } = createConnector();
  const stats: PrefillStats = {
    num_prompt_tokens: 40,
    num_computed_tokens: 8,
    num_recomputed_tokens: 0,
    ledger: { ...byBin(() => 0), local_hit: 16, pulled_from_d: 16, new: 8 },
    num_remote_tokens: 32,
    kv_bytes_d_to_p: 1,
    kv_transfer_ms_d_to_p: 1,
    kv_bytes_p_to_d: 0,
    kv_transfer_ms_p_to_d: 0,
    num_decode_computed_tokens: 0,
  };
  const { kvTransferParams } = finish(connector, { do_remote_decode: true }, 'FINISHED_STOPPED', stats);
  assert.equal(kvTransferParams?.remote_prefill_stats, stats);
  assert.is(kvTransferParams?.remote_prefill_cached_tokens, 32);
});

const notHeld: [name: string, Partial<KvTransferConfig>, KvTransferParams | null, Request['status']][] = [
  ['an aborted prefill', {}, { do_remote_decode: true }, 'FINISHED_ABORTED'],
  ['a failed prefill', {}, { do_remote_decode: true }, 'FINISHED_ERROR'],
  ['an ignored prefill', {}, { do_remote_decode: true }, 'FINISHED_IGNORED'],
  ['a request of its own', {}, null, 'FINISHED_STOPPED'],
  ['a turn on D in query mode', { role: 'decode' }, { do_remote_prefill: true }, 'FINISHED_STOPPED'],
  [
    'a turn on D in mode uni',
    { role: 'decode', mode: 'uni', lookup: 'ticket' },
    { do_remote_prefill: true },
    'FINISHED_STOPPED',
  ],
  [
    'a turn on D without params in ticket mode',
    { role: 'decode', lookup: 'ticket' },
    null,
    'FINISHED_STOPPED',
  ],
  [
    'an aborted turn on D in ticket mode',
    { role: 'decode', lookup: 'ticket' },
    { do_remote_prefill: true },
    'FINISHED_ABORTED',
  ],
  ['a turn that P ran by itself', { lookup: 'ticket' }, { do_remote_prefill: true }, 'FINISHED_STOPPED'],
];

for (const [name, config, params, status] of notHeld) {
  test(`${name} leaves nothing held`, () => {
    const { connector } = createConnector(config);
    assert.equal(finish(connector, params, status), { holdBlocks: false, kvTransferParams: null });
    assertIdle(connector);
  });
}

test('in ticket mode D holds a turn and hands out a ticket for P', () => {
  const { connector } = createConnector({ role: 'decode', lookup: 'ticket' });
  const { holdBlocks, kvTransferParams } = finish(connector, { do_remote_prefill: true }, 'FINISHED_STOPPED');
  assert.ok(holdBlocks);
  assert.equal(kvTransferParams, {
    do_remote_prefill: false,
    do_remote_decode: true,
    remote_block_ids: [[5, 6, 7]],
    remote_engine_id: 'this-engine',
    remote_request_id: 'r1',
    remote_host: '127.0.0.1',
    remote_port: 5600,
    tp_size: 1,
    remote_num_tokens: 40,
    remote_blocks_expiry_time: (1000 + ticketMs) / 1000,
    transfer_mode: 'pull',
    remote_lease_expires_in_ms: ticketMs,
  });
  assert.is(connector.nextDeadlineMs(), 1000 + ticketMs);
});

test('a request without computed tokens is not held', () => {
  const { connector } = createConnector();
  const request = createRequest(40, { do_remote_decode: true });
  request.status = 'FINISHED_STOPPED';
  assert.not(connector.requestFinished(request, [], 0).holdBlocks);
});

test('a lease of a cache query names its blocks for P and lasts the lease duration', () => {
  const { connector } = createConnector({ role: 'decode' });
  const query = createRequest(550, { cache_query: true, lease: true }, 'q');
  const first = connector.grantLease(query, [4, 5], 32);
  const second = connector.grantLease(query, [4, 5], 32);
  assert.is.not(first.id, second.id);
  // The query's id is random: whoever was not told the lease's cannot guess it.
  assert.match(first.id, query.requestId);
  assert.is(first.expiresInMs, leaseMs);
  assert.is(first.kvTransferParams.do_remote_decode, true);
  assert.is(first.kvTransferParams.do_remote_prefill, false);
  assert.equal(first.kvTransferParams.remote_block_ids, [[4, 5]]);
  assert.is(first.kvTransferParams.remote_request_id, first.id);
  assert.is(first.kvTransferParams.remote_num_tokens, 32);
  assert.is(connector.numHolds, 2);
  assert.ok(connector.releaseLease(first.id));
  assert.not(connector.releaseLease(first.id));
  assert.not(connector.releaseLease('never granted'));
  assert.equal(connector.takeEndedHolds(), [first.id]);
});

test('peers may read what a hold was granted for, until it ends, however it does', () => {
  const { connector, time, readable } = createConnector({ role: 'decode' });
  const query = createRequest(550, { cache_query: true, lease: true }, 'q');
  const leases = [1, 2, 3].map((first) => connector.grantLease(query, [first, first + 1], 32).id);
  assert.equal(readable.get(leases[1]!), { blockIds: [2, 3], forMs: leaseMs });
  connector.releaseLease(leases[1]!);
  assert.equal([...readable.keys()], [leases[0], leases[2]]);
  connector.revokeOldestHold();
  assert.equal([...readable.keys()], [leases[2]]);
  time.nowMs += leaseMs;
  connector.takeEndedHolds();
  assert.is(readable.size, 0);
});

test('a hold ends once, by notification or by expiry, in either order', () => {
  for (const notifiedFirst of [true, false]) {
    const { connector, time } = createConnector();
    finish(connector, { do_remote_decode: true }, 'FINISHED_STOPPED');
    if (notifiedFirst) connector.updateConnectorOutput(notified('r1', 'r1'));
    time.nowMs += leaseMs;
    assert.equal(connector.takeEndedHolds(), ['r1']);
    connector.updateConnectorOutput(notified('r1'));
    assert.equal(connector.takeEndedHolds(), []);
    assert.is(connector.numEndedHolds('notified'), notifiedFirst ? 1 : 0);
    assert.is(connector.numEndedHolds('expired'), notifiedFirst ? 0 : 1);
    assertIdle(connector);
  }
});

test('a notification for nothing that is held has no effect', () => {
  const { connector } = createConnector();
  connector.updateConnectorOutput(notified('forged'));
  assert.equal(connector.takeEndedHolds(), []);
});

test('two turns through both connectors: every hold and load ends', () => {
  const p = createConnector().connector;
  const d = createConnector({ role: 'decode', engineId: 'engine-d' }).connector;

  const lease = d.grantLease(createRequest(550, { cache_query: true }, 'q'), idsFrom(1, 31), 496);
  const onP = createRequest(550, lease.kvTransferParams, 'p1');
  allocate(p, onP, 192, p.getNumNewMatchedTokens(onP, 192)!);
  const [pullFromD] = takePulls(p);
  p.updateConnectorOutput(received(finishedPull('p1')));
  d.updateConnectorOutput(notified(pullFromD!.remote.requestId));
  onP.status = 'FINISHED_LENGTH_CAPPED';
  const handOver = p.requestFinished(onP, idsFrom(1, 35), 550).kvTransferParams;

  const onD = createRequest(550, handOver, 'd1');
  assert.is(d.getNumNewMatchedTokens(onD, 496), 54);
  allocate(d, onD, 496, 54);
  const [pullFromP] = takePulls(d);
  assert.equal(pullFromP?.remoteBlockIds, idsFrom(32, 4));
  d.updateConnectorOutput(received(finishedPull('d1')));
  p.updateConnectorOutput(notified(pullFromP!.remote.requestId));
  onD.status = 'FINISHED_STOPPED';
  d.requestFinished(onD, idsFrom(1, 50), 799);

  assert.equal(d.takeEndedHolds(), [lease.id]);
  assert.equal(p.takeEndedHolds(), ['p1']);
  assertIdle(p);
  assertIdle(d);
});

test.run();
