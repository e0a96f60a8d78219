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

/** How one row's token is drawn: temperature, then top-k, then top-p, as src/worker/sampler.ts does it. */
struct Draw {
  int32_t row;         // of the logits that the batch asks for
  double temperature;  // below 1e-5: the largest logit, of equal ones the first
  double top_p;        // 1 = all
  double share;        // in [0, 1): where in the cumulative distribution the token is taken
  int32_t top_k;       // 0 = all
  std::vector<int32_t> forbidden;  // never drawn, unless nothing else is left
};

/** Rows of logits: those that the model draws a token from, and those that the caller wants to see. */
struct Sampling {
  std::vector<Draw> draws;
  std::vector<int32_t> logits_rows;
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

  /**
   * The same, with tokens drawn where the logits are: one a draw to `token_ids`, -1 where no logit is finite. Only
   * `sampling.logits_rows` come to `logits`, in that order. Throws NOT_SUPPORTED where the backend does not draw.
   */
  virtual void forward_and_sample(const KvRegion& pool, const Batch& batch, const Sampling& sampling, int32_t* token_ids,
                                  float* logits);
};

/** Throws INVALID_ARGUMENT unless every row lies among those that the batch asks for. */
void check_sampling(const Batch& batch, const Sampling& sampling);

/** Throws INVALID_ARGUMENT unless every index of the batch lies in its range. O(num_tokens + num_blocks). */
void check_batch(const ModelConfig& config, const KvLayout& layout, const Batch& batch);

}  // namespace vllm_pd
