// The decoder on the CPU: packed weights, and the forward pass written in the ops of ops.h.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "float_buffer.h"
#include "model.h"

namespace vllm_pd::cpu {

class CpuModel : public Model {
 public:
  /** Maps the files, packs the weights or finds them packed, and lets go of the files. Throws BAD_FILE. */
  CpuModel(ModelConfig config, const std::vector<TensorLocation>& locations, const WeightOptions& options,
           int num_threads);

  const ModelConfig& config() const override { return config_; }
  WeightSource weight_source() const override { return weight_source_; }

  void forward(const KvRegion& pool, const Batch& batch, float* logits) override;

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
    std::unique_ptr<PackedMatrix> gate_up;   // (GatedRows, hidden_size)
    std::vector<float> gate_up_bias;         // (GatedRows), or empty
    std::unique_ptr<PackedMatrix> down;      // (hidden_size, intermediate_size)
    std::vector<float> down_bias;            // (hidden_size), or empty
    bool has_rope;
  };

  void load(const std::vector<TensorLocation>& locations, const WeightOptions& options);
  Layer load_layer(const Weights& weights, PackedWeights& packed, int64_t index) const;
  void load_biases_behind_attention(const Weights& weights, const std::string& prefix, Layer& layer) const;
  RmsNorm norm_of(const std::vector<float>& weight) const { return {weight.data(), config_.rms_norm_eps}; }
  void compute_rotary(const Batch& batch);
  void attend(const Layer& layer, int64_t index, const KvRegion& pool, const Batch& batch);
  void keep_rows(const std::vector<int32_t>& rows);

  ModelConfig config_;
  std::unique_ptr<Ops> ops_;
  WeightSource weight_source_ = WeightSource::kMemory;
  std::vector<Layer> layers_;
  std::vector<float> norm_;                // (hidden_size)
  std::unique_ptr<PackedMatrix> embed_;    // (vocab_size, hidden_size)
  std::unique_ptr<PackedMatrix> lm_head_;  // (vocab_size, hidden_size), or null where tied

  // Activations, kept from call to call.
  FloatBuffer x_;         // (num_tokens, hidden_size): the residual stream
  FloatBuffer qkv_;       // (num_tokens, q_dim + 2 kv_dim)
  FloatBuffer attended_;  // (num_tokens, q_dim)
  FloatBuffer cos_;       // (num_tokens, rotary_dim / 2)
  FloatBuffer sin_;       // (num_tokens, rotary_dim / 2)
};

}  // namespace vllm_pd::cpu
