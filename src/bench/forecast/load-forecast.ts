// What a load is made of, and what each mode would compute of it, with the caches that there are and with others.
import type { UnplannedTurn } from '../arrivals.js';
import { ratio, type Summary, summarize } from '../stats.js';
import { type Retention, retentionOf } from './retention.js';
import { type CacheSettings, type ModeForecast, simulate } from './simulate.js';
import type { LengthConversation } from './turn-lengths.js';

/** A summary with the largest value. */
export interface Lengths extends Summary {
  readonly max: number | null;
}

export interface Scenario {
  readonly uni: ModeForecast;
  readonly bi: ModeForecast;
}

export interface LoadForecast {
  readonly num_conversations: number;
  /** Of one turn: nothing can be reused. */
  readonly num_single_turn_conversations: number;
  readonly num_turns: number;
  readonly num_follow_up_turns: number;
  readonly turns_per_conversation: Lengths;
  readonly prompt_tokens: Lengths;
  /** What follow-up turns add to prompt and answer before them. */
  readonly added_tokens: Lengths;
  readonly output_tokens: Lengths;
  /** Null without times. */
  readonly retention: Retention | null;
  readonly scenarios: {
    /** Pools as configured. */
    readonly configured: Scenario;
    /** Neither node ever evicts. */
    readonly everything_fits: Scenario;
    /** P has lost the history at every turn, D has all of it. */
    readonly prefill_lost: Scenario;
  };
  /** What smaller decode caches would still have of what `prefill_lost` reads from D; empty where that is nothing. */
  readonly decode_sizes: readonly DecodeSize[];
}

export interface DecodeSize {
  readonly num_blocks: number;
  /** Share of the tokens that D would have with room for everything. */
  readonly found_ratio: number | null;
}

export function forecastLoad(
  conversations: readonly LengthConversation[],
  order: readonly UnplannedTurn[],
  settings: CacheSettings & { readonly ticketTtlMs: number },
): LoadForecast {
  const played = order.map(({ conversation, turn }) => conversations[conversation]!.turns[turn - 1]!);
  const added = order.flatMap(({ conversation, turn }) => {
    const { turns } = conversations[conversation]!;
    const before = turns[turn - 2];
    return before ? [turns[turn - 1]!.numPromptTokens - before.numPromptTokens - before.numOutputTokens] : [];
  });
  const scenario = (over: Partial<CacheSettings>): Scenario => ({
    uni: simulate('uni', conversations, order, { ...settings, ...over }),
    bi: simulate('bi', conversations, order, { ...settings, ...over }),
  });
  const unbounded = { numPrefillBlocks: Number.POSITIVE_INFINITY, numDecodeBlocks: Number.POSITIVE_INFINITY };
  const lostOnP = { ...unbounded, numPrefillBlocks: 0 };
  const prefillLost = scenario(lostOnP);
  const sizeOf = (numBlocks: number): DecodeSize => {
    const { ledger } = simulate('bi', conversations, order, {
      ...settings,
      ...lostOnP,
      numDecodeBlocks: numBlocks,
    });
    return {
      num_blocks: numBlocks,
      found_ratio: ratio(ledger.pulled_from_d, prefillLost.bi.ledger.pulled_from_d),
    };
  };
  return {
    num_conversations: conversations.length,
    num_single_turn_conversations: conversations.filter(({ turns }) => turns.length === 1).length,
    num_turns: played.length,
    num_follow_up_turns: added.length,
    turns_per_conversation: lengths(conversations.map(({ turns }) => turns.length)),
    prompt_tokens: lengths(played.map(({ numPromptTokens }) => numPromptTokens)),
    added_tokens: lengths(added),
    output_tokens: lengths(played.map(({ numOutputTokens }) => numOutputTokens)),
    retention: retentionOf(conversations, settings.ticketTtlMs),
    scenarios: {
      configured: scenario({}),
      everything_fits: scenario({ ...unbounded, evictPrefillBetweenTurns: false }),
      prefill_lost: prefillLost,
    },
    decode_sizes:
      prefillLost.bi.ledger.pulled_from_d === 0 ? [] : sizes(conversations, settings.blockSize).map(sizeOf),
  };
}

/** From the room that everything takes down to a 64th of it, in blocks. */
function sizes(conversations: readonly LengthConversation[], blockSize: number): number[] {
  const all = conversations.reduce((sum, { turns }) => {
    const { numPromptTokens, numOutputTokens } = turns.at(-1)!;
    return sum + Math.ceil((numPromptTokens + numOutputTokens) / blockSize);
  }, 0);
  return [1, 2, 4, 8, 16, 32, 64].map((part) => Math.ceil(all / part));
}

function lengths(values: readonly number[]): Lengths {
  const max = values.reduce<number | null>((most, value) => Math.max(most ?? value, value), null);
  return { ...summarize(values), max };
}
