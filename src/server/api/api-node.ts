// What the endpoints of one node share: its engine, its name, and the fields that every request may carry.
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Engine } from '../../engine/engine.js';
import { VllmPdError } from '../../errors.js';
import type { ChatMessage, RenderChatOptions } from '../../model/chat-template.js';
import type { PromptBody } from './openai-schema.js';
import type { PromptEncoder } from './prompt-encoder.js';

export interface ApiNode {
  readonly engine: Engine;
  readonly encoder: PromptEncoder;
  /** Seconds since 1970, when the server started. */
  readonly created: number;
}

/** Throws NOT_FOUND unless the request names this node's model, or none. */
export function checkModel({ engine }: ApiNode, model: string | null | undefined): void {
  if (model == null || model === engine.config.servedModelName) return;
  throw new VllmPdError('NOT_FOUND', `The model \`${model}\` does not exist.`, { param: 'model' });
}

/** The client's own id of its request, if it gave one; unique ids are derived from it. */
export function requestIdOf(req: IncomingMessage, bodyId: string | null | undefined): string {
  return headerOf(req, 'x-request-id') ?? bodyId ?? randomUUID().replaceAll('-', '');
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

export interface ChatBody {
  readonly messages: readonly ChatMessage[];
  /** The messages as somebody has encoded them already (P, for D); they are not rendered again. */
  readonly prompt_token_ids?: readonly number[] | null;
  readonly add_generation_prompt?: boolean | null;
  readonly continue_final_message?: boolean | null;
  readonly chat_template_kwargs?: Readonly<Record<string, unknown>> | null;
}

export async function encodeChat({ engine, encoder }: ApiNode, body: ChatBody): Promise<Prompt> {
  if (body.prompt_token_ids) return { tokenIds: body.prompt_token_ids, text: null };
  const continueFinalMessage = body.continue_final_message ?? false;
  const options: RenderChatOptions = {
    continueFinalMessage,
    addGenerationPrompt: body.add_generation_prompt ?? !continueFinalMessage,
    ...(body.chat_template_kwargs && { chatTemplateKwargs: body.chat_template_kwargs }),
  };
  const text = engine.chatTemplate.renderChat(body.messages, options);
  // Special tokens come from the template alone.
  return { tokenIds: await encoder.encode(text, false), text: null };
}
