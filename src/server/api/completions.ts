// POST /v1/completions.

import { tokenText } from '../../engine/answer.js';
import type { RequestOutput, TokenTextLogprobs } from '../../engine/request-output.js';
import { VllmPdError } from '../../errors.js';
import { parseKvTransferParams } from '../../kv-transfer/params.js';
import type { RouteContext } from '../http.js';
import { readJson } from '../http-body.js';
import { priorityHeader } from '../priority-header.js';
import { answerCall } from './answer-call.js';
import { parseBody } from './api-body.js';
import {
  type ApiNode,
  checkModel,
  encodePrompts,
  type Prompt,
  requestIdOf,
  sessionIdOf,
  truncated,
} from './api-node.js';
import { answerCacheQuery } from './cache-query.js';
import type { Choice } from './generation.js';
import type { Dialect } from './openai-answer.js';
import { completionLogprobs, promptLogprobs, tokenNamer } from './openai-logprobs.js';
import { completionSampling, defaultCompletionTokens } from './openai-sampling.js';
import { type CompletionBody, completionSchema } from './openai-schema.js';

export async function completions(node: ApiNode, context: RouteContext): Promise<void> {
  const { req } = context;
  const { engine } = node;
  engine.checkRoom();
  const body = parseBody(completionSchema, await readJson(req));
  const requestId = requestIdOf(context, body.request_id);
  checkModel(node, body.model);
  checkMaxTokens(body);
  const kvTransferParams = parseKvTransferParams(body.kv_transfer_params, (reason) =>
    engine.noteDroppedStats(reason),
  );
  const whole = await encodePrompts(node, body.prompt, body.add_special_tokens ?? true);
  const numFitting = engine.maxModelLen - Math.max(1, body.max_tokens ?? defaultCompletionTokens);
  const prompts = whole.map((prompt) => truncated(prompt, body, numFitting));
  if (kvTransferParams?.cache_query) {
    await answerCacheQuery(node, context, prompts, {
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
    dialect: completionDialect(node, body),
    input: {
      id: `cmpl-${requestId}`,
      prompts,
      numSamples: body.n ?? 1,
      samplingParams: ({ tokenIds }) =>
        completionSampling(body, engine, engine.maxModelLen - tokenIds.length),
      cacheSalt: body.cache_salt ?? null,
      sessionId: sessionIdOf(req, body),
      priority: priorityHeader(req) ?? body.priority ?? 0,
      kvTransferParams,
      isPromptOnly: body.max_tokens === 0,
    },
  });
}

function checkMaxTokens(body: CompletionBody): void {
  if (body.max_tokens !== 0 || body.echo) return;
  const message = 'Expected `max_tokens` of at least 1, as there is no `echo`, but received 0.';
  throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'max_tokens' });
}

function completionDialect({ engine }: ApiNode, body: CompletionBody): Dialect {
  const textOf = ({ text, tokenIds }: Prompt) =>
    text ?? engine.tokenizer.decode(tokenIds, { skipSpecialTokens: false });
  const nameOf = tokenNamer(body.return_tokens_as_token_ids);
  const textOffsets: number[] = [];
  /** What is echoed of the prompt's log probabilities. */
  const echoOf = ({ tokenIds: [tokenId] }: Prompt, entries: readonly TokenTextLogprobs[], numTop: number) => [
    { tokenId: tokenId!, token: tokenText(engine.tokenizer, tokenId!), logprob: null },
    // There are more where `prompt_logprobs` asks for more.
    ...entries.map((one) => ({ ...one, top: one.top.slice(0, numTop) })),
  ];
  const entry = ({ index, prompt }: Choice, piece: RequestOutput, isFirst: boolean) => {
    const echoes = body.echo && isFirst;
    const text = echoes ? textOf(prompt) + piece.text : piece.text;
    const textOffset = textOffsets[index] ?? 0;
    textOffsets[index] = textOffset + text.length;
    const { logprobs: numTop } = body;
    const echoed = echoes && numTop != null ? echoOf(prompt, piece.promptLogprobs ?? [], numTop) : [];
    return {
      index,
      text,
      logprobs:
        numTop == null ? null : completionLogprobs([...echoed, ...piece.logprobs], textOffset, nameOf),
      finish_reason: piece.finishReason,
      stop_reason: piece.stopReason,
      token_ids: body.return_token_ids ? piece.tokenIds : null,
      prompt_token_ids: body.return_token_ids && isFirst ? prompt.tokenIds : null,
    };
  };

  return {
    object: 'text_completion',
    chunkObject: 'text_completion',
    choice: (choice, output) => ({
      ...entry(choice, output, true),
      prompt_logprobs: promptLogprobs(output.promptLogprobs),
    }),
    fields: () => ({}),
    chunks: (choice, piece, isFirst) => [{ choice: entry(choice, piece, isFirst) }],
  };
}
