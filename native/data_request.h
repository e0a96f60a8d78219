// Reads as a reader asks for them on its first data connection: side channel frames (src/kv-transfer/frames.ts) of type
// `read`, each with a seal (frame-seal.ts) under a key of their own.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kv_cache.h"
#include "socket_io.h"

namespace vllm_pd {

constexpr size_t kSealKeyBytes = 32;
using SealKey = std::array<uint8_t, kSealKeyBytes>;

struct ReadRequest {
  uint32_t seq;
  /** Over how many connections the reply is spread. */
  uint32_t num_lanes;
  /** The hold that the blocks are under. */
  std::string hold_id;
  std::vector<int32_t> block_ids;
  std::vector<uint8_t> hashes;
};

/** Takes one connection's requests. */
class RequestReader {
 public:
  RequestReader(const SealKey& key, const KvLayout& layout);

  /**
   * Waits for the next request as long as it takes, and for the rest of one that has begun as long as the socket does. Its
   * block ids lie in the pool. Throws PEER_FAILED when the connection ends, and for anything else than the next request as
   * the reader sent it.
   */
  ReadRequest next(const Socket& socket);

 private:
  const SealKey key_;
  const size_t num_blocks_;
  const size_t max_blocks_;
  uint64_t num_frames_ = 0;
};

}  // namespace vllm_pd
