// In C++: blocks that changed, were damaged or were never what was asked for; who may map a pool. Each needs the addon built anew.
import type { Defence } from '../defence.js';

const agents = ['test/kv-transfer/agents.test.ts'];

export const nativeDefences: readonly Defence[] = [
  {
    against: 'a stale block id, whose block holds other tokens by now',
    file: 'native/kv_cache.cc',
    text: 'before % 2 != 0 || std::memcmp(hash, expected, kHashBytes) != 0',
    instead: 'before % 2 != 0',
    tests: agents,
  },
  {
    against: 'a block that is being written',
    file: 'native/kv_cache.cc',
    text: 'before % 2 != 0 || std::memcmp(hash, expected, kHashBytes) != 0',
    instead: 'std::memcmp(hash, expected, kHashBytes) != 0',
    tests: ['test/native/peer-pool.test.ts', 'test/native/kv-pool.test.ts', ...agents],
  },
  {
    against: 'a block that changes while it is copied',
    file: 'native/kv_cache.cc',
    text: 'return generation.load(std::memory_order_relaxed) == before;',
    instead: 'return before != 0;',
    tests: ['test/kv-transfer/side-channel.test.ts', 'test/native/peer-pool.test.ts'],
  },
  {
    against: 'bits that flip on a data connection',
    file: 'native/data_lanes.cc',
    text: 'ntohl(sent_crcs[i]) == crcs[i] ? kIntact : kDamaged',
    instead: 'kIntact',
    tests: ['test/kv-transfer/side-channel.test.ts'],
  },
  {
    against: 'a block that passes for another one',
    file: 'native/data_lanes.cc',
    text: 'crcs[i] = begin_block_crc(&hashes[i * kHashBytes]);',
    instead: 'crcs[i] = begin_block_crc(hashes.data());',
    tests: ['test/kv-transfer/side-channel.test.ts', ...agents],
  },
  {
    against: 'a stranger on a data connection',
    file: 'native/data_server.cc',
    text: 'if (same_secret(candidate->secret, stranger.greeting.data())) session = candidate;',
    instead: 'session = candidate;',
    tests: ['test/kv-transfer/side-channel.test.ts'],
  },
  {
    against: 'a reply to another read',
    file: 'native/data_lanes.cc',
    text: 'if (ntohl(head[0]) != seq)',
    instead: 'if (seq == 0)',
    tests: ['test/kv-transfer/side-channel.test.ts'],
  },
  {
    against: 'a reply with more blocks than were asked for',
    file: 'native/data_lanes.cc',
    text: 'if (ntohl(head[1]) != num_blocks)',
    instead: 'if (num_blocks == 0)',
    tests: ['test/kv-transfer/side-channel.test.ts'],
  },
  {
    against: "another user's process that maps a pool",
    file: 'native/kv_cache.cc',
    text: 'fchmod(memfd.fd, S_IRUSR | S_IWUSR) != 0 || ',
    instead: '',
    tests: ['test/native/pool-access.test.ts'],
  },
  {
    against: 'a peer that shrinks its pool under its readers',
    file: 'native/kv_cache.cc',
    text: '(seals & F_SEAL_SHRINK) == 0 || ',
    instead: '',
    tests: ['test/native/peer-pool.test.ts', 'test/native/fuzz.test.ts'],
  },
  {
    against: 'a descriptor that is no KV pool',
    file: 'native/kv_cache.cc',
    text: 'std::string(target).rfind("/memfd:" + std::string(kMemfdName), 0) != 0',
    instead: 'target[0] == 0',
    tests: ['test/native/peer-pool.test.ts'],
  },
  {
    against: 'a pool of another shape than was agreed on',
    file: 'native/kv_cache.cc',
    text: 'header.layout != layout || status.st_size != region_bytes(layout, header.place)',
    instead: 'status.st_size < kPageBytes',
    tests: ['test/native/peer-pool.test.ts'],
  },
];
