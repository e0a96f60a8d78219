// A Llama/Qwen-style decoder as the rest of the module knows it, whatever computes it.
#pragma once

#include <cstdint>
#include <vector>

#include "kv_cache.h"
#include "ops.h"
#include "packed_weights.h"
#include "weights.h"

namespace vllm_pd {

struct ModelConfig {
  int64_t vocab_size;
  int64_t hidden_size;
  int64_t intermediate_size;
  int64_t num_layers;
  AttentionShape attention;
  std::vector<int64_t> sliding_windows;  // (num_layers) keys that a query sees at most, 0 = all; or empty
  float rms_norm_eps;
  bool qk_norm;
  bool attention_bias;
  bool output_bias;
  bool mlp_bias;
  bool tie_word_embeddings;
  std::vector<float> inv_freq;          // (rotary_dim / 2)
  std::vector<int64_t> no_rope_layers;  // ascending
  float rope_attention_scaling;
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelConfig& config() const = 0;
  virtual WeightSource weight_source() const = 0;

  /**
   * Writes K and V of every token into `pool`, which lies where the model computes, and (num_logits_rows, vocab_size)
   * logits to `logits`. The batch must have passed `check_batch`; one call at a time.
   */
  virtual void forward(const KvRegion& pool, const Batch& batch, float* logits) = 0;
};

/** Throws INVALID_ARGUMENT unless every index of the batch lies in its range. O(num_tokens + num_blocks). */
void check_batch(const ModelConfig& config, const KvLayout& layout, const Batch& batch);

}  // namespace vllm_pd
