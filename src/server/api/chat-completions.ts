// POST /v1/chat/completions.

import type { RequestOutput } from '../../engine/request-output.js';
import { parseKvTransferParams } from '../../kv-transfer/params.js';
import type { KvTransferParams } from '../../wire.js';
import type { RouteContext } from '../http.js';
import { readJson } from '../http-body.js';
import { priorityHeader } from '../priority-header.js';
import { answerCall } from './answer-call.js';
import { parseBody } from './api-body.js';
import {
  type ApiNode,
  checkModel,
  encodeChat,
  renderChat,
  requestIdOf,
  sessionIdOf,
  truncated,
} from './api-node.js';
import { answerCacheQuery } from './cache-query.js';
import type { Choice } from './generation.js';
import type { Chunk, Dialect } from './openai-answer.js';
import { chatLogprobs, promptLogprobs, tokenNamer } from './openai-logprobs.js';
import { chatSampling } from './openai-sampling.js';
import { type ChatCompletionBody, chatCompletionSchema } from './openai-schema.js';

export async function chatCompletions(node: ApiNode, context: RouteContext): Promise<void> {
  const { req } = context;
  const { engine } = node;
  engine.checkRoom();
  const body = parseBody(chatCompletionSchema, await readJson(req));
  const requestId = requestIdOf(context, body.request_id);
  checkModel(node, body.model);
  const kvTransferParams = parseKvTransferParams(body.kv_transfer_params, (reason) =>
    engine.noteDroppedStats(reason),
  );
  // Before the prompt is encoded: its history ends with that answer.
  if (kvTransferParams?.do_remote_decode) {
    node.reusedAnswers?.rememberIds(kvTransferParams.remote_answer_token_ids ?? []);
  }
  const whole = await encodeChat(node, body, body.add_special_tokens ?? false);
  const prompt = truncated(
    whole,
    body,
    engine.maxModelLen - (body.max_completion_tokens ?? body.max_tokens ?? 1),
  );
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
    dialect: chatDialect(body, body.return_prompt_text ? renderChat(node, body) : null),
    input: {
      id: `chatcmpl-${requestId}`,
      prompts: [prompt],
      numSamples: body.n ?? 1,
      samplingParams: ({ tokenIds }) => chatSampling(body, engine, engine.maxModelLen - tokenIds.length),
      cacheSalt: body.cache_salt ?? null,
      sessionId: sessionIdOf(req, body),
      priority: priorityHeader(req) ?? body.priority ?? 0,
      kvTransferParams,
      onAnswer: node.reusedAnswers && ((text, tokenIds) => ticketFields(node, text, tokenIds)),
    },
  });
}

/** The prefill node of the next turn is told the answer's ids where its text alone would not bring them back. */
function ticketFields(
  { reusedAnswers }: ApiNode,
  text: string,
  tokenIds: readonly number[],
): Partial<KvTransferParams> {
  return reusedAnswers?.remember(text, tokenIds) ? { remote_answer_token_ids: tokenIds } : {};
}

/** vLLM writes out what it cannot say about a message, so clients may look for it. */
const absentParts = { refusal: null, annotations: null, audio: null, function_call: null, reasoning: null };

/** Who speaks: whoever spoke last, when the prompt ends without the beginning of an answer. */
function roleOf(body: ChatCompletionBody): string {
  return body.add_generation_prompt === false ? body.messages.at(-1)!.role : 'assistant';
}

/** What `echo` puts before the answer: a last message of the same speaker, which the answer goes on with. */
function echoOf({ echo, messages }: ChatCompletionBody, role: string): string {
  const last = messages.at(-1)!;
  if (!echo || last.role !== role || last.content == null) return '';
  return typeof last.content === 'string' ? last.content : last.content.map(({ text }) => text).join('\n');
}

function chatDialect(body: ChatCompletionBody, promptText: string | null): Dialect {
  const role = roleOf(body);
  const echo = echoOf(body, role);
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
  const before = (choice: Choice, delta: object, fields = {}): Chunk => ({
    choice: { index: choice.index, delta, logprobs: null, finish_reason: null },
    fields,
    saysNothing: true,
  });
  const beginning = (choice: Choice): Chunk[] => [
    before(
      choice,
      { role, content: '' },
      { prompt_token_ids: promptTokenIds(choice), ...(promptText !== null && { prompt_text: promptText }) },
    ),
    ...(echo === '' ? [] : [before(choice, { content: echo })]),
  ];

  return {
    object: 'chat.completion',
    chunkObject: 'chat.completion.chunk',
    choice: ({ index }, output) => ({
      index,
      message: { role, content: echo + output.text, ...absentParts },
      ...ending(output),
    }),
    fields: (choice, output) => ({
      prompt_logprobs: promptLogprobs(output.promptLogprobs),
      prompt_token_ids: promptTokenIds(choice),
      prompt_text: promptText,
    }),
    chunks: (choice, piece, isFirst) => [...(isFirst ? beginning(choice) : []), delta(choice, piece)],
  };
}
