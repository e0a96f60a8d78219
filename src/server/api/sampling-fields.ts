// Fields of both completion endpoints that say how tokens are drawn and when to stop, with vLLM's names and bounds.
import { z } from 'zod';
import { field, refused, withoutEffect } from './request-field.js';

const tokenId = z
  .int()
  .min(0)
  .max(2 ** 31 - 1);

const tokenIdKey = z.string().regex(/^\d{1,9}$/, 'a token id');
const text = z.string().min(1);
const penalty = z.number().min(-2).max(2);
const modelDefault = "default: generation_config.json's";

export const samplingFields = {
  temperature: field(z.number().min(0), `0 = greedy; ${modelDefault}, else 1`),
  top_p: field(z.number().gt(0).max(1), `${modelDefault}, else 1`),
  top_k: field(z.int().min(-1), `0 and -1 = all; ${modelDefault}, else 0`),
  min_p: field(z.number().min(0).max(1), `${modelDefault}, else 0`),
  repetition_penalty: field(z.number().gt(0), `${modelDefault}, else 1`),
  presence_penalty: field(penalty),
  frequency_penalty: field(penalty),
  seed: field(
    z
      .number()
      .min(-(2 ** 63))
      .max(2 ** 63)
      .refine(Number.isInteger, 'an integer'),
    'the same request with the same seed gives the same answer; -1 = none',
  ),
  stop: field(
    z.union([text, z.array(text)], 'a non-empty string or a list of them'),
    '`stop_reason` is the string that was found',
  ),
  stop_token_ids: field(z.array(tokenId), '`stop_reason` is the id'),
  include_stop_str_in_output: field(z.boolean()),
  ignore_eos: field(z.boolean()),
  min_tokens: field(z.int().min(0)),
  skip_special_tokens: field(z.boolean(), 'default true'),
  logit_bias: field(z.record(tokenIdKey, z.number()), 'token id → bias, clamped to -100…100'),
  logprob_token_ids: field(
    z.array(tokenId).min(1).max(128),
    'log probabilities of these, at most 128, instead of the most likely ones; needs `logprobs`',
  ),
  prompt_logprobs: field(
    z.int().min(0).max(20),
    "log probabilities of the prompt's tokens with so many alternatives, at most 20; not with `stream`",
  ),
  allowed_token_ids: field(z.array(tokenId).min(1), 'only these are sampled'),
  bad_words: field(z.array(text).max(1024), 'texts that the answer never says, at most 1024'),
  spaces_between_special_tokens: withoutEffect('as with vLLM and a fast tokenizer'),
  length_penalty: withoutEffect('belongs to beam search'),
  use_beam_search: refused('beam search'),
  structured_outputs: refused('structured output'),
  guided_json: refused('structured output'),
  guided_regex: refused('structured output'),
  guided_choice: refused('structured output'),
  guided_grammar: refused('structured output'),
  repetition_detection: refused('repetition detection'),
  thinking_token_budget: refused('a thinking budget'),
  watermarking: refused('watermarking'),
};
