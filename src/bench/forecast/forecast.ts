// What a benchmark would play and what reuse could save, without starting a node: lengths, and the ledger's arithmetic on them.
import type { EngineOptions } from '../../engine-options.js';
import { inRounds, planArrivals, type UnplannedTurn } from '../arrivals.js';
import { createConversations } from '../create-conversations.js';
import { Tally } from '../datasets/dataset.js';
import { datasetReaders } from '../datasets/filetypes.js';
import type { DatasetReport, DatasetSource } from '../datasets/selection.js';
import { completeSettings, nodeSettings, roomFor, usesStores } from '../targets.js';
import type { Workload } from '../workload.js';
import { forecastLoad, type LoadForecast } from './load-forecast.js';
import type { CacheSettings } from './simulate.js';
import {
  type LengthConversation,
  lengthsOfPlayed,
  lengthsOfRecorded,
  type PromptMeter,
} from './turn-lengths.js';

export interface ForecastOptions {
  readonly workload: Workload;
  readonly engine: EngineOptions;
  /** Turns to play at most; null = all. */
  readonly limit: number | null;
  readonly meter: PromptMeter;
  readonly kv: KvShape;
}

/** Whose KV is priced. */
export interface KvShape {
  readonly model: string;
  readonly dtype: string;
  readonly bytes_per_token: number;
}

/** Field names are a file format: `--dry-run --json` prints them. */
export interface Forecast {
  readonly workload: { readonly name: string; readonly sha256: string; readonly seed: number };
  readonly kv: KvShape & { readonly bytes_per_block: number };
  readonly config: {
    readonly block_size: number;
    /** Those that can hold KV. */
    readonly num_prefill_blocks: number;
    readonly num_decode_blocks: number;
    readonly kv_recompute_threshold: number;
    readonly kv_lookup: string;
    readonly ticket_ttl_ms: number;
  };
  readonly dataset: DatasetReport | null;
  readonly played: LoadForecast;
  /** Everything that was read of the dataset, at its own lengths; null without one. */
  readonly whole_file: FileForecast | null;
  readonly notes: readonly string[];
}

export interface FileForecast extends LoadForecast {
  /** False when its end was not read. */
  readonly complete: boolean;
  /** False where turns were taken in rounds for want of times: what caches of a size still have is then a guess. */
  readonly has_times: boolean;
}

/** Texts have to be tokenized to be counted: as many conversations as that takes seconds for. */
const maxTextConversations = 2000;

export async function forecast(options: ForecastOptions): Promise<Forecast> {
  const { workload, engine, limit, meter, kv } = options;
  const { source, seed } = workload;
  const nodes = nodeSettings(workload.engine, engine);
  const { prefill, decode } = completeSettings(nodes);
  const { blockSize } = prefill.cache;
  const { kvRecomputeThreshold: threshold, lookup, firstToken, decoderKvBlocksTtlMs } = prefill.kvTransfer;
  const caches = prefill.cache.enablePrefixCaching;
  const settings: CacheSettings & { ticketTtlMs: number } = {
    blockSize,
    // Block 0 holds nothing.
    numPrefillBlocks: caches ? prefill.cache.numBlocks - 1 : 0,
    numDecodeBlocks: caches ? decode.cache.numBlocks - 1 : 0,
    kvRecomputeThreshold: threshold === 'auto' ? 0 : threshold,
    lookup,
    prefillAnswersFirstToken: firstToken === 'prefill',
    evictPrefillBetweenTurns: workload.evictPrefillBetweenTurns,
    ticketTtlMs: decoderKvBlocksTtlMs,
  };
  const count = async (text: string) => meter.count(text);
  const { conversations, dataset } = await createConversations(workload, count, roomFor(nodes));
  const order: readonly UnplannedTurn[] = workload.arrival
    ? planArrivals(workload.arrival, conversations, { seed, limit })
    : inRounds(conversations).slice(0, limit ?? undefined);
  const lengths = conversations.map((conversation) => lengthsOfPlayed(conversation, meter));
  return {
    workload: { name: workload.name, sha256: workload.sha256, seed },
    kv: { ...kv, bytes_per_block: kv.bytes_per_token * blockSize },
    config: {
      block_size: blockSize,
      num_prefill_blocks: settings.numPrefillBlocks,
      num_decode_blocks: settings.numDecodeBlocks,
      kv_recompute_threshold: settings.kvRecomputeThreshold,
      kv_lookup: lookup,
      ticket_ttl_ms: decoderKvBlocksTtlMs,
    },
    dataset,
    played: forecastLoad(lengths, order, settings),
    whole_file: source.kind === 'dataset' ? await forecastFile(source, options, settings) : null,
    notes: [
      'Conversations are taken to have nothing in common: what they share is found on P in both modes.',
      'One prefill node and one decode node, requests one after the other, so that none holds what another one needs.',
      ...(threshold === 'auto' ? ['A threshold of auto is taken as 0: everything that D has is read.'] : []),
      ...(usesStores(prefill.kvStore) || usesStores(decode.kvStore)
        ? ['Stores beyond the pools are left out.']
        : []),
    ],
  };
}

async function forecastFile(
  { file, filetype, selection }: DatasetSource,
  { workload, meter }: ForecastOptions,
  settings: CacheSettings & { readonly ticketTtlMs: number },
): Promise<FileForecast> {
  const tally = new Tally();
  const conversations: LengthConversation[] = [];
  for await (const one of datasetReaders[filetype](file, { maxRows: selection.max_rows, tally })) {
    if (one.turns.length === 0) continue;
    if (one.turns[0]!.input.kind === 'messages' && conversations.length === maxTextConversations) {
      tally.complete = false;
      break;
    }
    conversations.push(lengthsOfRecorded(one, meter, workload.sampling.max_tokens));
  }
  const order = inTime(conversations);
  const load = forecastLoad(conversations, order ?? inRounds(conversations), {
    ...settings,
    // Rounds are how a closed loop plays, not what the file has seen.
    evictPrefillBetweenTurns: false,
  });
  return { ...load, complete: tally.complete, has_times: order !== null };
}

/** By their times; null where there are none. */
function inTime(conversations: readonly LengthConversation[]): readonly UnplannedTurn[] | null {
  const rounds = inRounds(conversations);
  const timeOf = ({ conversation, turn }: UnplannedTurn) =>
    conversations[conversation]!.turns[turn - 1]!.arrivalMs;
  if (rounds.some((turn) => timeOf(turn) === null)) return null;
  return rounds.sort((a, b) => timeOf(a)! - timeOf(b)! || a.turn - b.turn);
}
