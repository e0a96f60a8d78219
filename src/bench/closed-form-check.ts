// Lays the closed form beside the measured turns, where lengths alone determine what must come out.
import type { KvLookup, KvTransferMode } from '../config.js';
import { expectedLedger } from './closed-form.js';
import { type Beginning, beginningsOf } from './shared-beginnings.js';
import { expectedColumns, type TurnRecord } from './turn-record.js';

export interface ClosedFormScope {
  /** Tokens per block. */
  readonly blockSize: number;
  /** Blocks of each node's pool, the null block included. */
  readonly numPrefillBlocks: number;
  readonly numDecodeBlocks: number;
  /** `auto`: what was measured decides, not lengths. */
  readonly kvRecomputeThreshold: number | 'auto';
  /** Blocks that leave a pool may come back from elsewhere. */
  readonly usesStores: boolean;
  readonly lookup: KvLookup;
  readonly enablePrefixCaching: boolean;
  readonly evictPrefillBetweenTurns: boolean;
  /** Nodes of each role: with more than one, where a turn ran is the proxy's choice, */
  readonly numPrefillNodes: number;
  readonly numDecodeNodes: number;
  /** unless a conversation stays where it began. */
  readonly staysHome: boolean;
}

/** The turns with their `expected_*` columns filled in where the closed form determines them. */
export function withExpectedLedgers(
  turns: readonly TurnRecord[],
  firstPrompts: ReadonlyMap<string, readonly number[]>,
  scope: ClosedFormScope,
): TurnRecord[] {
  const beginnings = beginningsOf(firstPrompts, scope.blockSize);
  const { kvRecomputeThreshold } = scope;
  const isDetermined = (mode: KvTransferMode) =>
    scope.enablePrefixCaching &&
    !scope.usesStores &&
    (scope.staysHome || (scope.numPrefillNodes === 1 && scope.numDecodeNodes === 1)) &&
    everythingFits(
      turns.filter((turn) => turn.mode === mode),
      scope,
    );
  const determined = new Map([
    ['uni', isDetermined('uni')],
    ['bi', isDetermined('bi')],
  ]);
  const previous = previousTurns(turns);
  return turns.map((turn) => {
    const before = previous.get(turn) ?? null;
    const isFirst = turn.turn === 1;
    if (
      turn.warmup ||
      turn.error !== null ||
      kvRecomputeThreshold === 'auto' ||
      !determined.get(turn.mode) ||
      dependsOnOthers(beginnings.get(turn.conversation_id) ?? 'own', turn, scope) ||
      // An answer of one token may be P's alone, and then D knows nothing of it.
      turn.num_output_tokens === 1 ||
      before?.num_output_tokens === 1 ||
      (!isFirst && (!before || turn.num_matching_history_tokens < turn.num_history_tokens))
    ) {
      return turn;
    }
    const ledger = expectedLedger(
      { ...scope, kvRecomputeThreshold, mode: turn.mode },
      {
        numPromptTokens: turn.num_prompt_tokens,
        previous: before && {
          numPromptTokens: before.num_prompt_tokens,
          numOutputTokens: before.num_output_tokens,
        },
        evicted: scope.evictPrefillBetweenTurns,
      },
    );
    return { ...turn, ...expectedColumns(ledger) };
  });
}

/** Each turn's predecessor in its conversation and mode, if that was answered. */
function previousTurns(turns: readonly TurnRecord[]): Map<TurnRecord, TurnRecord> {
  const key = (turn: TurnRecord, number: number) => `${turn.mode} ${number} ${turn.conversation_id}`;
  const answered = turns.filter((turn) => !turn.warmup && turn.error === null);
  const byKey = new Map(answered.map((turn) => [key(turn, turn.turn), turn]));
  const pairs = new Map<TurnRecord, TurnRecord>();
  for (const turn of answered) {
    const before = byKey.get(key(turn, turn.turn - 1));
    if (before) pairs.set(turn, before);
  }
  return pairs;
}

/**
 * Blocks that several conversations begin with are computed by whoever comes first: at the first turn, and again in every round
 * that begins with an empty cache. Behind them each has blocks of its own, unless one may go on like the other.
 */
function dependsOnOthers(
  beginning: Beginning,
  { turn }: TurnRecord,
  { evictPrefillBetweenTurns }: ClosedFormScope,
): boolean {
  if (beginning === 'alike') return turn === 1 || evictPrefillBetweenTurns;
  return beginning === 'contained';
}

/**
 * True when neither node ever has to evict: every block that a turn allocates anew, counted as if none were reused,
 * fits into the pools. A prefill cache that is emptied between turns needs room for one round of turns only.
 */
function everythingFits(turns: readonly TurnRecord[], scope: ClosedFormScope): boolean {
  const { blockSize, numPrefillBlocks, numDecodeBlocks, evictPrefillBetweenTurns } = scope;
  const blocks = (numTokens: number) => Math.ceil(numTokens / blockSize) + 1;
  const full = (numTokens: number) => Math.floor(numTokens / blockSize);
  const previous = previousTurns(turns);
  let onDecode = 0;
  const onPrefill = new Map<number, number>();
  for (const turn of turns) {
    const before = previous.get(turn);
    const sequence = turn.num_prompt_tokens + turn.num_output_tokens;
    const cachedOnD = before ? full(before.num_prompt_tokens + before.num_output_tokens - 1) : 0;
    const cachedOnP = before && !evictPrefillBetweenTurns ? full(before.num_prompt_tokens) : 0;
    onDecode += blocks(sequence) - cachedOnD;
    const round = evictPrefillBetweenTurns ? turn.turn : 0;
    const askedAgain = turn.full_hit_ttft_ms != null ? turn.num_prompt_tokens - turn.num_history_tokens : 0;
    const onceMore = askedAgain > 0 ? blocks(askedAgain) + 1 : 0;
    onPrefill.set(round, (onPrefill.get(round) ?? 0) + blocks(turn.num_prompt_tokens) - cachedOnP + onceMore);
  }
  return onDecode < numDecodeBlocks && Math.max(0, ...onPrefill.values()) < numPrefillBlocks;
}
