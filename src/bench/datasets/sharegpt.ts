// ShareGPT: a list of conversations in parts, `{id: "<conversation>_<part>", conversations: [{from, value}]}`.
import { z } from 'zod';
import type { ChatMessage } from '../client.js';
import { chatTurns } from './chat-turns.js';
import type { DatasetConversation, ReadOptions } from './dataset.js';
import { readJsonRecords } from './json-records.js';
import { checkRecord } from './record-check.js';

const roles = {
  human: 'user',
  user: 'user',
  gpt: 'assistant',
  chatgpt: 'assistant',
  bing: 'assistant',
  bard: 'assistant',
  assistant: 'assistant',
  system: 'system',
  tool: 'tool',
} as const;

const recordSchema = z.looseObject({
  id: z.union([z.string(), z.number()]).optional(),
  conversations: z.array(
    z.looseObject({
      from: z.enum(Object.keys(roles) as (keyof typeof roles)[]),
      value: z.string(),
    }),
  ),
});

/** Parts of one conversation follow each other in the file, and share what stands before the last `_`. */
export async function* readShareGpt(
  file: string,
  { maxRows, tally }: ReadOptions,
): AsyncGenerator<DatasetConversation> {
  let id = '';
  let messages: ChatMessage[] = [];
  for await (const record of readJsonRecords(file)) {
    if (tally.numRows === maxRows) {
      tally.complete = false;
      break;
    }
    tally.numRows++;
    const { id: partId = `line-${record.line}`, conversations } = checkRecord(recordSchema, record, file);
    const conversation = String(partId).replace(/_\d+$/, '');
    if (conversation !== id && messages.length > 0) {
      yield { id, turns: chatTurns(messages, tally) };
      messages = [];
    }
    id = conversation;
    messages.push(...conversations.map(({ from, value }) => ({ role: roles[from], content: value })));
  }
  if (messages.length > 0) yield { id, turns: chatTurns(messages, tally) };
}
