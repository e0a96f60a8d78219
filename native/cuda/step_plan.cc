// Orders, flattens and cuts a step.
#include "cuda/step_plan.h"

#include <algorithm>
#include <numeric>

#include "cuda/launch.h"

namespace vllm_pd::cuda {
namespace {

int64_t next_power_of_two(int64_t value) {
  int64_t power = 1;
  while (power < value) power *= 2;
  return power;
}

int32_t tokens_of(const Batch& batch, int32_t request) {
  return batch.cu_seqlens_q[request + 1] - batch.cu_seqlens_q[request];
}

/** Requests in the order of the plan. */
std::vector<int32_t> ordered(const Batch& batch) {
  std::vector<int32_t> order(batch.num_requests());
  std::iota(order.begin(), order.end(), 0);
  std::stable_partition(order.begin(), order.end(),
                        [&](int32_t request) { return tokens_of(batch, request) == 1; });
  return order;
}

void cut_into_tiles(StepPlan& plan, int32_t request, int32_t first, int32_t num_tokens, int32_t tile_tokens) {
  for (int32_t done = 0; done < num_tokens; done += tile_tokens)
    plan.tiles.push_back({request, first + done, std::min(tile_tokens, num_tokens - done)});
}

bool is_every_row(const std::vector<int32_t>& rows, int64_t num_tokens) {
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[i] != static_cast<int32_t>(i)) return false;
  return static_cast<int64_t>(rows.size()) == num_tokens;
}

}  // namespace

StepPlan plan_step(const Batch& batch, const HeadsArgs& heads, int64_t block_size) {
  StepPlan plan;
  std::vector<int32_t> moved_to(batch.num_tokens());
  const auto tile_tokens = static_cast<int32_t>(tokens_per_tile(heads));
  plan.cu_blocks.push_back(0);
  int32_t planned = 0;
  for (const int32_t request : ordered(batch)) {
    const int32_t* const table = batch.block_tables.data() + batch.cu_blocks[request];
    plan.block_tables.insert(plan.block_tables.end(), table,
                             batch.block_tables.data() + batch.cu_blocks[request + 1]);
    plan.cu_blocks.push_back(static_cast<int32_t>(plan.block_tables.size()));
    const auto first = static_cast<int32_t>(plan.num_tokens());
    for (int32_t token = batch.cu_seqlens_q[request]; token < batch.cu_seqlens_q[request + 1]; ++token) {
      const int32_t position = batch.positions[token];
      moved_to[token] = static_cast<int32_t>(plan.num_tokens());
      plan.token_ids.push_back(batch.token_ids[token]);
      plan.positions.push_back(position);
      plan.slot_mapping.push_back(table[position / block_size] * block_size + position % block_size);
      plan.num_positions = std::max<int64_t>(plan.num_positions, position + 1);
    }
    const int32_t num_tokens = tokens_of(batch, request);
    if (num_tokens == 1) {
      plan.num_decodes += 1;
      plan.num_segments = std::max(plan.num_segments, num_segments(plan.positions[first] + 1));
    } else {
      cut_into_tiles(plan, planned, first, num_tokens, tile_tokens);
    }
    planned += 1;
  }
  std::stable_sort(plan.tiles.begin(), plan.tiles.end(), [&](const AttentionTile& a, const AttentionTile& b) {
    return plan.positions[a.token] > plan.positions[b.token];
  });
  for (const int32_t token : batch.logits_indices) plan.logits_rows.push_back(moved_to[token]);
  plan.keeps_all_rows = is_every_row(plan.logits_rows, plan.num_tokens());
  return plan;
}

void pad_for_graph(StepPlan& plan) {
  const int64_t padded = next_power_of_two(plan.num_decodes);
  plan.num_segments = next_power_of_two(plan.num_segments);
  for (; plan.num_decodes < padded; ++plan.num_decodes) {
    plan.token_ids.push_back(0);
    plan.positions.push_back(-1);
    plan.slot_mapping.push_back(-1);
    plan.cu_blocks.push_back(plan.cu_blocks.back());
  }
}

}  // namespace vllm_pd::cuda
