// Reads as a reader asks for them on its first data connection: side channel frames (src/kv-transfer/frames.ts) of type
// `read`, each with a seal (frame-seal.ts) under a key of their own. The body of one:
//
//   | seq | n | length of the hold's id | number of connections: uint32, big endian | n block ids | n hashes | hold's id |
//
// Block ids are uint32, big endian, hashes have kHashBytes, the id is UTF-8.
#pragma once

#include <string.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kv_cache.h"
#include "socket_io.h"

namespace vllm_pd {

constexpr size_t kSealKeyBytes = 32;

/** Leaves nothing of itself behind. */
struct SealKey : std::array<uint8_t, kSealKeyBytes> {
  SealKey() = default;
  SealKey(const SealKey&) = default;
  SealKey& operator=(const SealKey&) = default;
  ~SealKey() { explicit_bzero(data(), size()); }
};

struct ReadRequest {
  uint32_t seq;
  /** Over how many connections the reply is spread. */
  uint32_t num_lanes;
  /** The hold that the blocks are under. */
  std::string hold_id;
  std::vector<int32_t> block_ids;
  std::vector<uint8_t> hashes;
};

/** Makes one connection's requests. */
class RequestWriter {
 public:
  explicit RequestWriter(const SealKey& key) : key_(key) {}

  /** The frame of the next one. */
  std::vector<uint8_t> next(const ReadRequest& request);

 private:
  const SealKey key_;
  uint64_t num_frames_ = 0;
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
