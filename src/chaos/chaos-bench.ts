// The soak in every mode and over every transport, one after the other, and the run kept.
import { randomBytes } from 'node:crypto';
import { beginRun, hostInfo, type RunStart } from '../bench/host.js';
import { checkResultsDir, keepFiles, runId } from '../bench/results.js';
import type { KvLookup, KvTransferMode } from '../config.js';
import type { EngineOptions } from '../engine-options.js';
import { mergeEngineOptions } from '../engine-options.js';
import { VllmPdError } from '../errors.js';
import { resolveModel } from '../model/resolve-model.js';
import { packageVersion } from '../version.js';
import type { ChaosRun } from './chaos-run.js';
import type { StoreKind } from './chaos-store.js';
import { summarizeChaos } from './chaos-summary.js';
import { type FaultKind, faultKinds } from './fault.js';
import { isClean, type SoakReport, soak } from './soak.js';

/** `ticket` is mode bi with tickets in place of queries. */
export const soakModes = ['uni', 'bi', 'ticket'] as const;
export type SoakMode = (typeof soakModes)[number];

export const soakTransports = ['shm', 'tcp'] as const;
export type SoakTransport = (typeof soakTransports)[number];

export interface ChaosOptions {
  /** As typed, for the record. */
  readonly command: string;
  readonly modes: readonly SoakMode[];
  readonly transports: readonly SoakTransport[];
  /** Of each mode over each transport. */
  readonly numTurns: number;
  readonly seed: number;
  readonly numClients: number;
  readonly faultEvery: number;
  readonly kinds: readonly FaultKind[];
  readonly store: StoreKind;
  /** Laid over `chaosEngine`. */
  readonly engine: EngineOptions;
  /** Of all soaks together, in ms; null = none. */
  readonly timeLimitMs: number | null;
  /** Null = the run is not kept. */
  readonly resultsDir: string | null;
  readonly signal: AbortSignal;
  readonly onTurn?: (name: string, numDone: number, numTurns: number) => void;
}

/** Pools so small that blocks are evicted and requests wait; times short enough to see leases expire and reads given up. */
const chaosEngine: EngineOptions = {
  model: 'tiny',
  numThreads: 1,
  cache: { numBlocks: 192 },
  scheduler: { maxModelLen: 1024 },
  kvTransfer: {
    kvRecomputeThreshold: 16,
    kvLeaseDurationMs: 1500,
    decoderKvBlocksTtlMs: 8000,
    kvReadTimeoutMs: 4000,
    kvPeerTimeoutMs: 1000,
  },
};

const attemptTimeoutMs = 30_000;

/** What is wrong is in the report; throws what keeps the systems from running. */
export async function runChaos(
  options: ChaosOptions,
): Promise<{ readonly run: ChaosRun; readonly keptAt: string | null }> {
  if (options.resultsDir !== null) checkResultsDir(options.resultsDir);
  const start = beginRun();
  const deadlineMs = options.timeLimitMs === null ? null : performance.now() + options.timeLimitMs;
  const engine = mergeEngineOptions(chaosEngine, options.engine);
  const model = engine.model!;
  const modelPath = await resolveModel(model, { backend: engine.backend });
  const resolved = { ...engine, model: modelPath, servedModelName: engine.servedModelName ?? model };
  const soaks: SoakReport[] = [];
  const total = options.numTurns * options.modes.length * options.transports.length;
  for (const mode of options.modes) {
    for (const transport of options.transports) {
      const timeLimitMs = deadlineMs === null ? null : Math.max(0, deadlineMs - performance.now());
      if (options.signal.aborted || timeLimitMs === 0) continue;
      const numBefore = soaks.reduce((sum, { num_turns }) => sum + num_turns, 0);
      const onTurn = (numDone: number) =>
        options.onTurn?.(`${mode} over ${transport}`, numBefore + numDone, total);
      soaks.push(await soakOf(options, resolved, mode, transport, timeLimitMs, onTurn));
    }
  }
  const run = describe(options, start, soaks);
  return { run, keptAt: options.resultsDir === null ? null : keepRun(options.resultsDir, run) };
}

function soakOf(
  options: ChaosOptions,
  engine: EngineOptions,
  soakMode: SoakMode,
  transport: SoakTransport,
  timeLimitMs: number | null,
  onTurn: (numDone: number) => void,
): Promise<SoakReport> {
  const mode: KvTransferMode = soakMode === 'uni' ? 'uni' : 'bi';
  const lookup: KvLookup = soakMode === 'ticket' ? 'ticket' : 'query';
  const key = randomBytes(32).toString('base64url');
  const { seed, numTurns, numClients, faultEvery, kinds, store, signal } = options;
  return soak({
    name: `${soakMode} over ${transport}`,
    engine: mergeEngineOptions(engine, { kvTransfer: { mode, lookup, agent: transport, key } }),
    mode,
    lookup,
    store,
    seed,
    numTurns,
    numClients,
    faultEvery,
    kinds,
    timeoutMs: attemptTimeoutMs,
    timeLimitMs,
    signal,
    onTurn,
  });
}

function describe(
  options: ChaosOptions,
  { startedAt, code }: RunStart,
  soaks: readonly SoakReport[],
): ChaosRun {
  return {
    id: runId(startedAt, 'chaos', 'chaos'),
    bench: 'chaos',
    command: options.command,
    version: packageVersion(),
    ...code,
    host: hostInfo(),
    started_at: startedAt.toISOString(),
    seed: options.seed,
    fault_every: options.faultEvery,
    num_clients: options.numClients,
    fault_kinds: options.kinds,
    store: options.store,
    soaks,
  };
}

function keepRun(resultsDir: string, run: ChaosRun): string {
  const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;
  return keepFiles(resultsDir, run.id, { 'run.json': json(run), 'summary.json': json(summarizeChaos(run)) });
}

/** Throws CHECK_FAILED, naming what went wrong first and how to see it again. */
export function failUnlessClean(run: ChaosRun): void {
  const dirty = run.soaks.filter((report) => !isClean(report));
  if (dirty.length === 0) return;
  const sentences = dirty.flatMap(({ name, wrong, lost, leaks }) => [
    ...wrong.slice(0, 3).map((turn) => `${name}: wrong tokens in ${turn}.`),
    ...lost.slice(0, 3).map((turn) => `${name}: lost ${turn}`),
    ...leaks.slice(0, 3).map((leak) => `${name}: not whole ${leak}`),
  ]);
  throw new VllmPdError('CHECK_FAILED', sentences.join('\n'), {
    suggestions: dirty.map((report) => `\`${replayOf(run, report)}\` plays the same turns and faults again.`),
  });
}

function replayOf(run: ChaosRun, { name, num_turns }: SoakReport): string {
  const [mode, transport] = name.split(' over ');
  const kinds = run.fault_kinds.length < faultKinds.length ? run.fault_kinds : [];
  return [
    `vllm-pd bench chaos --seed ${run.seed} --mode ${mode} --transport ${transport} --turns ${num_turns}`,
    `--num-clients ${run.num_clients} --fault-every ${run.fault_every}`,
    ...(run.store === 'none' ? [] : [`--store ${run.store}`]),
    ...kinds.map((kind) => `--fault ${kind}`),
  ].join(' ');
}
