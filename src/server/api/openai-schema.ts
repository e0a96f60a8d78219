// Bodies of the OpenAI-style endpoints, with vLLM's fields and bounds. Unknown fields are ignored, null means absent.
import { z } from 'zod';
import { field, refused, withoutEffect } from './request-field.js';
import { samplingFields } from './sampling-fields.js';

/** vLLM's bounds. */
export const cacheSalt = z.string().min(1).max(1024);

const identifier = z.string().min(1).max(256);

/** Text, or token ids, or a list of either. */
export type PromptBody = string | readonly string[] | readonly number[] | readonly (readonly number[])[];

/** More would be a mistake, and each becomes a choice of one answer. */
const maxPrompts = 1024;

/** Spelt out: with a function called for each id, checking a long prompt would cost as much as hashing it. */
function isTokenIds(value: unknown): value is number[] {
  if (!Array.isArray(value)) return false;
  for (let i = 0; i < value.length; i += 1) {
    const id: unknown = value[i];
    if (typeof id !== 'number' || (id | 0) !== id || id < 0) return false;
  }
  return true;
}

/** A loop instead of a union of schemas: a prompt may have 100,000 ids, and a union tries them several times. */
function isPrompt(value: unknown): value is PromptBody {
  if (typeof value === 'string') return true;
  if (!Array.isArray(value) || value.length === 0) return false;
  if (typeof value[0] === 'number') return isTokenIds(value);
  return (
    value.length <= maxPrompts && (value.every((text) => typeof text === 'string') || value.every(isTokenIds))
  );
}

export const promptSchema = z
  .custom<PromptBody>(isPrompt, {
    error: `a string, a list of strings, a list of token ids or a list of lists of token ids (at most ${maxPrompts} prompts)`,
  })
  .meta({ note: 'text, token ids, or a list of either; each prompt of a list is a choice of its own' });

const chatPart = z.looseObject({
  type: z.literal('text', 'the only kind of part supported: "text"'),
  text: z.string(),
});

const toolCall = z.looseObject({
  function: z.looseObject({
    name: z.string(),
    arguments: z.union([z.string(), z.record(z.string(), z.unknown())], 'JSON text or an object').nullish(),
  }),
});

export const messagesSchema = z
  .array(
    z.looseObject({
      role: z.string().min(1),
      content: z.union([z.string(), z.array(chatPart)], 'a string or a list of text parts').nullish(),
      tool_calls: z.array(toolCall).nullish(),
    }),
  )
  .min(1)
  .meta({ note: 'content as text or a list of text parts; roles are whatever the chat template knows' });

const tool = z.looseObject({
  type: z.literal('function', '"function", the only kind of tool supported,'),
  function: z.looseObject({ name: z.string().min(1) }),
});

/** Fields that decide, beside the prompt or the messages, what a request's tokens are. */
export const truncationFields = {
  truncate_prompt_tokens: field(z.int().min(-1), 'keeps that many tokens of the prompt; -1 = as many as fit'),
  truncation_side: field(z.enum(['left', 'right']), 'what is cut off; default left: the last tokens stay'),
};

export const chatTemplateFields = {
  prompt_token_ids: field(
    z.custom<readonly number[]>((value) => isTokenIds(value) && value.length > 0, {
      error: 'a list of token ids',
    }),
    'the messages as a node has encoded them before; they are not rendered again',
  ),
  add_generation_prompt: field(z.boolean(), 'default true'),
  continue_final_message: field(z.boolean()),
  chat_template_kwargs: field(z.record(z.string(), z.unknown()), 'variables for the chat template'),
  documents: field(z.array(z.record(z.string(), z.unknown())), 'for the chat template'),
  reasoning_effort: field(z.string(), 'for the chat template, with `enable_thinking` unless that is given'),
  tools: field(z.array(tool), 'for the chat template; the answer is plain text, never `tool_calls`'),
  tool_choice: field(
    z.enum(['none', 'auto'], '"none" or "auto", as no tool call can be enforced,'),
    'none and auto; both answer in plain text',
  ),
  chat_template: refused("a chat template of the request's own"),
};

const requestFields = {
  model: field(z.string(), 'the served name; may be left out'),
  stream: field(z.boolean()),
  stream_options: field(
    z.object({ include_usage: z.boolean().nullish(), continuous_usage_stats: z.boolean().nullish() }),
    '`include_usage`, `continuous_usage_stats`',
  ),
  stream_interval: field(z.int().min(1), 'tokens a chunk, but for the first and the last one'),
  n: field(z.int().min(1).max(128), 'at most 128'),
  cache_salt: field(cacheSalt, 'prompts with different salts share no KV'),
  request_id: field(identifier, "part of the answer's `id`, unless the header `X-Request-Id` is given"),
  session_id: field(identifier, 'the conversation; also as header `X-Session-ID`'),
  conversation_id: field(identifier, "the conversation, as vLLM's multi-turn proxy calls it"),
  // Checked by the layer that knows them.
  kv_transfer_params: z
    .unknown()
    .optional()
    .meta({ note: 'on a node; a proxy drops what clients send unless it trusts them' }),
  return_token_ids: field(z.boolean()),
  return_tokens_as_token_ids: field(z.boolean(), 'tokens of logprobs as `token_id:…`'),
  return_prefill_stats: field(z.boolean(), "this project's: the ledger, in the body or the last chunk"),
  ...truncationFields,
  add_special_tokens: field(z.boolean(), 'default: true for completions, false for chat'),
  response_format: field(
    z.looseObject({ type: z.literal('text', '"text", the only format supported,') }),
    'text; others are refused',
  ),
  priority: field(
    z.int(),
    'lower goes first; other than 0 only with `--scheduling-policy priority`, as with vLLM',
  ),
  user: withoutEffect('as with vLLM'),
  vllm_xargs: withoutEffect('for extensions of vLLM'),
  ec_transfer_params: refused('encoder-cache transfer'),
};

export const completionSchema = z.object({
  prompt: promptSchema,
  ...requestFields,
  ...samplingFields,
  max_tokens: field(
    z.int().min(0),
    'default 16, or less where less of the context is left; 0 only with `echo`: the prompt alone',
  ),
  logprobs: field(z.int().min(0).max(20), "at most 20; with `echo` those of the prompt's tokens come first"),
  echo: field(z.boolean(), 'the prompt is said again before the answer'),
  best_of: field(z.literal(1, '1, as best_of is not supported,'), '1; anything else is refused'),
  suffix: refused('a suffix'),
  prompt_embeds: refused('a prompt of embeddings'),
});

export const chatCompletionSchema = z.object({
  messages: messagesSchema,
  ...requestFields,
  ...chatTemplateFields,
  ...samplingFields,
  max_tokens: field(z.int().min(1), 'default: what is left of the context'),
  max_completion_tokens: field(z.int().min(1), 'goes before `max_tokens`'),
  logprobs: field(z.boolean(), 'with `top_logprobs` alternatives'),
  top_logprobs: field(z.int().min(0).max(20), 'at most 20; needs `logprobs`'),
  parallel_tool_calls: withoutEffect('no tool is called'),
  include_reasoning: withoutEffect('reasoning is part of the text'),
  functions: refused('the older form of tools'),
  function_call: refused('the older form of tools'),
  echo: field(z.boolean(), "a last message with the answer's role is said again before it"),
  return_prompt_text: field(z.boolean(), '`prompt_text`: the messages as the chat template wrote them'),
});

/** Of POST /v1/cache_query: what decides a prompt's tokens, and what is wanted of its blocks. */
export const cacheQuerySchema = z.object({
  model: z.string().nullish(),
  prompt: promptSchema.optional(),
  messages: messagesSchema.nullish(),
  add_special_tokens: z.boolean().nullish(),
  ...chatTemplateFields,
  ...truncationFields,
  lease: z.boolean().nullish(),
  cache_salt: cacheSalt.nullish(),
  return_token_ids: z.boolean().nullish(),
  return_blocks: z.boolean().nullish(),
});

export type CompletionBody = z.output<typeof completionSchema>;
export type ChatCompletionBody = z.output<typeof chatCompletionSchema>;
/** What both have in common. */
export type GenerationBody = CompletionBody | ChatCompletionBody;
