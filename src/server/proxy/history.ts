// Whether a turn goes on from the answer that a ticket came with. Who reads by ticket alone, as vLLM does, takes KV for its
// prompt's whatever it was made of: a history that was edited, shortened or lost its reasoning must not bring the ticket along.
import { createHash } from 'node:crypto';
import type { JsonObject, TurnRequest } from './request.js';

/** What a conversation was when an answer ended: so many messages, or characters, and their digest. */
export interface History {
  readonly length: number;
  readonly digest: string;
}

/** Fields beside the messages that a chat's text depends on. */
const textFields = [
  'model',
  'tools',
  'chat_template',
  'chat_template_kwargs',
  'documents',
  'reasoning_effort',
  'cache_salt',
  'truncate_prompt_tokens',
] as const;

/** Null where the text of the next turn cannot tell whether the KV is that of its beginning. */
export function historyAfter(turn: TurnRequest, answer: JsonObject): History | null {
  const choices = answer.choices as readonly JsonObject[] | undefined;
  const choice = choices?.length === 1 ? choices[0]! : null;
  if (!choice) return null;
  const { prompt, messages } = turn.asked;
  if (turn.path === '/v1/completions') {
    const isText = typeof prompt === 'string' && typeof choice.text === 'string' && !turn.asked.echo;
    return isText ? digestOf(turn, `${prompt}${choice.text}`) : null;
  }
  const said = withoutEmpty((choice.message ?? {}) as JsonObject);
  // What a template makes of reasoning and calls is not what was generated.
  if (!Array.isArray(messages) || Object.keys(said).some((name) => name !== 'role' && name !== 'content')) {
    return null;
  }
  return digestOf(turn, [...messages, said]);
}

export function goesOn(turn: TurnRequest, history: History | null): boolean {
  if (!history) return false;
  const { prompt, messages } = turn.asked;
  const all = turn.path === '/v1/completions' ? prompt : messages;
  if (typeof all !== 'string' && !Array.isArray(all)) return false;
  return (
    all.length >= history.length && digestOf(turn, all.slice(0, history.length)).digest === history.digest
  );
}

function digestOf({ path, asked }: TurnRequest, said: string | readonly unknown[]): History {
  const texts = typeof said === 'string' ? said : said.map((message) => normal(message));
  const beside = textFields.map((name) => asked[name] ?? null);
  const digest = createHash('sha256')
    .update(JSON.stringify([path, beside, texts]))
    .digest('base64');
  return { length: said.length, digest };
}

/** The same for every way to write a message with one text. */
function normal(message: unknown): unknown {
  if (typeof message !== 'object' || message === null) return message;
  const { role, content, ...rest } = withoutEmpty(message as JsonObject);
  const [part] = Array.isArray(content) && content.length === 1 ? (content as readonly JsonObject[]) : [];
  return [role, part?.type === 'text' ? part.text : content, rest];
}

function withoutEmpty(object: JsonObject): JsonObject {
  const isEmpty = (value: unknown) => value === null || (Array.isArray(value) && value.length === 0);
  return Object.fromEntries(Object.entries(object).filter(([, value]) => !isEmpty(value)));
}
