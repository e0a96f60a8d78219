// Flags about a node's KV pool: its size, what it is kept as, what is cached in it.
import { boolean, option } from '@oclif/core/flags';
import { kvCacheDtypeChoices } from '../config.js';
import { defaults } from '../engine-options.js';
import { count, inHelpGroup, share, shown, text } from './flag-types.js';
import { kvEventsFlag } from './kv-events-config.js';

export const cacheFlags = inHelpGroup('CACHE', {
  'block-size': count('Tokens per KV block.', defaults.blockSize, 1, 1024),
  'num-blocks': count('KV blocks of one node, the null block included.', defaults.numBlocks, 2, 2 ** 24),
  'gpu-memory-utilization': share({
    description:
      "The share of a GPU's memory that one node may fill; sizes its pool unless --num-blocks does.",
    ...shown(defaults.gpuMemoryUtilization),
  }),
  'kv-cache-dtype': option({
    options: kvCacheDtypeChoices,
    description:
      'What K and V are kept as; auto: bfloat16 where the chip has it, else float32; on a GPU as weights.',
    ...shown(defaults.kvCacheDtype),
  })(),
  'enable-prefix-caching': boolean({
    description: 'Keep KV of finished requests for prompts that begin alike (on unless switched off).',
    allowNo: true,
  }),
  'prefix-caching-hash-seed': text(
    'Seed of the block hashes; the same on all nodes that exchange KV.',
    defaults.hashSeed,
  ),
  'kv-events-config': kvEventsFlag(),
});
