// POST /v1/chat/completions.
import type { RequestOutput } from '../../engine/request-output.js';
import { parseKvTransferParams } from '../../kv-transfer/params.js';
import { type RouteContext, readJson } from '../http.js';
import { parseBody } from './api-body.js';
import { type ApiNode, checkModel, encodeChat, requestIdOf, sessionIdOf } from './api-node.js';
import { answerCacheQuery } from './cache-query.js';
import type { Choice } from './generation.js';
import { answerCall, type Dialect } from './openai-answer.js';
import { chatLogprobs } from './openai-logprobs.js';
import { chatSampling } from './openai-sampling.js';
import { type ChatCompletionBody, chatCompletionSchema } from './openai-schema.js';

export async function chatCompletions(node: ApiNode, context: RouteContext): Promise<void> {
  const { req } = context;
  const body = parseBody(chatCompletionSchema, await readJson(req));
  checkModel(node, body.model);
  const kvTransferParams = parseKvTransferParams(body.kv_transfer_params);
  const sampling = chatSampling(body, node.engine.generationConfig);
  const prompt = await encodeChat(node, body);
  if (kvTransferParams?.cache_query) {
    await answerCacheQuery(node, context, [prompt], {
      lease: kvTransferParams.lease ?? false,
      cacheSalt: body.cache_salt ?? null,
      returnTokenIds: body.return_token_ids ?? false,
    });
    return;
  }
  await answerCall(context, {
    node,
    body,
    dialect: chatDialect(body),
    input: {
      id: `chatcmpl-${requestIdOf(req, body.request_id)}`,
      prompts: [prompt],
      numSamples: body.n ?? 1,
      samplingParams: () => sampling,
      cacheSalt: body.cache_salt ?? null,
      sessionId: sessionIdOf(req, body),
      kvTransferParams,
    },
  });
}

function chatDialect(body: ChatCompletionBody): Dialect {
  const ending = (piece: RequestOutput) => ({
    logprobs: body.logprobs ? chatLogprobs(piece.logprobs) : null,
    finish_reason: piece.finishReason,
    stop_reason: piece.stopReason,
    ...(body.return_token_ids && { token_ids: piece.tokenIds }),
  });
  const delta = ({ index }: Choice, piece: RequestOutput) => ({
    index,
    delta: { content: piece.text },
    ...ending(piece),
  });
  // Only when the first token exists: clients take this chunk for it.
  const role = ({ index, prompt }: Choice) => ({
    index,
    delta: { role: 'assistant', content: '' },
    logprobs: null,
    finish_reason: null,
    ...(body.return_token_ids && { prompt_token_ids: prompt.tokenIds }),
  });

  return {
    object: 'chat.completion',
    chunkObject: 'chat.completion.chunk',
    choice: (choice, output) => ({
      index: choice.index,
      message: { role: 'assistant', content: output.text },
      ...ending(output),
      ...(body.return_token_ids && { prompt_token_ids: choice.prompt.tokenIds }),
    }),
    deltas: (choice, piece, isFirst) =>
      isFirst ? [role(choice), delta(choice, piece)] : [delta(choice, piece)],
  };
}
