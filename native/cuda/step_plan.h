// One step as the kernels take it: requests of one token first, for decode attention, then the others cut into tiles;
// padded to fixed sizes where a graph is to be replayed.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/args.h"
#include "ops.h"

namespace vllm_pd::cuda {

struct StepPlan {
  std::vector<int32_t> token_ids;      // (num_tokens)
  std::vector<int32_t> positions;      // (num_tokens) -1: padding
  std::vector<int64_t> slot_mapping;   // (num_tokens) -1: padding
  std::vector<int32_t> cu_blocks;      // (num_requests + 1)
  std::vector<AttentionTile> tiles;    // longest contexts first
  std::vector<int32_t> logits_rows;    // (num_logits_rows) indices into token_ids
  std::vector<int32_t> block_tables;
  /** Requests, and tokens, at the beginning that decode attention serves. */
  int64_t num_decodes = 0;
  /** Of the longest of these, or more. */
  int64_t num_segments = 0;
  /** Above every position. */
  int64_t num_positions = 0;
  /** Logits are asked for every token, in order; tokens of padding may follow. */
  bool keeps_all_rows = false;

  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t num_logits_rows() const { return static_cast<int64_t>(logits_rows.size()); }
  /** Rows that are computed behind the last attention. */
  int64_t num_kept_rows() const { return keeps_all_rows ? num_tokens() : num_logits_rows(); }
  bool decodes_only() const { return tiles.empty(); }
};

/** Of a batch that has passed check_batch. */
StepPlan plan_step(const Batch& batch, const HeadsArgs& heads, int64_t block_size);

/**
 * A step of decodes only that asks for all logits, with tokens of padding up to the next power of two and segments
 * likewise, so that few sizes occur. `logits_rows` stays as it is: padding has no logits that anybody wants.
 */
void pad_for_graph(StepPlan& plan);

}  // namespace vllm_pd::cuda
