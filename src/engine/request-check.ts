// What a request must fulfil before the scheduler hears of it.
import type { SchedulerConfig } from '../config.js';
import { VllmPdError } from '../errors.js';
import type { FirstToken } from '../kv-transfer/first-token.js';
import { remoteBlocksOf } from '../kv-transfer/params.js';
import type { PeerPolicy } from '../kv-transfer/peer-policy.js';
import { numAlternatives, type SamplingParams } from '../request.js';
import type { KvTransferParams } from '../wire.js';

export interface RequestLimits {
  readonly vocabSize: number;
  /** Longest prompt plus answer, in tokens: at most kvCacheTokens. */
  readonly maxModelLen: number;
  /** Tokens that fit into the KV pool. */
  readonly kvCacheTokens: number;
}

/** Throws INVALID_ARGUMENT for an empty prompt or an unknown token, PROMPT_TOO_LONG when no room is left to answer. */
export function checkPrompt(promptTokenIds: readonly number[], limits: RequestLimits): void {
  const { vocabSize, maxModelLen, kvCacheTokens } = limits;
  const numTokens = promptTokenIds.length;
  if (numTokens === 0) {
    throw refusal('Expected a prompt of at least one token but received an empty one.', 'prompt');
  }
  if (numTokens >= Math.min(maxModelLen, kvCacheTokens)) {
    // More blocks do not help where the context ends first.
    const limit =
      maxModelLen < kvCacheTokens
        ? `This model's maximum context length is ${maxModelLen} tokens, prompt and answer together,`
        : `The KV cache of this node holds ${kvCacheTokens} tokens, prompt and answer together,`;
    const way = maxModelLen < kvCacheTokens ? '' : ' or give the node more blocks';
    const message = `${limit} but the prompt has ${numTokens} tokens. Please reduce the length of the prompt${way}.`;
    throw new VllmPdError('PROMPT_TOO_LONG', message, { param: 'prompt' });
  }
  for (let i = 0; i < numTokens; i += 1) {
    const unknown = promptTokenIds[i]!;
    if (unknown >>> 0 === unknown && unknown < vocabSize) continue;
    const message = `Expected token ids from 0 to ${vocabSize - 1} in the prompt but received ${unknown}.`;
    throw refusal(message, 'prompt');
  }
}

/** Throws INVALID_ARGUMENT when prompt and answer do not fit together, or a token is named that does not exist. */
export function checkSampling(params: SamplingParams, numPromptTokens: number, limits: RequestLimits): void {
  const { vocabSize, maxModelLen } = limits;
  if (params.maxTokens > maxModelLen - numPromptTokens) {
    const message =
      `'max_tokens' or 'max_completion_tokens' is too large: ${params.maxTokens}. This model's maximum context length is ` +
      `${maxModelLen} tokens and your request has ${numPromptTokens} input tokens ` +
      `(${params.maxTokens} > ${maxModelLen} - ${numPromptTokens}).`;
    throw refusal(message, 'max_tokens');
  }
  if (params.minTokens > params.maxTokens) {
    const message = `Expected min_tokens of at most max_tokens (${params.maxTokens}) but received ${params.minTokens}.`;
    throw refusal(message, 'min_tokens');
  }
  const named = {
    logit_bias: params.logitBias.keys(),
    allowed_token_ids: params.allowedTokenIds ?? [],
    logprob_token_ids: params.logprobTokenIds ?? [],
  };
  for (const [field, tokenIds] of Object.entries(named)) {
    for (const tokenId of tokenIds) {
      if (tokenId < vocabSize) continue;
      const message = `Expected token ids from 0 to ${vocabSize - 1} in ${field} but received ${tokenId}.`;
      throw refusal(message, field);
    }
  }
}

/** Throws INVALID_ARGUMENT when the parameters would have this node connect to somebody who is not its peer. */
export function checkPeer(params: KvTransferParams | null, peers: PeerPolicy, ownEngineId: string): void {
  const source = remoteBlocksOf(params);
  if (!source || source.remote.engineId === ownEngineId) return;
  const { host, port } = source.remote;
  if (peers.allows(host, port)) return;
  const message = `Expected kv_transfer_params.remote_host to be a KV peer of this node but received ${host}:${port}.`;
  throw new VllmPdError('INVALID_ARGUMENT', message, {
    param: 'kv_transfer_params.remote_host',
    suggestions: [`Start the node with --kv-peer ${host} if it is one.`],
  });
}

/** Throws INVALID_ARGUMENT for a priority that nobody would look at. */
export function checkPriority(priority: number, policy: SchedulerConfig['policy']): void {
  if (priority === 0 || policy === 'priority') return;
  const message = `Expected priority 0 but received ${priority}: priority scheduling is not enabled (--scheduling-policy priority).`;
  throw refusal(message, 'priority');
}

/** Throws INVALID_ARGUMENT when what came as P's first token cannot be this model's, or lacks what the request asks for. */
export function checkFirstToken(
  { tokenId, logprobs }: FirstToken,
  params: SamplingParams,
  { vocabSize }: RequestLimits,
): void {
  const param = 'kv_transfer_params.remote_first_token';
  const unknown = [tokenId, ...(logprobs?.top ?? []).map((entry) => entry.tokenId)].find(
    (id) => id >= vocabSize,
  );
  if (unknown !== undefined) {
    throw refusal(
      `Expected token ids from 0 to ${vocabSize - 1} in ${param} but received ${unknown}.`,
      param,
    );
  }
  const numWanted = Math.min(numAlternatives(params) ?? 0, vocabSize);
  if (params.logprobs !== null && (!logprobs || logprobs.top.length < numWanted)) {
    const message =
      `Expected ${param} with a log probability and ${numWanted} alternatives, since the request asks for them, ` +
      `but received ${logprobs ? `${logprobs.top.length} alternatives` : 'none'}.`;
    throw refusal(message, param);
  }
}

/** Throws INVALID_ARGUMENT where two nodes would share the prompt between them: one has to run all of it. */
export function checkPromptLogprobs(
  { promptLogprobs }: SamplingParams,
  kvTransferParams: KvTransferParams | null,
): void {
  if (promptLogprobs === null) return;
  const field = kvTransferParams?.return_first_token
    ? 'return_first_token'
    : kvTransferParams?.remote_first_token
      ? 'remote_first_token'
      : null;
  if (field === null) return;
  const param = `kv_transfer_params.${field}`;
  throw refusal(`Expected no ${param} where log probabilities of the prompt are asked for.`, param);
}

function refusal(message: string, param: string): VllmPdError {
  return new VllmPdError('INVALID_ARGUMENT', message, { param });
}
