// `usage` of the OpenAI API, and whose cached tokens it reports.
import type { RequestOutput } from '../../engine/request-output.js';
import { cachedTokensOf } from '../../kv-transfer/params.js';
import type { KvTransferParams } from '../../wire.js';

export interface Usage {
  readonly prompt_tokens: number;
  readonly total_tokens: number;
  readonly completion_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

/**
 * Prompt tokens that were not computed. On a decode node these are the prefill node's, as it reported them: what the
 * hand-over brought was computed for this very request and says nothing about caching.
 */
function cachedTokens(output: RequestOutput, params: KvTransferParams | null): number {
  const remote = params?.do_remote_prefill
    ? params.remote_prefill_stats
      ? cachedTokensOf(params.remote_prefill_stats)
      : params.remote_prefill_cached_tokens
    : undefined;
  const own = output.prefillStats ? cachedTokensOf(output.prefillStats) : 0;
  return Math.min(remote ?? own, output.numPromptTokens);
}

/** One entry per choice: its latest piece. `numSamples` choices share a prompt, which counts once. */
export function usageOf(
  outputs: readonly RequestOutput[],
  params: KvTransferParams | null,
  numSamples: number,
): Usage {
  const prompts = outputs.filter((_, index) => index % numSamples === 0);
  const promptTokens = prompts.reduce((sum, output) => sum + output.numPromptTokens, 0);
  const completionTokens = outputs.reduce((sum, output) => sum + output.numOutputTokens, 0);
  return {
    prompt_tokens: promptTokens,
    total_tokens: promptTokens + completionTokens,
    completion_tokens: completionTokens,
    prompt_tokens_details: {
      cached_tokens: prompts.reduce((sum, output) => sum + cachedTokens(output, params), 0),
    },
  };
}
