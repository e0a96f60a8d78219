// The eviction policies by their names.
import type { EvictionPolicyName } from '../config.js';
import type { EvictionPolicy } from './eviction-policy.js';
import { FrequencyPolicy } from './frequency-policy.js';
import { QueuePolicy } from './queue-policy.js';
import { SessionPolicy } from './session-policy.js';

const policies: Readonly<Record<EvictionPolicyName, () => EvictionPolicy>> = {
  lru: () => new QueuePolicy({ renew: true }),
  fifo: () => new QueuePolicy({ renew: false }),
  lfu: () => new FrequencyPolicy(),
  session: () => new SessionPolicy(),
};

export function createEvictionPolicy(name: EvictionPolicyName): EvictionPolicy {
  return policies[name]();
}
