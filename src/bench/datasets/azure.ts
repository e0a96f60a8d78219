// Azure's LLM inference traces: `TIMESTAMP,ContextTokens,GeneratedTokens`, one request a line, without sessions.
import { VllmPdError } from '../../errors.js';
import { readCsvRecords, tokensIn } from './csv-records.js';
import type { DatasetConversation, ReadOptions } from './dataset.js';
import { TraceSessions } from './trace-sessions.js';

/** `2023-11-16 18:15:46.6805900`, with `+00:00` in the traces of 2024; UTC, in ms since 1970. */
function milliseconds(text: string): number | null {
  const match = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)?$/.exec(text);
  const whole = match && Date.parse(`${match[1]}T${match[2]}${match[4] ?? 'Z'}`);
  return typeof whole === 'number' && Number.isFinite(whole) ? whole + Number(match![3] ?? 0) * 1000 : null;
}

export async function* readAzure(
  file: string,
  { maxRows, tally }: ReadOptions,
): AsyncGenerator<DatasetConversation> {
  tally.note(
    'the trace names no sessions: every request is a conversation of one turn, and bi has nothing to reuse',
  );
  tally.hasSessions = false;
  const sessions = new TraceSessions(tally);
  for await (const record of readCsvRecords(file)) {
    if (tally.numRows === maxRows) {
      tally.complete = false;
      break;
    }
    tally.numRows++;
    const time = record.fields.TIMESTAMP ?? '';
    const arrivalMs = milliseconds(time);
    if (arrivalMs === null) {
      const message = `${file}, line ${record.line}, TIMESTAMP: expected a time such as 2023-11-16 18:15:46.68 but received '${time}'.`;
      throw new VllmPdError('BAD_FILE', message, { param: 'TIMESTAMP' });
    }
    const numInputTokens = tokensIn(file, record, 'ContextTokens');
    const numOutputTokens = tokensIn(file, record, 'GeneratedTokens');
    sessions.add(
      { id: `line-${record.line}`, arrivalMs, delayMs: null, numInputTokens, numOutputTokens, blocks: null },
      null,
    );
  }
  yield* sessions.conversations();
}
