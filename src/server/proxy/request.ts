// What a client asked the proxy for, and the bodies that the hops of a turn carry instead.
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { VllmPdError } from '../../errors.js';
import type { KvTransferParams } from '../../wire.js';
import { priorityHeader } from '../priority-header.js';
import { wantedPromptLogprobs } from '../prompt-logprobs.js';

export type JsonObject = Readonly<Record<string, unknown>>;

export interface TurnRequest {
  readonly path: '/v1/completions' | '/v1/chat/completions';
  /** As the client sent it, but that its conversation id is `session_id` towards the nodes, and its priority is in here. */
  readonly body: JsonObject;
  /** The same, before a node's encoding of the prompt took its place. */
  readonly asked: JsonObject;
  /** Sent along on every hop. */
  readonly headers: Readonly<Record<string, string>>;
  readonly requestId: string;
  readonly sessionId: string | null;
  /** Kept only by a proxy that trusts its clients; null otherwise. */
  readonly clientKvTransferParams: KvTransferParams | null;
}

/** Fields that decide what the prompt's tokens are; a cache query needs no others. */
const promptFields = [
  'model',
  'prompt',
  'messages',
  'prompt_token_ids',
  'add_special_tokens',
  'add_generation_prompt',
  'continue_final_message',
  'chat_template',
  'chat_template_kwargs',
  'tools',
  'tool_choice',
  'documents',
  'reasoning_effort',
  'truncate_prompt_tokens',
  'truncation_side',
  'cache_salt',
  'session_id',
] as const;

/** Fields that ask for more of an answer than the one token that P makes and nobody sees. */
const answerFields = [
  'stream_options',
  'stream_interval',
  'min_tokens',
  'min_completion_tokens',
  'n',
  'best_of',
  'use_beam_search',
  'logprobs',
  'top_logprobs',
  'logprob_token_ids',
  'prompt_logprobs',
  'echo',
  'return_prompt_text',
  'return_prefill_stats',
  'return_token_ids',
] as const;

export function parseTurnRequest(
  path: TurnRequest['path'],
  req: IncomingMessage,
  body: unknown,
  trustKvTransferParams: boolean,
): TurnRequest {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new VllmPdError('INVALID_ARGUMENT', 'Expected a JSON object as the request body.');
  }
  const { conversation_id, kv_transfer_params, ...rest } = body as Record<string, unknown>;
  const sessionId = textOf(conversation_id) ?? textOf(rest.session_id) ?? headerOf(req, 'x-session-id');
  const requestId = headerOf(req, 'x-request-id') ?? headerText(rest.request_id) ?? randomUUID();
  const priority = priorityHeader(req);
  const { authorization } = req.headers;
  const asked = {
    ...rest,
    ...(sessionId !== null && { session_id: sessionId }),
    ...(priority !== null && { priority }),
  };
  return {
    path,
    body: asked,
    asked,
    headers: { 'x-request-id': requestId, ...(authorization === undefined ? {} : { authorization }) },
    requestId,
    sessionId,
    clientKvTransferParams:
      trustKvTransferParams && kv_transfer_params ? (kv_transfer_params as KvTransferParams) : null,
  };
}

/** P runs the whole prompt and makes one token; it says how it encoded the prompt unless it was told. */
export function prefillBody(turn: TurnRequest, params: KvTransferParams): JsonObject {
  const body: Record<string, unknown> = { ...turn.body };
  for (const field of answerFields) delete body[field];
  if ('max_completion_tokens' in body) body.max_completion_tokens = 1;
  if (!isEncoded(turn)) body.return_token_ids = true;
  return { ...body, max_tokens: 1, stream: false, kv_transfer_params: params };
}

/** The answer's beginning as well: P takes the request as it is and ends it behind the first token. */
export function firstTokenBody(turn: TurnRequest, params: KvTransferParams): JsonObject {
  return { ...turn.body, kv_transfer_params: { ...params, return_first_token: true } };
}

export function decodeBody(turn: TurnRequest, params: KvTransferParams | null): JsonObject {
  return params === null ? turn.body : { ...turn.body, kv_transfer_params: params };
}

/**
 * Only how much is held is of interest, and what P is to be told. With `lease` the query is the first hop of a turn, so
 * its encoding of the prompt is of use to the others.
 */
export function cacheQueryBody(turn: TurnRequest, lease: boolean): JsonObject {
  const fields = promptFields.filter((field) => turn.body[field] !== undefined);
  const body = Object.fromEntries(fields.map((field) => [field, turn.body[field]]));
  return {
    ...body,
    lease,
    return_blocks: false,
    ...(lease && !isEncoded(turn) ? { return_token_ids: true } : {}),
  };
}

/** The turn with its prompt as one node has encoded it, so that the next need not do it again. */
export function withTokenIds(turn: TurnRequest, tokenIds: readonly number[] | null): TurnRequest {
  // An echo repeats the client's own text.
  if (!tokenIds || isEncoded(turn) || turn.body.echo) return turn;
  const encoded = turn.path === '/v1/completions' ? { prompt: tokenIds } : { prompt_token_ids: tokenIds };
  return { ...turn, body: { ...turn.body, ...encoded } };
}

function isEncoded({ path, body }: TurnRequest): boolean {
  return path === '/v1/completions' ? Array.isArray(body.prompt) : Array.isArray(body.prompt_token_ids);
}

/** The answer says something of every token of the prompt, so one node has to run all of it, whatever is cached where. */
export function isForOneNode({ body }: TurnRequest): boolean {
  return wantedPromptLogprobs(body) !== null;
}

/** Several prompts in one request: there is one set of transfer parameters and it belongs to one prompt. */
export function isBatch(turn: TurnRequest): boolean {
  const { prompt } = turn.body;
  return Array.isArray(prompt) && prompt.length > 1 && typeof prompt[0] !== 'number';
}

/** Long ones are no identities; nodes refuse them. */
function textOf(value: unknown): string | null {
  return typeof value === 'string' && value.length > 0 && value.length <= 256 ? value : null;
}

function headerOf(req: IncomingMessage, name: string): string | null {
  return headerText(req.headers[name]);
}

/** Printable ASCII only, since it is sent on as a header. */
function headerText(value: unknown): string | null {
  return typeof value === 'string' && /^[\x20-\x7e]{1,256}$/.test(value) ? value : null;
}
