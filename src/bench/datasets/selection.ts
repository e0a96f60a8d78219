// Which conversations of a dataset are played, and how much smaller than they were.
import { z } from 'zod';
import { VllmPdError } from '../../errors.js';
import type { Conversation } from '../conversation.js';
import type { CountTokens } from '../prompt-text.js';
import { type Filetype, filetypes, Tally } from './dataset.js';
import { datasetReaders } from './filetypes.js';
import { TurnWriter } from './turn-writer.js';

const positiveInteger = z.number().int().positive();

/** The `dataset` object of a workload. */
export const datasetSchema = z.strictObject({
  /** Told from the file's contents if absent. */
  filetype: z.enum(filetypes).optional(),
  /** The first ones that qualify. */
  num_conversations: positiveInteger.default(20),
  /** User turns that a conversation has at least; 2 if absent, or 1 where the file has no sessions. */
  min_turns: positiveInteger.optional(),
  /** User turns that are played of each at most. */
  max_turns: positiveInteger.optional(),
  /** A conversation ends before the turn whose prompt would be longer. */
  max_prompt_tokens: positiveInteger.optional(),
  /** All lengths times this. */
  scale: z.number().positive().default(1),
  /** Rows of the file to look at. */
  max_rows: positiveInteger.default(200_000),
});

export type DatasetSelection = z.infer<typeof datasetSchema>;

export interface DatasetSource {
  readonly kind: 'dataset';
  readonly file: string;
  readonly filetype: Filetype;
  readonly selection: DatasetSelection;
}

/** What was read, chosen and left out; part of a kept run. */
export interface DatasetReport {
  readonly filetype: Filetype;
  readonly num_rows: number;
  /** False when the rest of the file was not looked at. */
  readonly complete: boolean;
  /** Conversations among the rows. */
  readonly num_conversations: number;
  readonly num_played_conversations: number;
  readonly scale: number;
  /** Plural with reason → count. */
  readonly skipped: Readonly<Record<string, number>>;
  readonly notes: readonly string[];
}

export interface ChosenConversations {
  readonly conversations: readonly Conversation[];
  readonly report: DatasetReport;
}

export interface ChoiceLimits {
  readonly seed: number;
  /** Tokens of an answer that the dataset does not give. */
  readonly defaultOutputTokens: number;
  /** Tokens of prompt and answer that the nodes have room for; null = not known. */
  readonly maxSequenceTokens: number | null;
}

/** Reads no further than needed. BAD_FILE when no conversation qualifies. */
export async function chooseConversations(
  { file, filetype, selection }: DatasetSource,
  { seed, defaultOutputTokens, maxSequenceTokens }: ChoiceLimits,
  count: CountTokens,
): Promise<ChosenConversations> {
  const { num_conversations: numWanted, max_turns: maxTurns = Number.POSITIVE_INFINITY, scale } = selection;
  const tally = new Tally();
  const writer = new TurnWriter(
    {
      seed,
      scale,
      maxTurns,
      maxPromptTokens: selection.max_prompt_tokens ?? Number.POSITIVE_INFINITY,
      maxSequenceTokens: maxSequenceTokens ?? Number.POSITIVE_INFINITY,
      defaultOutputTokens,
    },
    count,
  );
  const conversations: Conversation[] = [];
  let numFound = 0;
  for await (const candidate of datasetReaders[filetype](file, { maxRows: selection.max_rows, tally })) {
    numFound++;
    if (conversations.length === numWanted) {
      // A trace has been read to its end already, and knows how many there are; a file of texts is left here.
      if (candidate.turns[0]?.input.kind === 'tokens') continue;
      tally.complete = false;
      break;
    }
    const minTurns = selection.min_turns ?? (tally.hasSessions ? 2 : 1);
    if (candidate.turns.length < minTurns) {
      tally.skip(`conversations of fewer than ${minTurns} turns`);
      continue;
    }
    const turns = await writer.write(candidate, tally);
    if (turns.length >= Math.min(minTurns, maxTurns)) {
      conversations.push({ id: freeId(candidate.id, conversations), turns });
    } else {
      tally.skip('conversations whose first turns are too long');
    }
  }
  if (conversations.length === 0) throw nothingChosen(file, tally);
  const report: DatasetReport = {
    filetype,
    num_rows: tally.numRows,
    complete: tally.complete,
    num_conversations: numFound,
    num_played_conversations: conversations.length,
    scale,
    skipped: tally.skipped,
    notes: tally.notes,
  };
  return { conversations, report };
}

function freeId(id: string, taken: readonly Conversation[]): string {
  const isTaken = (name: string) => taken.some((conversation) => conversation.id === name);
  let name = id;
  for (let i = 2; isTaken(name); i++) name = `${id}/${i}`;
  return name;
}

function nothingChosen(file: string, tally: Tally): VllmPdError {
  const counts = Object.entries(tally.skipped).map(([what, count]) => `${count} ${what}`);
  const why = counts.length === 0 ? 'it has none' : `left out were ${counts.join(', ')}`;
  return new VllmPdError(
    'BAD_FILE',
    `Expected conversations to play in the ${tally.numRows} rows of ${file}, but ${why}.`,
    {
      suggestions: [
        '--min-turns 1 takes single turns, --scale 0.1 makes every length a tenth, --max-rows looks at more of the file.',
      ],
    },
  );
}
