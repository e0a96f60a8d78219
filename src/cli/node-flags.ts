// Flags about several nodes of a role: how many, and which of them plays a turn.
import { integer, option } from '@oclif/core/flags';
import { routingPolicies } from '../config.js';
import { defaults } from '../engine-options.js';
import { inHelpGroup, shown } from './flag-types.js';

const numNodes = (description: string) => integer({ description, min: 1, max: 64, ...shown(1) });

const routing = (role: 'prefill' | 'decode') =>
  option({
    options: routingPolicies,
    description:
      `Which of several ${role} nodes plays a turn: where its conversation was (session), who holds most of its ` +
      'prompt (prefix), who has least to do (least-loaded), or each in its turn (round-robin).',
    ...shown(defaults.routing),
  })();

export const nodeCountFlags = {
  prefill: numNodes('Prefill nodes to start.'),
  decode: numNodes('Decode nodes to start.'),
};

export const routingFlags = inHelpGroup('PROXY', {
  'prefill-routing': routing('prefill'),
  'decode-routing': routing('decode'),
});
