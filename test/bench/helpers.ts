// Turns and runs as a benchmark would have recorded them.
import type { ClosedFormScope } from '../../src/bench/closed-form-check.js';
import type { RunInfo } from '../../src/bench/run-info.js';
import { failedTurn, type TurnRecord } from '../../src/bench/turn-record.js';

export function createTurn(fields: Partial<TurnRecord>): TurnRecord {
  const identity = {
    mode: 'bi',
    conversationId: 'a',
    turn: 1,
    warmup: false,
    startTimeMs: 0,
    plannedStartMs: null,
  } as const;
  return { ...failedTurn(identity, ''), output_sha256: '00ff', error: null, ...fields };
}

export function createScope(fields: Partial<ClosedFormScope>): ClosedFormScope {
  return {
    blockSize: 16,
    numPrefillBlocks: 1024,
    numDecodeBlocks: 1024,
    kvRecomputeThreshold: 64,
    usesStores: false,
    lookup: 'query',
    enablePrefixCaching: true,
    evictPrefillBetweenTurns: false,
    numPrefillNodes: 1,
    numDecodeNodes: 1,
    staysHome: false,
    ...fields,
  };
}

export function createRunInfo(fields: Partial<RunInfo> = {}): RunInfo {
  return {
    id: '2026-01-31T12-00-00-multi-turn-test',
    bench: 'multi-turn',
    command: 'vllm-pd bench multi-turn',
    version: '0.0.0',
    commit: null,
    dirty: false,
    host: { cpu: 'test', cores: 2, memory_bytes: 8 * 1024 ** 3, os: 'Linux', node: 'v20' },
    started_at: '2026-01-31T12:00:00.000Z',
    ended_at: '2026-01-31T12:00:10.000Z',
    duration_s: 10,
    complete: true,
    workload: {
      name: 'test',
      description: '',
      sha256: 'ab',
      overrides: {},
      seed: 0,
      num_clients: 1,
      num_conversations: 1,
      num_turns: 2,
      evict_prefill_between_turns: false,
      modes: ['uni', 'bi'],
    },
    config: null,
    url: null,
    checks: [],
    ...fields,
  };
}
