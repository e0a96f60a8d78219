// Verified block copies: one-sided reads from a peer's pool, and copies in and out for peers that cannot map
// it.
#pragma once

#include <cstdint>
#include <vector>

#include "kv_cache.h"
#include "threads.h"

namespace vllm_pd {

/**
 * Copies remote block i into local block i, for all i, on all of `threads`: runs of ids that are adjacent on both sides
 * in one piece, past the caches when they could not keep it. `hashes` has kHashBytes a block. Returns one byte a
 * block: 1 where the remote row said `hashes[i]` before and after the copy; where it is 0 the local bytes are
 * undefined. Between devices the copy runs on the reader's, between a device and a host through pinned memory.
 */
std::vector<uint8_t> read_blocks(ThreadPool& threads, const KvRegion& remote, const KvRegion& local,
                                 const std::vector<int32_t>& remote_ids,
                                 const std::vector<int32_t>& local_ids, const std::vector<uint8_t>& hashes);

/** The same from a pool into `data`, (num_ids, block_bytes); blocks that are not valid come out as zeros. */
void copy_out(const KvRegion& from, const std::vector<int32_t>& block_ids, const std::vector<uint8_t>& hashes,
              uint8_t* data, uint8_t* valid);

/** Copies `data`, (num_ids, block_bytes), into the blocks. */
void copy_in(const KvRegion& into, const std::vector<int32_t>& block_ids, const uint8_t* data);

}  // namespace vllm_pd
