// Verified block copies.
#include "transfer.h"

#include <cstring>

namespace vllm_pd {

std::vector<uint8_t> read_blocks(const KvRegion& remote, const KvRegion& local,
                                 const std::vector<int32_t>& remote_ids,
                                 const std::vector<int32_t>& local_ids, const std::vector<uint8_t>& hashes) {
  const size_t num_blocks = remote_ids.size();
  const size_t block_bytes = remote.layout.block_bytes();
  std::vector<uint8_t> valid(num_blocks, 0);
  std::vector<uint64_t> generations;
  for (size_t begin = 0; begin < num_blocks;) {
    // A run: valid blocks whose ids are adjacent on both sides, copied in one piece.
    generations.clear();
    size_t end = begin;
    while (end < num_blocks) {
      const int32_t distance = static_cast<int32_t>(end - begin);
      if (remote_ids[end] != remote_ids[begin] + distance || local_ids[end] != local_ids[begin] + distance)
        break;
      const uint64_t generation = remote.row(remote_ids[end]).begin_read(&hashes[end * kHashBytes]);
      if (generation == 0) break;
      generations.push_back(generation);
      ++end;
    }
    if (end == begin) {
      ++begin;
      continue;
    }
    std::memcpy(local.block(local_ids[begin]), remote.block(remote_ids[begin]), (end - begin) * block_bytes);
    for (size_t i = begin; i < end; ++i)
      valid[i] = remote.row(remote_ids[i]).end_read(generations[i - begin]);
    begin = end;
  }
  return valid;
}

void copy_out(const KvRegion& from, const std::vector<int32_t>& block_ids, const std::vector<uint8_t>& hashes,
              uint8_t* data, uint8_t* valid) {
  const size_t block_bytes = from.layout.block_bytes();
  for (size_t i = 0; i < block_ids.size(); ++i) {
    const KvRow& row = from.row(block_ids[i]);
    const uint64_t generation = row.begin_read(&hashes[i * kHashBytes]);
    if (generation != 0) std::memcpy(data + i * block_bytes, from.block(block_ids[i]), block_bytes);
    valid[i] = generation != 0 && row.end_read(generation);
    if (!valid[i]) std::memset(data + i * block_bytes, 0, block_bytes);
  }
}

void copy_in(const KvRegion& into, const std::vector<int32_t>& block_ids, const uint8_t* data) {
  const size_t block_bytes = into.layout.block_bytes();
  for (size_t i = 0; i < block_ids.size(); ++i) {
    std::memcpy(into.block(block_ids[i]), data + i * block_bytes, block_bytes);
  }
}

}  // namespace vllm_pd
