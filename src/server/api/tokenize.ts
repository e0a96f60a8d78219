// POST /tokenize and /detokenize, as vLLM answers them.
import { z } from 'zod';
import { VllmPdError } from '../../errors.js';
import type { ChatMessage } from '../../model/chat-template.js';
import type { RouteContext } from '../http.js';
import { sendJson } from '../http-answer.js';
import { readJson } from '../http-body.js';
import { parseBody } from './api-body.js';
import { type ApiNode, checkModel, encodeChat } from './api-node.js';
import { chatTemplateFields, messagesSchema } from './openai-schema.js';

const tokenizeSchema = z.object({
  model: z.string().nullish(),
  prompt: z.string().nullish(),
  messages: messagesSchema.nullish(),
  add_special_tokens: z.boolean().nullish(),
  ...chatTemplateFields,
  return_token_strs: z.boolean().nullish(),
});

const detokenizeSchema = z.object({
  model: z.string().nullish(),
  tokens: z.array(z.int().min(0)),
});

export async function tokenize(node: ApiNode, { req, res }: RouteContext): Promise<void> {
  const body = parseBody(tokenizeSchema, await readJson(req));
  checkModel(node, body.model);
  const tokens = await tokenIdsOf(node, body);
  const { engine } = node;
  sendJson(res, 200, {
    count: tokens.length,
    max_model_len: engine.maxModelLen,
    tokens,
    token_strs: body.return_token_strs ? engine.tokenizer.tokenStrings(tokens) : null,
  });
}

async function tokenIdsOf(node: ApiNode, body: z.output<typeof tokenizeSchema>): Promise<readonly number[]> {
  const { prompt, messages } = body;
  if (prompt != null && !messages) {
    return node.encoder.encode(prompt, body.add_special_tokens ?? true);
  }
  if (messages && prompt == null) {
    const chat = { ...body, messages: messages as ChatMessage[] };
    return (await encodeChat(node, chat, body.add_special_tokens ?? false)).tokenIds;
  }
  throw new VllmPdError('INVALID_ARGUMENT', 'Expected either `prompt` or `messages`.', { param: 'prompt' });
}

export async function detokenize(node: ApiNode, { req, res }: RouteContext): Promise<void> {
  const body = parseBody(detokenizeSchema, await readJson(req));
  checkModel(node, body.model);
  sendJson(res, 200, { prompt: node.engine.tokenizer.decode(body.tokens, { skipSpecialTokens: false }) });
}
