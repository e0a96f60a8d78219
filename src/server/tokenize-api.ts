// POST /tokenize and /detokenize, as vLLM answers them.
import { z } from 'zod';
import { VllmPdError } from '../errors.js';
import type { ChatMessage } from '../model/chat-template.js';
import { parseBody } from './api-body.js';
import { type ApiNode, checkModel, encodeChat, encodePrompts } from './api-node.js';
import { type RouteContext, readJson, sendJson } from './http.js';
import { messagesSchema } from './openai-schema.js';

const tokenizeSchema = z.object({
  model: z.string().nullish(),
  prompt: z.string().nullish(),
  messages: messagesSchema.nullish(),
  add_special_tokens: z.boolean().nullish(),
  add_generation_prompt: z.boolean().nullish(),
  continue_final_message: z.boolean().nullish(),
  chat_template_kwargs: z.record(z.string(), z.unknown()).nullish(),
  return_token_strs: z.boolean().nullish(),
});

const detokenizeSchema = z.object({
  model: z.string().nullish(),
  tokens: z.array(z.int().min(0)),
});

export async function tokenize(node: ApiNode, { req, res }: RouteContext): Promise<void> {
  const body = parseBody(tokenizeSchema, await readJson(req));
  checkModel(node, body.model);
  const tokens = tokenIdsOf(node, body);
  const { engine } = node;
  sendJson(res, 200, {
    count: tokens.length,
    max_model_len: engine.maxModelLen,
    tokens,
    token_strs: body.return_token_strs ? engine.tokenizer.tokenStrings(tokens) : null,
  });
}

function tokenIdsOf(node: ApiNode, body: z.output<typeof tokenizeSchema>): readonly number[] {
  const { prompt, messages } = body;
  if (prompt != null && !messages) {
    return encodePrompts(node, prompt, body.add_special_tokens ?? true)[0]!.tokenIds;
  }
  if (messages && prompt == null) {
    return encodeChat(node, { ...body, messages: messages as ChatMessage[] }).tokenIds;
  }
  throw new VllmPdError('INVALID_ARGUMENT', 'Expected either `prompt` or `messages`.', { param: 'prompt' });
}

export async function detokenize(node: ApiNode, { req, res }: RouteContext): Promise<void> {
  const body = parseBody(detokenizeSchema, await readJson(req));
  checkModel(node, body.model);
  sendJson(res, 200, { prompt: node.engine.tokenizer.decode(body.tokens, { skipSpecialTokens: false }) });
}
