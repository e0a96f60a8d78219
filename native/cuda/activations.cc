// Memory of steps.
#include "cuda/activations.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "cuda/launch.h"

namespace vllm_pd::cuda {
namespace {

constexpr int64_t kAlignment = 16;

int64_t aligned(int64_t num_bytes) { return (num_bytes + kAlignment - 1) / kAlignment * kAlignment; }

template <typename T>
int64_t bytes_of(const std::vector<T>& values) {
  return static_cast<int64_t>(values.size() * sizeof(T));
}

}  // namespace

Activations::Activations(std::shared_ptr<Device> device, const ModelConfig& config, const HeadsArgs& heads)
    : device_(std::move(device)), config_(config), heads_(heads) {}

bool Activations::grow(DeviceMemory& memory, int64_t num_bytes) {
  if (memory.num_bytes() >= num_bytes) return false;
  // Freed first: both may not fit.
  memory = DeviceMemory();
  memory = DeviceMemory(device_, num_bytes);
  return true;
}

bool Activations::reserve(const StepSizes& sizes) {
  const AttentionShape& shape = config_.attention;
  const int64_t hidden = config_.hidden_size;
  // An index may be asked for twice, so that there are more logits than tokens.
  const int64_t rows = std::max(sizes.num_tokens, sizes.num_logits_rows);
  const int64_t partials = sizes.num_decodes * shape.num_heads * sizes.num_segments;
  const int64_t logits_bytes = sizes.num_logits_rows * config_.vocab_size * 4;
  const std::pair<DeviceMemory*, int64_t> wanted[] = {
      {&x, rows * hidden * 4},
      {&kept_x, sizes.num_logits_rows * hidden * 4},
      {&normed, rows * hidden * 2},
      {&qkv, rows * shape.qkv_dim() * 2},
      {&attended, rows * shape.q_dim() * 2},
      {&kept_attended, sizes.num_logits_rows * shape.q_dim() * 2},
      {&delta, rows * hidden * 2},
      {&gate_up, rows * 2 * config_.intermediate_size * 2},
      {&gated, rows * config_.intermediate_size * 2},
      {&running, prefill_scratch_floats(heads_, sizes.num_tiles) * 4},
      {&partial_out, partials * shape.head_dim * 4},
      {&partial_max, partials * 4},
      {&partial_sum, partials * 4},
      {&logits, logits_bytes},
  };
  bool moved = false;
  for (const auto& [memory, num_bytes] : wanted) moved |= grow(*memory, num_bytes);
  if (!host_logits || host_logits->num_bytes() < logits_bytes)
    host_logits = std::make_unique<PinnedMemory>(device_, logits_bytes);
  return moved;
}

InputPointers StepInputs::upload(const StepPlan& plan, const Stream& stream, bool& moved) {
  // A captured step finds everything that it reads at the places of its capture: what varies in length among steps of
  // the same sizes comes last, and what a captured step does not read behind that.
  const std::pair<const void*, int64_t> parts[] = {
      {plan.token_ids.data(), bytes_of(plan.token_ids)},
      {plan.positions.data(), bytes_of(plan.positions)},
      {plan.slot_mapping.data(), bytes_of(plan.slot_mapping)},
      {plan.cu_blocks.data(), bytes_of(plan.cu_blocks)},
      {plan.tiles.data(), bytes_of(plan.tiles)},
      {plan.block_tables.data(), bytes_of(plan.block_tables)},
      {plan.logits_rows.data(), bytes_of(plan.logits_rows)},
  };
  constexpr size_t kParts = sizeof parts / sizeof *parts;
  int64_t offsets[kParts];
  int64_t num_bytes = 0;
  for (size_t i = 0; i < kParts; ++i) {
    offsets[i] = num_bytes;
    num_bytes += aligned(parts[i].second);
  }
  if (memory_.num_bytes() < num_bytes) {
    const int64_t room = std::max<int64_t>(1 << 20, 2 * num_bytes);
    memory_ = DeviceMemory();
    memory_ = DeviceMemory(device_, room);
    pinned_ = std::make_unique<PinnedMemory>(device_, room);
    moved = true;
  }
  for (size_t i = 0; i < kParts; ++i)
    if (parts[i].second > 0) std::memcpy(pinned_->data() + offsets[i], parts[i].first, parts[i].second);
  stream.to_device(memory_.address(), pinned_->data(), num_bytes);
  const auto* const base = memory_.as<uint8_t>();
  const auto ints = [&](size_t part) { return reinterpret_cast<const int32_t*>(base + offsets[part]); };
  return {ints(0),
          ints(1),
          reinterpret_cast<const int64_t*>(base + offsets[2]),
          ints(3),
          reinterpret_cast<const AttentionTile*>(base + offsets[4]),
          ints(5),
          ints(6)};
}

}  // namespace vllm_pd::cuda
