// Mooncake's traces: lengths and prefix-chained block hashes of each prompt, without sessions; who follows whom is inferred.
import { z } from 'zod';
import type { DatasetConversation, ReadOptions } from './dataset.js';
import { readJsonRecords } from './json-records.js';
import { checkRecord } from './record-check.js';
import { type TraceSession, TraceSessions } from './trace-sessions.js';

/** Tokens of the published traces' blocks. */
const blockSize = 512;

const tokens = z.number().int().min(0);

/** With the fields that AIPerf and Dynamo add; those they rename are read under either name. */
const recordSchema = z
  .looseObject({
    timestamp: z.number().min(0).optional(),
    created_time: z.number().min(0).optional(),
    input_length: tokens.optional(),
    input_tokens: tokens.optional(),
    output_length: tokens.optional(),
    output_tokens: tokens.optional(),
    hash_ids: z.array(z.number()).default([]),
    session_id: z.union([z.string(), z.number()]).optional(),
    delay: z.number().min(0).optional(),
    delay_ms: z.number().min(0).optional(),
  })
  .transform((row, context) => {
    const numInputTokens = row.input_length ?? row.input_tokens;
    const numOutputTokens = row.output_length ?? row.output_tokens;
    if (numInputTokens === undefined || numOutputTokens === undefined) {
      const field = numInputTokens === undefined ? 'input_length' : 'output_length';
      context.addIssue({ code: 'custom', path: [field], message: 'expected a number of tokens' });
      return z.NEVER;
    }
    if (row.hash_ids.length > 0 && row.hash_ids.length !== Math.ceil(numInputTokens / blockSize)) {
      const message = `expected one id for each ${blockSize} tokens of input_length ${numInputTokens}, but received ${row.hash_ids.length}`;
      context.addIssue({ code: 'custom', path: ['hash_ids'], message });
      return z.NEVER;
    }
    return { ...row, numInputTokens, numOutputTokens };
  });

type Row = z.infer<typeof recordSchema>;

/**
 * A row is the next turn of the session whose latest prompt's full blocks it begins with. Blocks that another session
 * had first, such as a system prompt that all share, prove nothing.
 */
class Links {
  /** By the last full block of each session's latest prompt. */
  readonly #byLastBlock = new Map<number, TraceSession>();
  readonly #firstOwners = new Map<number, TraceSession>();
  readonly #bySessionId = new Map<string, TraceSession>();

  before({ session_id: id, hash_ids: hashIds }: Row): TraceSession | null {
    if (id !== undefined) return this.#bySessionId.get(String(id)) ?? null;
    const found = hashIds.findLast((hash) => this.#byLastBlock.has(hash));
    return found === undefined ? null : this.#byLastBlock.get(found)!;
  }

  add({ session_id: id, hash_ids: hashIds, numInputTokens }: Row, session: TraceSession): void {
    if (id !== undefined) this.#bySessionId.set(String(id), session);
    const full = hashIds.slice(0, Math.floor(numInputTokens / blockSize));
    // What began with the prompt before is this turn, no other one's.
    const replaced = hashIds.findLast((hash) => this.#byLastBlock.get(hash) === session);
    if (replaced !== undefined) this.#byLastBlock.delete(replaced);
    for (const hash of full) if (!this.#firstOwners.has(hash)) this.#firstOwners.set(hash, session);
    const last = full.at(-1);
    if (last !== undefined && this.#firstOwners.get(last) === session) this.#byLastBlock.set(last, session);
  }
}

export async function* readMooncake(
  file: string,
  { maxRows, tally }: ReadOptions,
): AsyncGenerator<DatasetConversation> {
  tally.note(
    'turns are inferred: a row is the next turn of the one whose blocks it extends; a turn adds input − previous input − previous output tokens',
  );
  const sessions = new TraceSessions(tally);
  const links = new Links();
  for await (const record of readJsonRecords(file)) {
    if (tally.numRows === maxRows) {
      tally.complete = false;
      break;
    }
    tally.numRows++;
    const row = checkRecord(recordSchema, record, file);
    const { session_id: id, hash_ids: ids, numInputTokens, numOutputTokens } = row;
    const session = sessions.add(
      {
        id: id === undefined ? `line-${record.line}` : String(id),
        arrivalMs: row.timestamp ?? row.created_time ?? null,
        delayMs: row.delay_ms ?? row.delay ?? null,
        numInputTokens,
        numOutputTokens,
        blocks: ids.length === 0 ? null : { ids, blockSize },
      },
      links.before(row),
    );
    links.add(row, session);
  }
  yield* sessions.conversations();
}
