// Bodies of the OpenAI-style endpoints, with vLLM's fields and bounds. Unknown fields are ignored, null means absent.
import { z } from 'zod';

const count = z.int().min(0);
const tokenId = z
  .int()
  .min(0)
  .max(2 ** 31 - 1);
const identifier = z.string().min(1).max(256);

/** Text, or token ids, or a list of either. */
export type PromptBody = string | readonly string[] | readonly number[] | readonly (readonly number[])[];

/** More would be a mistake, and each becomes a choice of one answer. */
const maxPrompts = 1024;

function isTokenIds(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((id) => Number.isInteger(id) && id >= 0 && id < 2 ** 31);
}

/** A loop instead of a union of schemas: a prompt may have 100,000 ids, and a union tries them several times. */
export function isPrompt(value: unknown): value is PromptBody {
  if (typeof value === 'string') return true;
  if (!Array.isArray(value) || value.length === 0) return false;
  if (typeof value[0] === 'number') return isTokenIds(value);
  return (
    value.length <= maxPrompts && (value.every((text) => typeof text === 'string') || value.every(isTokenIds))
  );
}

export const promptSchema = z.custom<PromptBody>(isPrompt, {
  error: `a string, a list of strings, a list of token ids or a list of lists of token ids (at most ${maxPrompts} prompts)`,
});

const chatPart = z.looseObject({
  type: z.literal('text', 'the only kind of part supported: "text"'),
  text: z.string(),
});

export const messagesSchema = z
  .array(
    z.looseObject({
      role: z.string().min(1),
      content: z.union([z.string(), z.array(chatPart)], 'a string or a list of text parts').nullish(),
    }),
  )
  .min(1);

/** Fields that decide, beside the messages, what a chat's tokens are. */
export const chatTemplateFields = {
  prompt_token_ids: z
    .custom<readonly number[]>((value) => isTokenIds(value) && value.length > 0, {
      error: 'a list of token ids',
    })
    .nullish(),
  add_generation_prompt: z.boolean().nullish(),
  continue_final_message: z.boolean().nullish(),
  chat_template_kwargs: z.record(z.string(), z.unknown()).nullish(),
};

const logitBias = z.record(z.string().regex(/^\d{1,9}$/, 'a token id'), z.number().min(-100).max(100));

/** Fields that ask for what this server does not do; null, false and empty are fine. */
const absent = (what: string) =>
  z
    .unknown()
    .refine((value) => value === null || value === false, { error: `nothing, as ${what} is not supported,` })
    .optional();

const samplingFields = {
  temperature: z.number().min(0).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  top_k: z.int().min(-1).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().gt(0).nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  seed: z.int().nullish(),
  stop: z
    .union([z.string().min(1), z.array(z.string().min(1))], 'a non-empty string or a list of them')
    .nullish(),
  stop_token_ids: z.array(tokenId).nullish(),
  include_stop_str_in_output: z.boolean().nullish(),
  ignore_eos: z.boolean().nullish(),
  min_tokens: count.nullish(),
  skip_special_tokens: z.boolean().nullish(),
  logit_bias: logitBias.nullish(),
};

const requestFields = {
  model: z.string().nullish(),
  stream: z.boolean().nullish(),
  stream_options: z
    .object({ include_usage: z.boolean().nullish(), continuous_usage_stats: z.boolean().nullish() })
    .nullish(),
  n: z.int().min(1).max(128).nullish(),
  cache_salt: z.string().min(1).nullish(),
  request_id: identifier.nullish(),
  session_id: identifier.nullish(),
  conversation_id: identifier.nullish(),
  // Checked by the layer that knows them.
  kv_transfer_params: z.unknown().optional(),
  return_token_ids: z.boolean().nullish(),
  return_prefill_stats: z.boolean().nullish(),
  prompt_logprobs: absent('prompt_logprobs'),
  use_beam_search: absent('beam search'),
  truncate_prompt_tokens: absent('prompt truncation'),
  structured_outputs: absent('structured output'),
  guided_json: absent('structured output'),
  guided_regex: absent('structured output'),
  guided_choice: absent('structured output'),
  guided_grammar: absent('structured output'),
  response_format: z.looseObject({ type: z.literal('text', '"text", the only format supported,') }).nullish(),
};

export const completionSchema = z.object({
  ...samplingFields,
  ...requestFields,
  prompt: promptSchema,
  max_tokens: z.int().min(1).nullish(),
  logprobs: z.int().min(0).max(20).nullish(),
  echo: z.boolean().nullish(),
  add_special_tokens: z.boolean().nullish(),
  best_of: z.literal(1, '1, as best_of is not supported,').nullish(),
  suffix: absent('a suffix'),
});

export const chatCompletionSchema = z.object({
  ...samplingFields,
  ...requestFields,
  messages: messagesSchema,
  max_tokens: z.int().min(1).nullish(),
  max_completion_tokens: z.int().min(1).nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish(),
  ...chatTemplateFields,
  tools: z.array(z.unknown()).max(0, 'an empty list, as tools are not supported,').nullish(),
  echo: absent('echo'),
});

export type CompletionBody = z.output<typeof completionSchema>;
export type ChatCompletionBody = z.output<typeof chatCompletionSchema>;
/** What both have in common. */
export type GenerationBody = CompletionBody | ChatCompletionBody;
