// OpenAI-style chats, one object with `messages` each: vLLM's conversation file, chat logs, fine-tuning files.
import { z } from 'zod';
import type { ChatMessage } from '../client.js';
import { chatTurns } from './chat-turns.js';
import type { DatasetConversation, ReadOptions } from './dataset.js';
import { readJsonRecords } from './json-records.js';
import { checkRecord } from './record-check.js';

const partSchema = z.looseObject({ type: z.string(), text: z.string().optional() });

const messageSchema = z.looseObject({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool', 'function']),
  content: z.union([z.string(), z.array(partSchema)]).nullish(),
  tool_calls: z.unknown().optional(),
});

const recordSchema = z.looseObject({
  id: z.union([z.string().min(1), z.number()]).optional(),
  conversation_id: z.union([z.string().min(1), z.number()]).optional(),
  messages: z.array(messageSchema).min(1),
});

/** Parts that are no text have none; an answer that only calls tools is as long as its calls. */
function textOf({ content, tool_calls: toolCalls }: z.infer<typeof messageSchema>): string {
  if (typeof content === 'string' && content !== '') return content;
  if (Array.isArray(content)) return content.map(({ text }) => text ?? '').join('');
  return toolCalls === undefined || toolCalls === null ? '' : JSON.stringify(toolCalls);
}

const roles: Readonly<Record<string, string>> = { developer: 'system', function: 'tool' };

export async function* readMessages(
  file: string,
  { maxRows, tally }: ReadOptions,
): AsyncGenerator<DatasetConversation> {
  for await (const record of readJsonRecords(file)) {
    if (tally.numRows === maxRows) {
      tally.complete = false;
      return;
    }
    tally.numRows++;
    const { id, conversation_id, messages } = checkRecord(recordSchema, record, file);
    const chat = messages.map(
      (message): ChatMessage => ({ role: roles[message.role] ?? message.role, content: textOf(message) }),
    );
    yield { id: String(id ?? conversation_id ?? `line-${record.line}`), turns: chatTurns(chat, tally) };
  }
}
