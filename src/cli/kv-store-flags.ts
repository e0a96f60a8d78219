// Flags about blocks beyond the pool: where they go, how much of them, for how long.
import { boolean, option, string } from '@oclif/core/flags';
import type { InferredFlags } from '@oclif/core/interfaces';
import { evictionPolicyNames } from '../config.js';
import { defaults, given, type KvStoreOptions } from '../engine-options.js';
import { inHelpGroup, milliseconds, seconds, shown, size } from './flag-types.js';

const policy = (tier: string) =>
  option({
    options: evictionPolicyNames,
    description: `Which blocks leave a full ${tier} first. session: the tail of the conversation idle for longest.`,
    ...shown(defaults.kvStorePolicy),
  })();

export const kvStoreFlags = inHelpGroup('KV STORES', {
  'kv-store-memory': size({
    description: 'Host memory of each node for blocks that leave its pool, such as 512MiB.',
  }),
  'kv-store-dir': string({
    description:
      'Directory on the node’s disk for its blocks; each node of a cluster takes a folder of its own in it.',
    helpValue: 'DIR',
  }),
  'kv-store-dir-capacity': size({
    description: 'Most that --kv-store-dir may hold for one node; without limit if absent.',
  }),
  'kv-store-policy': policy('memory or directory of a node'),
  'kv-store-ttl': seconds({
    description:
      'Blocks in the memory or directory of a node are dropped this many seconds after they were written.',
  }),
  'kv-shared-store': string({
    description:
      'Store that all nodes reach: a directory on a shared file system, or redis://host:port. An address with a password ' +
      'is better given as VLLM_PD_KV_SHARED_STORE: command lines are no place for secrets.',
    helpValue: 'DIR|URL',
    env: 'VLLM_PD_KV_SHARED_STORE',
  }),
  'kv-shared-store-capacity': size({
    description: 'Most that the shared store may hold; without limit if absent.',
  }),
  'kv-shared-store-policy': policy('shared store'),
  'kv-shared-store-ttl': seconds({
    description: 'Blocks in the shared store are dropped this many seconds after they were written.',
  }),
  'hop-planner': boolean({
    description:
      'Read what the shared store has from there and never from a peer (on unless switched off, which shows what it saves).',
    allowNo: true,
  }),
});

/** Undefined when none of them was given. */
export function kvStoreOptions(
  flags: Partial<InferredFlags<typeof kvStoreFlags>>,
): KvStoreOptions | undefined {
  return unlessEmpty<KvStoreOptions>({
    memoryBytes: flags['kv-store-memory'],
    directory: flags['kv-store-dir'],
    shared: flags['kv-shared-store'],
    hopPlanner: flags['hop-planner'],
    dedicatedTier: unlessEmpty({
      capacityBytes: flags['kv-store-dir-capacity'],
      ttlMs: milliseconds(flags['kv-store-ttl']),
      policy: flags['kv-store-policy'],
    }),
    sharedTier: unlessEmpty({
      capacityBytes: flags['kv-shared-store-capacity'],
      ttlMs: milliseconds(flags['kv-shared-store-ttl']),
      policy: flags['kv-shared-store-policy'],
    }),
  });
}

/** As `given`; undefined when nothing was. */
function unlessEmpty<T extends object>(
  choices: { readonly [K in keyof T]: T[K] | undefined },
): T | undefined {
  const chosen = given<T>(choices);
  return Object.keys(chosen).length === 0 ? undefined : chosen;
}
