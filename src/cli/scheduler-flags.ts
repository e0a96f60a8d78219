// Flags about the scheduler: how much goes into one step, how much may wait, who goes first.
import { option } from '@oclif/core/flags';
import { defaults } from '../engine-options.js';
import { count, inHelpGroup, shown } from './flag-types.js';

export const schedulerFlags = inHelpGroup('SCHEDULER', {
  'max-num-seqs': count('Requests in one step.', defaults.maxNumSeqs, 1, 65_536),
  'max-num-batched-tokens': count('Token budget of one step.', defaults.maxNumBatchedTokens),
  'max-waiting': count(
    'Requests that may wait on one node, or on a proxy alone for their answer to begin; more are answered with 429.',
    defaults.maxWaiting,
  ),
  'scheduling-policy': option({
    options: ['fcfs', 'priority'] as const,
    description: 'Who goes first: who came first, or whose `priority` is lower.',
    ...shown(defaults.schedulingPolicy),
  })(),
});
