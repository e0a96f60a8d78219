// What the scheduler-half tests are arranged with: a connector on a clock that stands, requests, offers, allocation.
import * as assert from 'uvu/assert';
import type { KvTransferConfig } from '../../src/config.js';
import { PullConnectorScheduler } from '../../src/kv-transfer/pull-scheduler.js';
import { defaultSamplingParams, Request } from '../../src/request.js';
import type { KvTransferParams } from '../../src/wire.js';

const blockSize = 16;
export const leaseMs = 30_000;
export const ticketMs = 480_000;

/** A connector on a clock that stands until it is moved. */
export function createConnector(config: Partial<KvTransferConfig> = {}) {
  const time = { nowMs: 1000 };
  /** What peers may read over tcp, with how long it was granted for. */
  const readable = new Map<string, { blockIds: readonly number[]; forMs: number }>();
  const connector = new PullConnectorScheduler({
    config: {
      engineId: 'this-engine',
      role: 'prefill',
      mode: 'bi',
      lookup: 'query',
      firstToken: 'prefill',
      kvRecomputeThreshold: 64,
      kvLeaseDurationMs: leaseMs,
      decoderKvBlocksTtlMs: ticketMs,
      kvReadTimeoutMs: 30_000,
      kvPeerTimeoutMs: 5000,
      agent: 'auto',
      sideChannelHost: '127.0.0.1',
      sideChannelPort: 0,
      kvLoadFailurePolicy: 'recompute',
      key: null,
      insecure: false,
      peers: [],
      ...config,
    },
    blockSize,
    host: '127.0.0.1',
    port: 5600,
    holds: {
      grant: (id, blockIds, forMs) => readable.set(id, { blockIds, forMs }),
      end: (id) => readable.delete(id),
    },
    clock: () => time.nowMs,
  });
  return { connector, time, readable };
}

export function createRequest(
  numPromptTokens: number,
  kvTransferParams: KvTransferParams | null,
  requestId = 'r1',
) {
  const init = {
    requestId,
    promptTokenIds: Array.from({ length: numPromptTokens }, (_, i) => i),
    samplingParams: defaultSamplingParams,
    kvTransferParams,
  };
  return new Request(init, 1000);
}

export const idsFrom = (first: number, numBlocks: number) =>
  Array.from({ length: numBlocks }, (_, i) => first + i);
export const hashesOf = (numTokens: number) =>
  Array.from({ length: Math.ceil(numTokens / blockSize) }, (_, i) => `hash-${i}`);

/** What D offers P: a leased answer to a cache query, or a ticket. Blocks are numbered from 100. */
export function offerFromD(numTokens: number, more: Partial<KvTransferParams> = {}): KvTransferParams {
  return {
    do_remote_prefill: false,
    do_remote_decode: true,
    remote_engine_id: 'engine-d',
    remote_request_id: 'lease-1',
    remote_host: '127.0.0.1',
    remote_port: 5700,
    remote_num_tokens: numTokens,
    remote_block_ids: [idsFrom(100, Math.ceil(numTokens / blockSize))],
    ...more,
  };
}

/** What P hands over to D. */
export function handOverFromP(numTokens: number, more: Partial<KvTransferParams> = {}): KvTransferParams {
  return { ...offerFromD(numTokens), do_remote_prefill: true, do_remote_decode: false, ...more };
}

/** Allocates blocks 1, 2, … for the whole prompt and tells the connector, as the scheduler does. */
export function allocate(
  connector: PullConnectorScheduler,
  request: Request,
  numLocalTokens: number,
  numExternalTokens: number,
) {
  connector.updateStateAfterAlloc(
    request,
    idsFrom(1, Math.ceil(request.numPromptTokens / blockSize)),
    numLocalTokens,
    numExternalTokens,
    hashesOf(numLocalTokens + numExternalTokens),
  );
}

/** Asserts that the connector is as new: no hold, no load, nothing queued. */
export function assertIdle(connector: PullConnectorScheduler) {
  assert.is(connector.numHolds, 0);
  assert.is(connector.numPendingLoads, 0);
  assert.is(connector.hasQueuedPulls, false);
  assert.is(connector.buildConnectorMeta(), null);
  assert.is(connector.nextDeadlineMs(), null);
}
