// POST /v1/chat/completions.

import type { RequestOutput } from '../../engine/request-output.js';
import { parseKvTransferParams } from '../../kv-transfer/params.js';
import { type RouteContext, readJson } from '../http.js';
import { priorityHeader } from '../priority-header.js';
import { answerCall } from './answer-call.js';
import { parseBody } from './api-body.js';
import { type ApiNode, checkModel, encodeChat, requestIdOf, sessionIdOf, truncated } from './api-node.js';
import { answerCacheQuery } from './cache-query.js';
import type { Choice } from './generation.js';
import type { Chunk, Dialect } from './openai-answer.js';
import { chatLogprobs, tokenNamer } from './openai-logprobs.js';
import { chatSampling } from './openai-sampling.js';
import { type ChatCompletionBody, chatCompletionSchema } from './openai-schema.js';

export async function chatCompletions(node: ApiNode, context: RouteContext): Promise<void> {
  const { req } = context;
  const { engine } = node;
  engine.checkRoom();
  const body = parseBody(chatCompletionSchema, await readJson(req));
  const requestId = requestIdOf(context, body.request_id);
  checkModel(node, body.model);
  const kvTransferParams = parseKvTransferParams(body.kv_transfer_params);
  const sampling = chatSampling(body, engine);
  const whole = await encodeChat(node, body, body.add_special_tokens ?? false);
  const prompt = truncated(whole, body, engine.maxModelLen - (sampling.maxTokens ?? 1));
  if (kvTransferParams?.cache_query) {
    await answerCacheQuery(node, context, [prompt], {
      lease: kvTransferParams.lease ?? false,
      cacheSalt: body.cache_salt ?? null,
      returnTokenIds: body.return_token_ids ?? false,
      returnBlocks: true,
    });
    return;
  }
  await answerCall(context, {
    node,
    body,
    dialect: chatDialect(body),
    input: {
      id: `chatcmpl-${requestId}`,
      prompts: [prompt],
      numSamples: body.n ?? 1,
      samplingParams: () => sampling,
      cacheSalt: body.cache_salt ?? null,
      sessionId: sessionIdOf(req, body),
      priority: priorityHeader(req) ?? body.priority ?? 0,
      kvTransferParams,
      onAnswer: node.reusedAnswers && ((text, tokenIds) => node.reusedAnswers?.remember(text, tokenIds)),
    },
  });
}

/** vLLM writes out what it cannot say about a message, so clients may look for it. */
const absentParts = { refusal: null, annotations: null, audio: null, function_call: null, reasoning: null };

function chatDialect(body: ChatCompletionBody): Dialect {
  const nameOf = tokenNamer(body.return_tokens_as_token_ids);
  const ending = (piece: RequestOutput) => ({
    logprobs: body.logprobs ? chatLogprobs(piece.logprobs, nameOf) : null,
    finish_reason: piece.finishReason,
    stop_reason: piece.stopReason,
    token_ids: body.return_token_ids ? piece.tokenIds : null,
  });
  const promptTokenIds = ({ prompt }: Choice) => (body.return_token_ids ? prompt.tokenIds : null);
  const delta = ({ index }: Choice, piece: RequestOutput): Chunk => ({
    choice: { index, delta: { content: piece.text }, ...ending(piece) },
  });
  // Only when the first token exists: clients take this chunk for it.
  const role = (choice: Choice): Chunk => ({
    choice: {
      index: choice.index,
      delta: { role: 'assistant', content: '' },
      logprobs: null,
      finish_reason: null,
    },
    fields: { prompt_token_ids: promptTokenIds(choice) },
    saysNothing: true,
  });

  return {
    object: 'chat.completion',
    chunkObject: 'chat.completion.chunk',
    choice: ({ index }, output) => ({
      index,
      message: { role: 'assistant', content: output.text, ...absentParts },
      ...ending(output),
    }),
    fields: (choice) => ({ prompt_logprobs: null, prompt_token_ids: promptTokenIds(choice) }),
    chunks: (choice, piece, isFirst) =>
      isFirst ? [role(choice), delta(choice, piece)] : [delta(choice, piece)],
  };
}
