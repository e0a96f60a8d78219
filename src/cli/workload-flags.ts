// Flags that say what a benchmark plays: which workload, how much of it, how long its turns are.
import { integer, option, string } from '@oclif/core/flags';
import { factor, inHelpGroup, maxInt32, shown } from './flag-types.js';

const count = (description: string) => integer({ description, min: 1, max: 1_000_000 });

/** `defaultName` is played when the flag is not given. */
export function workloadFlag(defaultName: string) {
  return string({
    char: 'w',
    description:
      'A workload of this package by name, or a file: a workload, vLLM’s two formats, ShareGPT, chats with `messages`, MT-Bench, ' +
      'or a trace of Mooncake, Qwen-Bailian, Azure or BurstGPT.',
    default: defaultName,
    helpGroup: 'WORKLOAD',
  });
}

export const workloadFlags = inHelpGroup('WORKLOAD', {
  filetype: option({
    options: ['messages', 'sharegpt', 'mt-bench', 'mooncake', 'bailian', 'azure', 'burstgpt'] as const,
    description: 'What a dataset is taken for.',
    ...shown('told from its contents'),
  })(),
  'num-conversations': integer({
    description: 'Conversations; of a dataset the first ones that qualify.',
    min: 1,
    max: 1_000_000,
    ...shown('all, of a dataset 20'),
  }),
  'num-turns': count('User messages of each conversation; of a dataset at most.'),
  'min-turns': integer({
    description: 'Of a dataset: leave out conversations of fewer user messages.',
    min: 1,
    max: 10_000,
    ...shown('2, or 1 where the file names no sessions'),
  }),
  'max-prompt-tokens': count('Of a dataset: end a conversation before the turn whose prompt is longer.'),
  'max-rows': integer({
    description: 'Of a dataset: rows to look at.',
    min: 1,
    max: maxInt32,
    ...shown(200_000),
  }),
  scale: factor({ description: 'Of a dataset: all lengths times this.' }),
  'num-clients': count('Conversations whose turns are under way at the same time.'),
  'request-rate': factor({
    description: 'Open loop: turns a second, all conversations together, in a Poisson process.',
    helpValue: '2.5',
    exclusive: ['time-scale', 'num-clients'],
  }),
  burstiness: factor({
    description:
      'With --request-rate, the shape of the gamma distribution of gaps: less than 1 = bursts, more = even.',
    helpValue: '1',
  }),
  'time-scale': factor({
    description: 'Open loop: turns come at the times of the dataset, all gaps times this.',
    exclusive: ['num-clients'],
  }),
  'delay-ms': integer({
    description: 'Time between an answer and the next turn of its conversation.',
    min: 0,
    max: maxInt32,
    ...shown('0, or as the dataset has it'),
  }),
  'prompt-tokens': count('Tokens of every user message.'),
  'output-tokens': count('Tokens of every answer.'),
  'prefix-tokens': integer({
    description: 'Tokens before the first user message of each conversation.',
    min: 0,
    max: 1_000_000,
  }),
  seed: integer({ description: 'Seed of lengths and words.', min: 0, max: maxInt32 }),
  limit: count('Turns to play in each mode at most.'),
});

const names = Object.keys(workloadFlags) as (keyof typeof workloadFlags)[];

type Given = { readonly [Name in keyof typeof workloadFlags]?: string | number | undefined };

/** What was given, by its flag's name: part of a kept run. */
export function givenWorkloadFlags(flags: Given): Record<string, string | number> {
  return Object.fromEntries(
    names.flatMap((name) => (flags[name] === undefined ? [] : [[name, flags[name]]])),
  );
}
