// Device memory that a step computes in, kept from step to step; it grows with the largest step seen.
#pragma once

#include <cstdint>
#include <memory>

#include "cuda/device_memory.h"
#include "cuda/stream.h"
#include "cuda/step_plan.h"
#include "model.h"

namespace vllm_pd::cuda {

struct StepSizes {
  int64_t num_tokens;
  int64_t num_logits_rows;
  int64_t num_tiles;
  int64_t num_decodes;
  int64_t num_segments;
};

/** T is the model's element type, two bytes. Rows of padding take part like any other; nobody reads what they come to. */
struct Activations {
  Activations(std::shared_ptr<Device> device, const ModelConfig& config, const HeadsArgs& heads);

  /** Whether something lies elsewhere now; what it held is lost then. */
  bool reserve(const StepSizes& sizes);

  DeviceMemory x;              // (num_tokens, hidden_size) float32: the residual stream
  DeviceMemory kept_x;         // (num_logits_rows, hidden_size) float32
  DeviceMemory normed;         // (num_tokens, hidden_size) T
  DeviceMemory qkv;            // (num_tokens, q_dim + 2 kv_dim) T
  DeviceMemory attended;       // (num_tokens, q_dim) T
  DeviceMemory kept_attended;  // (num_logits_rows, q_dim) T
  DeviceMemory delta;          // (num_tokens, hidden_size) T: what a layer's half adds to x
  DeviceMemory gate_up;        // (num_tokens, 2 intermediate_size) T
  DeviceMemory gated;          // (num_tokens, intermediate_size) T
  DeviceMemory running;        // of prefill attention
  DeviceMemory partial_out;    // of decode attention, as are the next two
  DeviceMemory partial_max;
  DeviceMemory partial_sum;
  DeviceMemory logits;  // (num_logits_rows, vocab_size) float32
  std::unique_ptr<PinnedMemory> host_logits;

 private:
  bool grow(DeviceMemory& memory, int64_t num_bytes);

  std::shared_ptr<Device> device_;
  ModelConfig config_;
  HeadsArgs heads_;
};

/** Where a step's inputs lie on the device. */
struct InputPointers {
  const int32_t* token_ids;
  const int32_t* positions;
  const int64_t* slot_mapping;
  const int32_t* cu_blocks;
  const AttentionTile* tiles;
  const int32_t* block_tables;
  const int32_t* logits_rows;
};

/** Brings a step's inputs to the device in one copy. Steps with as many tokens, requests and tiles find all but
 * logits_rows at the same places, unless `moved`. */
class StepInputs {
 public:
  explicit StepInputs(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  /** The previous step must have ended. `moved` is set where the memory lies elsewhere now. */
  InputPointers upload(const StepPlan& plan, const Stream& stream, bool& moved);

 private:
  std::shared_ptr<Device> device_;
  DeviceMemory memory_;
  std::unique_ptr<PinnedMemory> pinned_;
};

}  // namespace vllm_pd::cuda
