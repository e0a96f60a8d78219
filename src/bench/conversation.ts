// What is going to be said: the user's side of every conversation and how long each answer is to be.
import path from 'node:path';
import { sample, sampleNumTurns } from './distribution.js';
import { type CountTokens, textOfTokens, wordSource } from './prompt-text.js';
import { Random } from './random.js';
import type { GenerateConversations, ListedConversation, Workload } from './workload.js';

export interface UserTurn {
  readonly content: string;
  /** Tokens that the answer is to have. */
  readonly numOutputTokens: number;
}

export interface Conversation {
  readonly id: string;
  readonly turns: readonly UserTurn[];
}

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

/** The conversations of a workload, word for word; the same for every mode that is measured. */
export async function createConversations(workload: Workload, count: CountTokens): Promise<Conversation[]> {
  const { source, seed } = workload;
  if (source.kind === 'listed') {
    return Promise.all(
      source.conversations.map((listed) => fromList(listed, workload.sampling.max_tokens, count)),
    );
  }
  const textFiles = source.config.text_files.map((file) => path.resolve(path.dirname(workload.file), file));
  const words = (label: string) => wordSource(textFiles, new Random(seed, label));
  const commonPrefix = await commonPrefixOf(source.config, seed, words('common-prefix'), count);
  const conversations: Conversation[] = [];
  // One after the other: a burst of requests would only queue up in the server.
  for (const plan of planConversations(source.config, seed)) {
    const nextWord = words(`text/${plan.id}`);
    const turns: UserTurn[] = [];
    for (const [i, { numInputTokens, numOutputTokens }] of plan.turns.entries()) {
      const numTokens = i === 0 ? plan.numPrefixTokens + numInputTokens : numInputTokens;
      const text = await textOfTokens(numTokens, nextWord, count);
      turns.push({ content: i === 0 ? commonPrefix + text : text, numOutputTokens });
    }
    conversations.push({ id: plan.id, turns });
  }
  return conversations;
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
      content: listed.messages[i]!.content,
      numOutputTokens: answer === undefined ? defaultMaxTokens : Math.max(1, await count(answer)),
    });
  }
  return { id: listed.id, turns };
}
