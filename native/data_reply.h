// One reply on a data connection, sent piece by piece by whoever has time for it.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "kv_cache.h"
#include "socket_io.h"

namespace vllm_pd {

/** What one reply carries. `hashes` has kHashBytes a block; ids lie in the pool. */
struct SendJob {
  uint32_t seq;
  std::vector<int32_t> block_ids;
  std::vector<uint8_t> hashes;
};

/** Its form is in data_channel.h. Stays where it is while it is sent. */
class DataReply {
 public:
  /** Looks at the blocks' rows. `num_bytes_sent` counts bytes of valid blocks, before the reader hears that they are. */
  DataReply(const KvRegion& region, SendJob job, std::atomic<uint64_t>& num_bytes_sent);
  DataReply(const DataReply&) = delete;
  DataReply& operator=(const DataReply&) = delete;

  /** True when all of it is sent; false when the socket takes no more for now, `wait` none. Throws PEER_FAILED. */
  bool send(const Socket& socket, Wait wait);

 private:
  void begin_piece();
  void end_piece();
  void begin_tail();

  const KvRegion& region_;
  const SendJob job_;
  std::atomic<uint64_t>& num_bytes_sent_;
  const size_t block_bytes_;
  std::vector<uint64_t> generations_;
  std::vector<uint8_t> offered_;
  std::vector<uint8_t> valid_;
  std::vector<uint32_t> crcs_;
  uint32_t head_[2];
  uint32_t head_sum_;
  uint32_t head_check_;
  uint32_t tail_check_ = 0;
  /** Blocks [piece_begin_, piece_end_) are what `scatter_` holds; the tail when there are no more. */
  size_t piece_begin_ = 0;
  size_t piece_end_ = 0;
  bool is_tail_ = false;
  Scatter scatter_;
  /** Brought from a device. */
  std::vector<uint8_t> staged_;
};

}  // namespace vllm_pd
