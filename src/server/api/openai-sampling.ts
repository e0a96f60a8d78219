// Sampling fields of a request body → SamplingParams, with the model's defaults behind the request's.
import { VllmPdError } from '../../errors.js';
import type { GenerationConfig } from '../../model/generation-config.js';
import type { Tokenizer } from '../../model/tokenizer.js';
import type { SamplingParams } from '../../request.js';
import { wantedPromptLogprobs } from '../prompt-logprobs.js';
import type { ChatCompletionBody, CompletionBody, GenerationBody } from './openai-schema.js';

type Resolved = Partial<SamplingParams>;

/** What a model's folder says about sampling; the engine has it. */
export interface SamplingModel {
  readonly generationConfig: GenerationConfig;
  readonly tokenizer: Pick<Tokenizer, 'encode'>;
}

/** vLLM's default for /v1/completions; less where less of the context is left. */
export const defaultCompletionTokens = 16;

export function completionSampling(
  body: CompletionBody,
  model: SamplingModel,
  contextLeft: number,
): Resolved {
  // Without a token there would be no step that runs the prompt; nobody is told of it.
  const wanted = Math.max(1, body.max_tokens ?? Math.min(defaultCompletionTokens, contextLeft));
  const maxTokens = Math.min(wanted, model.generationConfig.maxNewTokens ?? wanted);
  checkLogprobTokenIds(body, body.logprobs != null);
  return { ...commonSampling(body, model), maxTokens, logprobs: body.logprobs ?? null };
}

/** Without a limit of its own a chat answer may take all that is left of the context. */
export function chatSampling(body: ChatCompletionBody, model: SamplingModel, contextLeft: number): Resolved {
  const wanted = body.max_completion_tokens ?? body.max_tokens ?? null;
  const limit = model.generationConfig.maxNewTokens ?? null;
  const maxTokens = limit === null ? wanted : Math.min(wanted ?? Math.max(1, contextLeft), limit);
  if (body.top_logprobs && body.logprobs !== true) {
    const message = 'Expected `logprobs` to be true when `top_logprobs` is given.';
    throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'top_logprobs' });
  }
  checkLogprobTokenIds(body, body.logprobs === true);
  return {
    ...commonSampling(body, model),
    ...(maxTokens !== null && { maxTokens }),
    logprobs: body.logprobs ? (body.top_logprobs ?? 0) : null,
  };
}

function checkLogprobTokenIds(body: GenerationBody, wantsLogprobs: boolean): void {
  if (!body.logprob_token_ids || wantsLogprobs) return;
  const message = 'Expected `logprobs` as well when `logprob_token_ids` is given.';
  throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'logprob_token_ids' });
}

function checkPromptLogprobs({ stream, prompt_logprobs }: GenerationBody): void {
  if (!stream || !prompt_logprobs) return;
  const message = '`prompt_logprobs` are not available when `stream=True`.';
  throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'prompt_logprobs' });
}

function commonSampling(
  body: GenerationBody,
  { generationConfig: defaults, tokenizer }: SamplingModel,
): Resolved {
  checkPromptLogprobs(body);
  const stop = body.stop ?? [];
  return {
    temperature: body.temperature ?? defaults.temperature ?? 1,
    topP: body.top_p ?? defaults.topP ?? 1,
    topK: Math.max(0, body.top_k ?? defaults.topK ?? 0),
    minP: body.min_p ?? defaults.minP ?? 0,
    repetitionPenalty: body.repetition_penalty ?? defaults.repetitionPenalty ?? 1,
    presencePenalty: body.presence_penalty ?? 0,
    frequencyPenalty: body.frequency_penalty ?? 0,
    seed: seedOf(body.seed),
    stop: typeof stop === 'string' ? [stop] : stop,
    stopTokenIds: body.stop_token_ids ?? [],
    includeStopStrInOutput: body.include_stop_str_in_output ?? false,
    ignoreEos: body.ignore_eos ?? false,
    minTokens: body.min_tokens ?? 0,
    skipSpecialTokens: body.skip_special_tokens ?? true,
    logitBias: biasesOf(body.logit_bias),
    allowedTokenIds: body.allowed_token_ids ?? null,
    logprobTokenIds: body.logprob_token_ids ?? null,
    promptLogprobs: wantedPromptLogprobs(body),
    badWordsTokenIds: (body.bad_words ?? []).flatMap((word) => tokensOfWord(word, tokenizer)),
  };
}

/** -1 asks for none, as with vLLM. Seeds of 64 bits are folded, so that neighbouring samples still differ in theirs. */
function seedOf(seed: number | null | undefined): number | null {
  return seed == null || seed === -1 ? null : seed % 2 ** 52;
}

const maxBias = 100;

/** Clamped, as vLLM does. */
function biasesOf(biases: Readonly<Record<string, number>> | null | undefined): Map<number, number> {
  const entries = Object.entries(biases ?? {});
  return new Map(entries.map(([id, bias]) => [Number(id), Math.min(maxBias, Math.max(-maxBias, bias))]));
}

/** A word begins a text or follows a space, which are different tokens in most vocabularies. */
function tokensOfWord(word: string, tokenizer: SamplingModel['tokenizer']): readonly (readonly number[])[] {
  const bare = word.trimStart();
  return [bare, ` ${bare}`]
    .map((text) => tokenizer.encode(text, { addSpecialTokens: false }))
    .filter((tokenIds) => tokenIds.length > 0);
}
