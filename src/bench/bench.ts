// A benchmark from beginning to end: systems up, texts made, turns played, everything checked, the run kept.
import type { KvTransferMode } from '../config.js';
import type { EngineOptions } from '../engine-options.js';
import { messageOf, VllmPdError } from '../errors.js';
import { packageVersion } from '../version.js';
import { planArrivals } from './arrivals.js';
import {
  type Check,
  checkClosedForm,
  checkIdenticalOutputs,
  checkLedgerSums,
  checkNoFailedTurns,
  checkNoTwoHops,
  checkUniDirection,
  result,
} from './checks.js';
import { withExpectedLedgers } from './closed-form-check.js';
import type { Conversation } from './conversation.js';
import { createConversations } from './create-conversations.js';
import type { DatasetReport } from './datasets/selection.js';
import { formatPercent } from './format.js';
import { beginRun, hostInfo, type RunStart } from './host.js';
import type { MetricsChoice } from './metrics-choice.js';
import { type ByteCounts, checkKvBytes, checkPools, countKvBytes } from './node-probe.js';
import { checkResultsDir, keepRun, runId } from './results.js';
import type { BenchName, RunInfo } from './run-info.js';
import { countTurns, playConversations, type RunResult } from './runner.js';
import { type RunSummary, summarizeRun } from './summary.js';
import {
  type BenchNodes,
  completeSettings,
  connectTarget,
  nodeSettings,
  roomFor,
  runConfig,
  startTarget,
  type Target,
  usesStores,
} from './targets.js';
import type { TurnRecord } from './turn-record.js';
import type { Workload } from './workload.js';

export interface BenchOptions {
  readonly bench: BenchName;
  /** As typed, for the record. */
  readonly command: string;
  /** With overrides applied. */
  readonly workload: Workload;
  /** For the record. */
  readonly overrides: Readonly<Record<string, string | number>>;
  /** Null = whatever the proxy at `url` does. */
  readonly modes: readonly KvTransferMode[] | null;
  /** A running proxy instead of nodes of the benchmark's own. */
  readonly url: string | null;
  readonly engine: EngineOptions;
  readonly nodes?: BenchNodes;
  /** Turns per mode at most; null = all. */
  readonly limit: number | null;
  /** Limit of one request, in ms. */
  readonly timeoutMs: number;
  /** Null = the run is not kept. */
  readonly resultsDir: string | null;
  readonly signal: AbortSignal;
  readonly metrics: MetricsChoice;
  readonly onPhase?: (phase: string) => void;
  /** `numDone` of `numTurns` turns, all modes together. */
  readonly onTurn?: (record: TurnRecord, numDone: number, numTurns: number) => void;
}

/** Below what a node accepts. */
const openLoopConnections = 2048;

export interface BenchResult {
  readonly summary: RunSummary;
  readonly turns: readonly TurnRecord[];
  /** Folder of the kept run. */
  readonly keptAt: string | null;
}

/**
 * Broken checks and failed turns are reported in the result, not thrown: see `failIfBroken`. Throws what keeps the
 * run from beginning; whatever was started is gone by then.
 */
export async function runBench(options: BenchOptions): Promise<BenchResult> {
  if (options.resultsDir !== null) checkResultsDir(options.resultsDir);
  const targets: Target[] = [];
  try {
    await openTargets(options, targets);
    return await playAndKeep(options, targets);
  } finally {
    await Promise.all(targets.map((target) => target.close()));
  }
}

/** One after the other: a built-in model is made on first use. */
async function openTargets(options: BenchOptions, targets: Target[]): Promise<void> {
  const { workload, url, modes, engine, signal, timeoutMs } = options;
  const targetOptions = { timeoutMs, signal, maxConnections: maxConnectionsOf(workload) };
  if (url !== null) {
    options.onPhase?.('connecting');
    targets.push(await connectTarget(url, modes?.[0] ?? null, targetOptions));
    return;
  }
  const settings = nodeSettings(workload.engine, engine);
  for (const mode of modes ?? []) {
    options.onPhase?.(`starting nodes (${mode})`);
    const onPacked = (fraction: number) =>
      options.onPhase?.(`starting nodes (${mode}): packing weights, ${formatPercent(fraction)}`);
    targets.push(await startTarget(mode, settings, options.nodes ?? {}, { ...targetOptions, onPacked }));
    throwIfInterrupted(signal);
  }
}

async function playAndKeep(options: BenchOptions, targets: readonly Target[]): Promise<BenchResult> {
  const { workload, url, limit, signal } = options;
  const start = beginRun();
  const first = targets[0]!.client;
  options.onPhase?.('making texts');
  const { conversations, dataset } = await createConversations(
    workload,
    (text) => first.countTokens(text),
    url === null ? roomFor(nodeSettings(workload.engine, options.engine)) : null,
  );
  const bytesBefore = await Promise.all(targets.map(({ client }) => bytesOf(client, options.url)));
  const numTurns = countTurns(conversations, limit) * targets.length;
  let numDone = 0;
  options.onPhase?.('warming up');
  const playedAt = performance.now();
  const played = await playConversations({
    targets,
    conversations,
    sampling: workload.sampling,
    numClients: workload.numClients,
    arrivals:
      workload.arrival && planArrivals(workload.arrival, conversations, { seed: workload.seed, limit }),
    evictPrefillBetweenTurns: workload.evictPrefillBetweenTurns,
    asksFullHits: asksFullHits(options),
    numWarmups: Math.max(options.nodes?.prefill ?? 1, options.nodes?.decode ?? 1),
    limit,
    signal,
    onTurn: (record) => options.onTurn?.(record, ++numDone, numTurns),
  });
  const durationMs = performance.now() - playedAt;
  if (signal.aborted && played.turns.length === 0) throwIfInterrupted(signal);
  const turns = withExpectations(options, played);
  options.onPhase?.('checking');
  const checks = [
    ...checkTurns(options, turns),
    ...(signal.aborted ? [] : await checkTargets(options, targets, bytesBefore, turns)),
    ...(played.failure === null ? [] : [result('the run went to its end', [messageOf(played.failure)], '')]),
  ];
  const run = describeRun(options, {
    targets,
    conversations,
    dataset,
    start,
    durationMs,
    played,
    checks,
  });
  const summary = summarizeRun(run, turns);
  const keptAt = options.resultsDir === null ? null : await keepRun(options.resultsDir, summary, turns);
  return { summary, turns, keptAt };
}

/** Null where nodes cannot be asked: behind a proxy that runs already they may be out of reach. */
async function bytesOf(client: Target['client'], url: string | null): Promise<ByteCounts | null> {
  const counts = countKvBytes(client);
  return url === null ? counts : counts.catch(() => null);
}

/** In an open loop nobody knows how many turns will be under way. */
function maxConnectionsOf({ arrival, numClients }: Workload): number {
  return arrival ? openLoopConnections : numClients + 1;
}

/** Where bi brings back what was evicted, and P answers the first token by itself, so that the asking moves no KV. */
function asksFullHits({ workload, url, modes, engine }: BenchOptions): boolean {
  if (url !== null || !workload.evictPrefillBetweenTurns || (modes?.length ?? 0) < 2) return false;
  const { kvTransfer, cache } = completeSettings(nodeSettings(workload.engine, engine)).prefill;
  return kvTransfer.firstToken === 'prefill' && cache.enablePrefixCaching;
}

/** Nothing is expected of nodes that the benchmark did not set up itself. */
function withExpectations(
  { workload, url, engine, nodes = {} }: BenchOptions,
  played: RunResult,
): readonly TurnRecord[] {
  if (url !== null) return played.turns;
  const { prefill, decode } = completeSettings(nodeSettings(workload.engine, engine));
  return withExpectedLedgers(played.turns, played.firstPrompts, {
    blockSize: prefill.cache.blockSize,
    numPrefillBlocks: prefill.cache.numBlocks,
    numDecodeBlocks: decode.cache.numBlocks,
    kvRecomputeThreshold: prefill.kvTransfer.kvRecomputeThreshold,
    usesStores: usesStores(prefill.kvStore) || usesStores(decode.kvStore),
    lookup: prefill.kvTransfer.lookup,
    enablePrefixCaching: prefill.cache.enablePrefixCaching,
    evictPrefillBetweenTurns: workload.evictPrefillBetweenTurns,
    numPrefillNodes: nodes.prefill ?? 1,
    numDecodeNodes: nodes.decode ?? 1,
    staysHome: [nodes.prefillRouting, nodes.decodeRouting].every(
      (policy) => (policy ?? 'session') === 'session',
    ),
  });
}

function checkTurns({ workload, modes, url, engine }: BenchOptions, turns: readonly TurnRecord[]): Check[] {
  const { temperature, seed } = workload.sampling;
  const isComparable = (modes?.length ?? 1) > 1 && (temperature === 0 || seed !== undefined);
  return [
    checkNoFailedTurns(turns),
    checkLedgerSums(turns),
    ...(url === null ? [checkClosedForm(turns)] : []),
    checkUniDirection(turns),
    ...(url === null && engine.kvStore?.hopPlanner !== false ? [checkNoTwoHops(turns)] : []),
    ...(isComparable ? [checkIdenticalOutputs(turns)] : []),
  ];
}

async function checkTargets(
  { workload, engine, url }: BenchOptions,
  targets: readonly Target[],
  bytesBefore: readonly (ByteCounts | null)[],
  turns: readonly TurnRecord[],
): Promise<Check[]> {
  const checks: Check[] = [];
  const lookup =
    url === null ? completeSettings(nodeSettings(workload.engine, engine)).prefill.kvTransfer.lookup : null;
  for (const [i, { client, mode, death }] of targets.entries()) {
    // First the pools: hand-overs that are just ending still count bytes.
    const own = turns.filter((turn) => turn.mode === mode);
    const before = bytesBefore[i]!;
    // Nodes of another kind do not tell.
    if (before !== null && !own.some((turn) => turn.prefill_unknown)) {
      checks.push(await checkPools(client, mode, lookup));
      checks.push(await checkKvBytes(client, mode, before, own));
    }
    const last = death();
    if (last !== null) checks.push(result(`no node died (${mode})`, [last], ''));
  }
  return checks;
}

function describeRun(
  options: BenchOptions,
  facts: {
    readonly targets: readonly Target[];
    readonly conversations: readonly Conversation[];
    readonly dataset: DatasetReport | null;
    readonly start: RunStart;
    readonly durationMs: number;
    readonly played: RunResult;
    readonly checks: readonly Check[];
  },
): RunInfo {
  const { bench, command, workload, overrides, url, limit } = options;
  const { targets, conversations, dataset, start, durationMs, played, checks } = facts;
  return {
    id: runId(start.startedAt, bench, workload.name),
    bench,
    command,
    version: packageVersion(),
    ...start.code,
    host: hostInfo(),
    started_at: start.startedAt.toISOString(),
    ended_at: new Date().toISOString(),
    duration_s: Math.round(durationMs / 100) / 10,
    complete: played.complete,
    workload: {
      name: workload.name,
      description: workload.description,
      sha256: workload.sha256,
      overrides,
      seed: workload.seed,
      num_clients: workload.numClients,
      ...(workload.arrival && { arrival: workload.arrival }),
      num_conversations: conversations.length,
      num_turns: countTurns(conversations, limit),
      evict_prefill_between_turns: workload.evictPrefillBetweenTurns,
      ...(dataset && { dataset }),
      modes: targets.map(({ mode }) => mode),
    },
    config:
      url === null ? runConfig(nodeSettings(workload.engine, options.engine), options.nodes ?? {}) : null,
    url,
    checks,
    ...options.metrics,
  };
}

function throwIfInterrupted(signal: AbortSignal): void {
  if (signal.aborted) throw new VllmPdError('INTERNAL', 'Interrupted.');
}
