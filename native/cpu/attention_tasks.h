// Splits one call of attention over threads: tiles of queries, and long contexts of few queries once more by
// keys.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/op_threads.h"
#include "ops.h"

namespace vllm_pd::cpu {

/** What is asked for: as Ops::paged_attention takes it. */
struct AttentionStep {
  const float* qkv;
  const AttentionShape& shape;
  const Batch& batch;
  const KvRegion& pool;
  int64_t layer;
  float* out;
};

class AttentionTasks {
 public:
  AttentionTasks(const Kernels& kernels, OpThreads& threads) : kernels_(kernels), threads_(threads) {}

  void run(const AttentionStep& step);

 private:
  /** Tokens of one request, for some KV heads. */
  struct Tile {
    int64_t request;
    int64_t token;
    int64_t num_tokens;
    int64_t kv_head;
    int64_t num_kv_heads;
    KeyRange spans = {0, 0};
    int64_t first_state = 0;  // where its spans' states begin, in floats of states_
  };

  /** What one thread takes at a time: one span of a tile, or (span -1) all of it. */
  struct Piece {
    int64_t tile;
    int64_t span;
  };

  int64_t heads_a_tile(const AttentionStep& step) const;
  void cut_tiles(const AttentionStep& step);
  void cut_spans(const AttentionStep& step);
  AttentionArgs args_of(const AttentionStep& step, const Tile& tile, int thread);

  const Kernels& kernels_;
  OpThreads& threads_;
  // Of one call; kept for the memory.
  std::vector<Tile> tiles_;
  std::vector<Piece> pieces_;
  std::vector<float> states_;
  std::unique_ptr<std::atomic<int64_t>[]> spans_done_;
};

}  // namespace vllm_pd::cpu
