// A Llama/Qwen-style decoder: packed weights, and the forward pass written in the ops of ops.h.
#pragma once

#include <cstdint>
#include <memory>
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
  /** Maps the files, packs the weights or finds them packed, and lets go of the files. Throws BAD_FILE. */
  Model(ModelConfig config, const std::vector<TensorLocation>& locations, const WeightOptions& options,
        int num_threads);

  const ModelConfig& config() const { return config_; }
  WeightSource weight_source() const { return weight_source_; }

  /**
   * Writes K and V of every token into `pool` and (num_logits_rows, vocab_size) logits to `logits`. The batch
   * must have passed `check_batch`; one call at a time.
   */
  void forward(const KvRegion& pool, const Batch& batch, float* logits);

 private:
  struct Layer {
    std::vector<float> input_norm;           // (hidden_size)
    std::vector<float> post_attention_norm;  // (hidden_size)
    std::unique_ptr<PackedMatrix> qkv;       // (q_dim + 2 kv_dim, hidden_size)
    std::vector<float> qkv_bias;             // (q_dim + 2 kv_dim), or empty
    std::vector<float> q_norm;               // (head_dim), or empty
    std::vector<float> k_norm;               // (head_dim), or empty
    std::unique_ptr<PackedMatrix> o;         // (hidden_size, q_dim)
    std::vector<float> o_bias;               // (hidden_size), or empty
    std::unique_ptr<PackedMatrix> gate_up;   // (2 intermediate_size, hidden_size)
    std::vector<float> gate_up_bias;         // (2 intermediate_size), or empty
    std::unique_ptr<PackedMatrix> down;      // (hidden_size, intermediate_size)
    std::vector<float> down_bias;            // (hidden_size), or empty
    bool has_rope;
  };

  void load(const std::vector<TensorLocation>& locations, const WeightOptions& options);
  Layer load_layer(const Weights& weights, PackedWeights& packed, int64_t index) const;
  void load_biases_behind_attention(const Weights& weights, const std::string& prefix, Layer& layer) const;
  void compute_rotary(const Batch& batch);
  void attend(const Layer& layer, int64_t index, const KvRegion& pool, const Batch& batch);
  void feed_forward(const Layer& layer, int64_t num_rows);
  void keep_rows(const std::vector<int32_t>& rows);

  ModelConfig config_;
  std::unique_ptr<Ops> ops_;
  WeightSource weight_source_ = WeightSource::kMemory;
  std::vector<Layer> layers_;
  std::vector<float> norm_;                // (hidden_size)
  std::unique_ptr<PackedMatrix> embed_;    // (vocab_size, hidden_size)
  std::unique_ptr<PackedMatrix> lm_head_;  // (vocab_size, hidden_size), or null where tied

  // Activations, kept from call to call.
  std::vector<float> x_;         // (num_tokens, hidden_size): the residual stream
  std::vector<float> normed_;    // (num_tokens, hidden_size)
  std::vector<float> qkv_;       // (num_tokens, q_dim + 2 kv_dim)
  std::vector<float> attended_;  // (num_tokens, q_dim)
  std::vector<float> gate_up_;   // (num_tokens, 2 intermediate_size)
  std::vector<float> gated_;     // (num_tokens, intermediate_size)
  std::vector<float> cos_;       // (num_tokens, rotary_dim / 2)
  std::vector<float> sin_;       // (num_tokens, rotary_dim / 2)
};

/** Throws INVALID_ARGUMENT unless every index of the batch lies in its range. O(num_tokens + num_blocks). */
void check_batch(const ModelConfig& config, const KvLayout& layout, const Batch& batch);

}  // namespace vllm_pd
