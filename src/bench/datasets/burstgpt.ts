// BurstGPT traces, read by the names of their columns: the newer ones name sessions, the older ones do not.
import { VllmPdError } from '../../errors.js';
import { readCsvRecords, tokensIn } from './csv-records.js';
import type { DatasetConversation, ReadOptions } from './dataset.js';
import { type TraceSession, TraceSessions } from './trace-sessions.js';

export async function* readBurstGpt(
  file: string,
  { maxRows, tally }: ReadOptions,
): AsyncGenerator<DatasetConversation> {
  tally.note('Request tokens are taken as the whole prompt, everything said before included');
  const sessions = new TraceSessions(tally);
  const bySession = new Map<string, TraceSession>();
  for await (const record of readCsvRecords(file)) {
    if (tally.numRows === maxRows) {
      tally.complete = false;
      break;
    }
    tally.numRows++;
    const seconds = Number(record.fields.Timestamp || Number.NaN);
    if (!Number.isFinite(seconds)) {
      const message = `${file}, line ${record.line}, Timestamp: expected seconds but received '${record.fields.Timestamp}'.`;
      throw new VllmPdError('BAD_FILE', message, { param: 'Timestamp' });
    }
    const numInputTokens = tokensIn(file, record, 'Request tokens');
    const numOutputTokens = tokensIn(file, record, 'Response tokens');
    // A request that failed has a response of 0 tokens.
    if (numInputTokens === 0 || numOutputTokens === 0) {
      tally.skip('rows without request or response tokens');
      continue;
    }
    const name = record.fields['Session ID'];
    const session = sessions.add(
      {
        id: name ? `session-${name}` : `line-${record.line}`,
        arrivalMs: seconds * 1000,
        delayMs: null,
        numInputTokens,
        numOutputTokens,
        blocks: null,
      },
      (name && bySession.get(name)) || null,
    );
    if (name) bySession.set(name, session);
  }
  if (tally.numRows > 0 && bySession.size === 0) {
    tally.hasSessions = false;
    tally.note(
      'there is no Session ID: every request is a conversation of one turn, and bi has nothing to reuse',
    );
  }
  yield* sessions.conversations();
}
