// MT-Bench questions: `{question_id, turns: ["…", "…"]}`, the user's side only.
import { z } from 'zod';
import type { DatasetConversation, ReadOptions } from './dataset.js';
import { readJsonRecords } from './json-records.js';
import { checkRecord } from './record-check.js';

const recordSchema = z.looseObject({
  question_id: z.union([z.number(), z.string().min(1)]).optional(),
  turns: z.array(z.string().min(1)).min(1),
});

export async function* readMtBench(
  file: string,
  { maxRows, tally }: ReadOptions,
): AsyncGenerator<DatasetConversation> {
  tally.note('questions only: answers are as long as sampling.max_tokens');
  for await (const record of readJsonRecords(file)) {
    if (tally.numRows === maxRows) {
      tally.complete = false;
      return;
    }
    tally.numRows++;
    const { question_id: id = `line-${record.line}`, turns } = checkRecord(recordSchema, record, file);
    yield {
      id: String(id),
      turns: turns.map((content) => ({
        input: { kind: 'messages', messages: [{ role: 'user', content }] },
        output: null,
        arrivalMs: null,
        delayMs: null,
      })),
    };
  }
}
