// Makes what a workload says, word for word.
import path from 'node:path';
import type { ChatMessage } from './client.js';
import type { Conversation, UserTurn } from './conversation.js';
import { type ChoiceLimits, chooseConversations, type DatasetReport } from './datasets/selection.js';
import { sample, sampleNumTurns } from './distribution.js';
import { type CountTokens, textOfTokens, wordSource } from './prompt-text.js';
import { Random } from './random.js';
import type { GenerateConversations, ListedConversation, Workload } from './workload.js';

export interface ConversationPlan {
  readonly id: string;
  /** Tokens before the first user message that no other conversation has. */
  readonly numPrefixTokens: number;
  readonly turns: readonly { readonly numInputTokens: number; readonly numOutputTokens: number }[];
}

/** Lengths of generated conversations: a pure function of config and seed. */
export function planConversations(config: GenerateConversations, seed: number): ConversationPlan[] {
  const { prompt_input: input, prompt_output: output } = config;
  return Array.from({ length: config.num_conversations }, (_, i) => {
    const random = new Random(seed, `lengths/${i}`);
    const numUserTurns = sampleNumTurns(input.num_turns, random) / 2;
    return {
      id: `CONV_ID_${i}`,
      numPrefixTokens: sample(input.prefix_num_tokens, random),
      turns: Array.from({ length: numUserTurns }, () => ({
        numInputTokens: Math.max(1, sample(input.num_tokens, random)),
        numOutputTokens: Math.max(1, sample(output.num_tokens, random)),
      })),
    };
  });
}

export interface CreatedConversations {
  readonly conversations: readonly Conversation[];
  /** Null unless they come from a dataset. */
  readonly dataset: DatasetReport | null;
}

/**
 * The conversations of a workload, word for word; the same for every mode that is measured. `maxSequenceTokens`: what a
 * dataset's conversations are cut at; null = nowhere.
 */
export async function createConversations(
  workload: Workload,
  count: CountTokens,
  maxSequenceTokens: number | null = null,
): Promise<CreatedConversations> {
  const { source, seed, sampling } = workload;
  if (source.kind === 'dataset') {
    const limits: ChoiceLimits = { seed, defaultOutputTokens: sampling.max_tokens, maxSequenceTokens };
    const { conversations, report } = await chooseConversations(source, limits, count);
    return { conversations: withDelays(conversations, workload), dataset: report };
  }
  const conversations =
    source.kind === 'listed'
      ? await Promise.all(source.conversations.map((listed) => fromList(listed, sampling.max_tokens, count)))
      : await generate(source.config, workload, count);
  return { conversations: withDelays(conversations, workload), dataset: null };
}

/** Time to think before each turn but the first, where the conversations bring none. */
function withDelays(
  conversations: readonly Conversation[],
  { delayMs, seed }: Workload,
): readonly Conversation[] {
  if (delayMs === null) return conversations;
  return conversations.map(({ id, turns }) => {
    const random = new Random(seed, `delay/${id}`);
    return {
      id,
      turns: turns.map((turn) => ({ ...turn, delayMs: turn.delayMs ?? sample(delayMs, random) })),
    };
  });
}

async function generate(
  config: GenerateConversations,
  { file, seed }: Workload,
  count: CountTokens,
): Promise<Conversation[]> {
  const textFiles = config.text_files.map((name) => path.resolve(path.dirname(file), name));
  const words = (label: string) => wordSource(textFiles, new Random(seed, label));
  const commonPrefix = await commonPrefixOf(config, seed, words('common-prefix'), count);
  const conversations: Conversation[] = [];
  // One after the other: a burst of requests would only queue up in the server.
  for (const plan of planConversations(config, seed)) {
    const nextWord = words(`text/${plan.id}`);
    const turns: UserTurn[] = [];
    for (const [i, { numInputTokens, numOutputTokens }] of plan.turns.entries()) {
      const numTokens = i === 0 ? plan.numPrefixTokens + numInputTokens : numInputTokens;
      const text = await textOfTokens(numTokens, nextWord, count);
      turns.push({ messages: asUser(i === 0 ? commonPrefix + text : text), numOutputTokens });
    }
    conversations.push({ id: plan.id, turns });
  }
  return conversations;
}

function asUser(content: string): readonly ChatMessage[] {
  return [{ role: 'user', content }];
}

async function commonPrefixOf(
  config: GenerateConversations,
  seed: number,
  nextWord: () => string,
  count: CountTokens,
): Promise<string> {
  const distribution = config.prompt_input.common_prefix_num_tokens;
  if (!distribution) return '';
  return textOfTokens(sample(distribution, new Random(seed, 'common-prefix-length')), nextWord, count);
}

async function fromList(
  listed: ListedConversation,
  defaultMaxTokens: number,
  count: CountTokens,
): Promise<Conversation> {
  const turns: UserTurn[] = [];
  for (let i = 0; i < listed.messages.length; i += 2) {
    const answer = listed.messages[i + 1]?.content;
    turns.push({
      messages: asUser(listed.messages[i]!.content),
      numOutputTokens: answer === undefined ? defaultMaxTokens : Math.max(1, await count(answer)),
    });
  }
  return { id: listed.id, turns };
}
