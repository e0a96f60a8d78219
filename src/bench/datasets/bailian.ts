// Qwen-Bailian traces: lengths and block hashes, with the request that each one follows.
import { z } from 'zod';
import type { DatasetConversation, ReadOptions } from './dataset.js';
import { readJsonRecords } from './json-records.js';
import { checkRecord } from './record-check.js';
import { type TraceSession, TraceSessions } from './trace-sessions.js';

/** Tokens of the published traces' blocks. */
const blockSize = 16;

const id = z.union([z.number(), z.string()]);
const tokens = z.number().int().min(0);

const recordSchema = z.looseObject({
  chat_id: id,
  /** −1 = the first of its conversation. */
  parent_chat_id: id,
  /** Seconds. */
  timestamp: z.number().min(0),
  input_length: tokens,
  output_length: tokens,
  hash_ids: z.array(z.union([z.number(), z.string()])).default([]),
});

export async function* readBailian(
  file: string,
  { maxRows, tally }: ReadOptions,
): AsyncGenerator<DatasetConversation> {
  tally.note('a turn adds input − previous input − previous output tokens');
  const sessions = new TraceSessions(tally);
  /** By the latest request of each session; a request that was followed once already is no longer here. */
  const byChat = new Map<string, TraceSession | 'followed'>();
  for await (const record of readJsonRecords(file)) {
    if (tally.numRows === maxRows) {
      tally.complete = false;
      break;
    }
    tally.numRows++;
    const row = checkRecord(recordSchema, record, file);
    const parent = String(row.parent_chat_id);
    const before = byChat.get(parent);
    if (parent !== '-1' && before === undefined) tally.skip('links to a request that is not in the file');
    if (before === 'followed') tally.skip('links to a request that another one follows already');
    const session = sessions.add(
      {
        id: String(row.chat_id),
        arrivalMs: row.timestamp * 1000,
        delayMs: null,
        numInputTokens: row.input_length,
        numOutputTokens: row.output_length,
        blocks: row.hash_ids.length === 0 ? null : { ids: row.hash_ids, blockSize },
      },
      before === 'followed' ? null : (before ?? null),
    );
    if (session === before) byChat.set(parent, 'followed');
    byChat.set(String(row.chat_id), session);
  }
  yield* sessions.conversations();
}
