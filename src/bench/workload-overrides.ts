// Flags that replace the common fields of a workload file.
import { VllmPdError } from '../errors.js';
import type { Arrival } from './arrivals.js';
import type { Distribution } from './distribution.js';
import type { ConversationSource, GenerateConversations, Workload } from './workload.js';

/** Whatever is absent stays as the file has it. Token counts replace a whole distribution by a constant. */
export interface WorkloadOverrides {
  readonly seed?: number | undefined;
  readonly numClients?: number | undefined;
  readonly numConversations?: number | undefined;
  /** User messages of each conversation. */
  readonly numTurns?: number | undefined;
  readonly promptTokens?: number | undefined;
  readonly outputTokens?: number | undefined;
  readonly prefixTokens?: number | undefined;
  /** Of datasets. */
  readonly minTurns?: number | undefined;
  readonly maxPromptTokens?: number | undefined;
  readonly maxRows?: number | undefined;
  readonly scale?: number | undefined;
  /** Turns a second; the alternative to `timeScale`. */
  readonly requestRate?: number | undefined;
  readonly burstiness?: number | undefined;
  readonly timeScale?: number | undefined;
  readonly delayMs?: number | undefined;
}

/** INVALID_ARGUMENT for token counts on what is not generated, and for a dataset's on what is no dataset. */
export function overrideWorkload(workload: Workload, overrides: WorkloadOverrides): Workload {
  const arrival = overrideArrival(workload.arrival, overrides);
  if (arrival && workload.evictPrefillBetweenTurns) {
    const message =
      'Expected no arrival times where the prefill cache is emptied between rounds of turns: an open loop has no rounds.';
    throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'request-rate' });
  }
  const { delayMs } = overrides;
  return {
    ...workload,
    seed: overrides.seed ?? workload.seed,
    numClients: overrides.numClients ?? workload.numClients,
    arrival,
    delayMs: delayMs === undefined ? workload.delayMs : { distribution: 'constant', value: delayMs },
    source: overrideSource(workload.source, overrides),
  };
}

function overrideArrival(
  arrival: Arrival | null,
  { requestRate, burstiness, timeScale }: WorkloadOverrides,
): Arrival | null {
  if (timeScale !== undefined) return { time_scale: timeScale };
  const own = arrival && 'request_rate' in arrival ? arrival : null;
  const rate = requestRate ?? own?.request_rate;
  if (rate !== undefined) return { request_rate: rate, burstiness: burstiness ?? own?.burstiness ?? 1 };
  refuse({ burstiness }, 'turns that arrive at a --request-rate');
  return arrival;
}

function overrideSource(source: ConversationSource, overrides: WorkloadOverrides): ConversationSource {
  const { numConversations, numTurns, promptTokens, outputTokens, prefixTokens } = overrides;
  const { minTurns, maxPromptTokens, maxRows, scale } = overrides;
  if (source.kind !== 'dataset') {
    refuse({ minTurns, maxPromptTokens, maxRows, scale }, 'a dataset, and this workload has none');
  }
  if (source.kind === 'generated') {
    return { kind: 'generated', config: overrideGenerated(source.config, overrides) };
  }
  refuse(
    { promptTokens, outputTokens, prefixTokens },
    'generated conversations, but this workload lists its own',
  );
  if (source.kind === 'dataset') {
    const { selection } = source;
    return {
      ...source,
      selection: {
        ...selection,
        num_conversations: numConversations ?? selection.num_conversations,
        min_turns: minTurns ?? selection.min_turns,
        max_turns: numTurns ?? selection.max_turns,
        max_prompt_tokens: maxPromptTokens ?? selection.max_prompt_tokens,
        max_rows: maxRows ?? selection.max_rows,
        scale: scale ?? selection.scale,
      },
    };
  }
  return {
    kind: 'listed',
    conversations: source.conversations
      .slice(0, numConversations)
      .map((listed) => ({ ...listed, messages: listed.messages.slice(0, numTurns && 2 * numTurns) })),
  };
}

function refuse(overrides: Readonly<Record<string, number | undefined>>, scope: string): void {
  const given = Object.entries(overrides).find(([, value]) => value !== undefined);
  if (!given) return;
  const flag = `--${given[0].replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
  throw new VllmPdError('INVALID_ARGUMENT', `${flag} applies to ${scope}.`, { param: flag });
}

function overrideGenerated(
  config: GenerateConversations,
  overrides: WorkloadOverrides,
): GenerateConversations {
  const { numConversations, numTurns, promptTokens, outputTokens, prefixTokens } = overrides;
  const constant = (value: number | undefined): Distribution | undefined =>
    value === undefined ? undefined : { distribution: 'constant', value };
  const { prompt_input: input, prompt_output: output } = config;
  return {
    ...config,
    num_conversations: numConversations ?? config.num_conversations,
    prompt_input: {
      ...input,
      num_turns: constant(numTurns && 2 * numTurns) ?? input.num_turns,
      prefix_num_tokens: constant(prefixTokens) ?? input.prefix_num_tokens,
      num_tokens: constant(promptTokens) ?? input.num_tokens,
    },
    prompt_output: { num_tokens: constant(outputTokens) ?? output.num_tokens },
  };
}
