// What the endpoints of one node share: its engine, its name, and the fields that every request may carry.
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Engine } from '../../engine/engine.js';
import { VllmPdError } from '../../errors.js';
import type { RouteContext } from '../http.js';
import { type ChatBody, renderOptions, templateMessages } from './chat-messages.js';
import type { PromptBody } from './openai-schema.js';
import type { PromptEncoder } from './prompt-encoder.js';
import type { ReusedAnswers } from './reused-answers.js';

export interface ApiNode {
  readonly engine: Engine;
  readonly encoder: PromptEncoder;
  /** Null unless the node was asked to keep its answers' ids. */
  readonly reusedAnswers: ReusedAnswers | null;
  /** Seconds since 1970, when the server started. */
  readonly created: number;
}

/** Throws NOT_FOUND unless the request names this node's model, or none. */
export function checkModel({ engine }: ApiNode, model: string | null | undefined): void {
  if (model == null || model === engine.config.servedModelName) return;
  throw new VllmPdError('NOT_FOUND', `The model \`${model}\` does not exist.`, { param: 'model' });
}

/** The client's own id of its request, if it gave one; unique ids are derived from it. The answer's header repeats it. */
export function requestIdOf({ req, res }: RouteContext, bodyId: string | null | undefined): string {
  const id = headerOf(req, 'x-request-id') ?? bodyId ?? randomUUID().replaceAll('-', '');
  // What a body may name is more than what a header may carry.
  if (!res.headersSent && /^[\x20-\x7e]+$/.test(id)) res.setHeader('x-request-id', id);
  return id;
}

/** Conversation identity, from wherever the client put it. */
export function sessionIdOf(
  req: IncomingMessage,
  body: { readonly session_id?: string | null; readonly conversation_id?: string | null },
): string | null {
  return body.session_id ?? body.conversation_id ?? headerOf(req, 'x-session-id') ?? null;
}

function headerOf(req: IncomingMessage, name: string): string | undefined {
  const value = req.headers[name];
  return typeof value === 'string' && value !== '' ? value : undefined;
}

/** A prompt as the engine takes it, and its text where the client sent text. */
export interface Prompt {
  readonly tokenIds: readonly number[];
  readonly text: string | null;
}

export async function encodePrompts(
  { encoder }: ApiNode,
  prompt: PromptBody,
  addSpecialTokens: boolean,
): Promise<Prompt[]> {
  const encode = async (text: string) => ({ text, tokenIds: await encoder.encode(text, addSpecialTokens) });
  if (typeof prompt === 'string') return [await encode(prompt)];
  if (isTokenIds(prompt)) return [{ tokenIds: prompt, text: null }];
  const entries = prompt.map((entry) =>
    typeof entry === 'string' ? encode(entry) : { tokenIds: entry, text: null },
  );
  return Promise.all(entries);
}

function isTokenIds(prompt: Exclude<PromptBody, string>): prompt is readonly number[] {
  return typeof prompt[0] === 'number';
}

/** The messages as the chat template writes them. */
export function renderChat({ engine }: Pick<ApiNode, 'engine'>, body: ChatBody): string {
  return engine.chatTemplate.renderChat(templateMessages(body.messages), renderOptions(body));
}

export async function encodeChat(
  { engine, encoder, reusedAnswers }: ApiNode,
  body: ChatBody,
  addSpecialTokens = false,
): Promise<Prompt> {
  if (body.prompt_token_ids) return { tokenIds: body.prompt_token_ids, text: null };
  const messages = templateMessages(body.messages);
  const options = renderOptions(body);
  const text = engine.chatTemplate.renderChat(messages, options);
  // Special tokens come from the template, unless a request wants the tokenizer's too.
  const encode = (part: string, add: boolean) => encoder.encode(part, add);
  const reused = await reusedAnswers?.encode(text, messages, options, addSpecialTokens, encode);
  return { tokenIds: reused ?? (await encode(text, addSpecialTokens)), text: null };
}

/** A prompt cut to what its request wants; `numFitting` tokens fit into the context beside the answer. */
export function truncated(
  prompt: Prompt,
  body: {
    readonly truncate_prompt_tokens?: number | null;
    readonly truncation_side?: 'left' | 'right' | null;
  },
  numFitting: number,
): Prompt {
  const { truncate_prompt_tokens: wanted, truncation_side: side } = body;
  if (wanted == null) return prompt;
  const numKept = wanted === -1 ? Math.max(1, numFitting) : wanted;
  const { tokenIds } = prompt;
  if (tokenIds.length <= numKept) return prompt;
  const kept = side === 'right' ? tokenIds.slice(0, numKept) : tokenIds.slice(tokenIds.length - numKept);
  return { tokenIds: kept, text: null };
}
