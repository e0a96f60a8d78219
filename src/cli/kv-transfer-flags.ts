// Flags about KV that moves between nodes: which way, who says what there is, when it is worth it.
import { boolean, option } from '@oclif/core/flags';
import { defaults } from '../engine-options.js';
import { inHelpGroup, seconds, shown, tokensOrAuto } from './flag-types.js';

export const kvTransferFlags = inHelpGroup('KV TRANSFER', {
  'kv-transfer': option({
    options: ['uni', 'bi'] as const,
    description: 'uni: KV moves P→D only. bi: P also pulls from D what D already holds.',
    ...shown(defaults.kvTransferMode),
  })(),
  'kv-lookup': option({
    options: ['query', 'ticket'] as const,
    description: "How P learns what D holds: a cache query each turn, or vLLM's ticket of the turn before.",
    ...shown(defaults.kvLookup),
  })(),
  'reuse-token-ids': boolean({
    description:
      'Encode an answer that comes back in a chat as the token ids that were generated, where its text is unchanged, ' +
      'so that its KV is found even if the tokenizer would split it otherwise.',
  }),
  'first-token': option({
    options: ['prefill', 'decode'] as const,
    description: "Whose first token clients get: P's at once, or D's behind the hand-over of the KV.",
    ...shown(defaults.firstToken),
  })(),
  'kv-recompute-threshold': tokensOrAuto({
    description:
      'Fewer tokens than this are computed by P instead of pulled from D or read from a store. auto: whatever was ' +
      'measured to cost less.',
    ...shown(defaults.kvRecomputeThreshold),
  }),
  'kv-lease-duration': seconds({
    description: 'How long blocks are held for a peer that was told about them, in seconds.',
    ...shown(defaults.kvLeaseDurationMs / 1000),
  }),
  'decoder-kv-blocks-ttl': seconds({
    description: "How long D holds a finished turn's blocks in ticket mode, in seconds.",
    ...shown(defaults.decoderKvBlocksTtlMs / 1000),
  }),
  'kv-read-timeout': seconds({
    description:
      'A read from a peer or a store is given up after so many seconds, and its tokens are computed.',
    ...shown(defaults.kvReadTimeoutMs / 1000),
  }),
  'kv-peer-timeout': seconds({
    description: 'How long a peer may take to let this node in, or to confirm a notification, in seconds.',
    ...shown(defaults.kvPeerTimeoutMs / 1000),
  }),
  'kv-agent': option({
    options: ['auto', 'shm', 'tcp'] as const,
    description: "How a peer's blocks are read: shared memory on one host, TCP otherwise.",
    ...shown(defaults.agent),
  })(),
  'kv-load-failure-policy': option({
    options: ['recompute', 'fail'] as const,
    description: 'What becomes of a request whose blocks did not arrive.',
    ...shown(defaults.kvLoadFailurePolicy),
  })(),
});
