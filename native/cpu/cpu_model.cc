// A Llama/Qwen-style decoder on the CPU.
#include "cpu/cpu_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/cpu_ops.h"
#include "error.h"
#include "threads.h"

namespace vllm_pd::cpu {
namespace {

const float* data_or_null(const std::vector<float>& floats) {
  return floats.empty() ? nullptr : floats.data();
}

void append(std::vector<float>& to, const std::vector<float>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

/** x (num_rows, size) += bias (size), where there is one. */
void add_bias(const std::vector<float>& bias, int64_t num_rows, float* x) {
  const int64_t size = static_cast<int64_t>(bias.size());
  for (int64_t i = 0; i < num_rows * size; ++i) x[i] += bias[i % size];
}

void gather_rows(FloatBuffer& from, int64_t row_floats, const std::vector<int32_t>& rows) {
  // More rows than there were when one is asked for twice.
  const int64_t count = static_cast<int64_t>(rows.size()) * row_floats;
  float* const floats = from.sized(count);
  std::vector<float> kept(count);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(&kept[i * row_floats], floats + rows[i] * row_floats, row_floats * sizeof(float));
  }
  std::copy(kept.begin(), kept.end(), floats);
}

}  // namespace

CpuModel::CpuModel(ModelConfig config, const std::vector<TensorLocation>& locations, const WeightOptions& options,
                   int num_threads)
    : config_(std::move(config)), ops_(make_ops(num_threads)) {
  // Forward passes run on the thread that loads.
  pin_to_own_processor(0, num_threads);
  try {
    load(locations, options);
    if (weight_source_ == WeightSource::kWritten) {
      // What was written matrix by matrix is mapped page by page; the whole file is mapped in huge pages.
      load(locations, options);
      weight_source_ = WeightSource::kWritten;
    }
  } catch (const CacheUnusable&) {
    WeightOptions in_memory = options;
    in_memory.cache_paths.clear();
    load(locations, in_memory);
  }
}

void CpuModel::load(const std::vector<TensorLocation>& locations, const WeightOptions& options) {
  const Weights weights(locations);
  PackedWeights packed(*ops_, options);
  layers_.clear();
  const int64_t vocab = config_.vocab_size;
  const int64_t hidden = config_.hidden_size;
  const Tensor embed_tokens = weights.tensor("model.embed_tokens.weight", vocab, hidden);
  // Looked up, not multiplied with, unless it is the head as well.
  embed_ = config_.tie_word_embeddings ? packed.matrix({embed_tokens}) : packed.table({embed_tokens});
  for (int64_t i = 0; i < config_.num_layers; ++i) layers_.push_back(load_layer(weights, packed, i));
  norm_ = weights.vector("model.norm.weight", hidden);
  if (!config_.tie_word_embeddings) {
    lm_head_ = packed.matrix({weights.tensor("lm_head.weight", vocab, hidden)});
  }
  weight_source_ = packed.finish();
}

CpuModel::Layer CpuModel::load_layer(const Weights& weights, PackedWeights& packed, int64_t index) const {
  const std::string prefix = "model.layers." + std::to_string(index) + ".";
  const AttentionShape& shape = config_.attention;
  const int64_t hidden = config_.hidden_size;
  const int64_t intermediate = config_.intermediate_size;
  Layer layer;
  layer.input_norm = weights.vector(prefix + "input_layernorm.weight", hidden);
  layer.post_attention_norm = weights.vector(prefix + "post_attention_layernorm.weight", hidden);
  layer.qkv = packed.matrix({weights.tensor(prefix + "self_attn.q_proj.weight", shape.q_dim(), hidden),
                             weights.tensor(prefix + "self_attn.k_proj.weight", shape.kv_dim(), hidden),
                             weights.tensor(prefix + "self_attn.v_proj.weight", shape.kv_dim(), hidden)});
  if (config_.attention_bias) {
    for (const char* name : {"q", "k", "v"}) {
      const int64_t size = *name == 'q' ? shape.q_dim() : shape.kv_dim();
      append(layer.qkv_bias, weights.vector(prefix + "self_attn." + name + "_proj.bias", size));
    }
  }
  if (config_.qk_norm) {
    layer.q_norm = weights.vector(prefix + "self_attn.q_norm.weight", shape.head_dim);
    layer.k_norm = weights.vector(prefix + "self_attn.k_norm.weight", shape.head_dim);
  }
  layer.o = packed.matrix({weights.tensor(prefix + "self_attn.o_proj.weight", hidden, shape.q_dim())});
  layer.gate_up = packed.gated(weights.tensor(prefix + "mlp.gate_proj.weight", intermediate, hidden),
                               weights.tensor(prefix + "mlp.up_proj.weight", intermediate, hidden));
  layer.down = packed.matrix({weights.tensor(prefix + "mlp.down_proj.weight", hidden, intermediate)});
  load_biases_behind_attention(weights, prefix, layer);
  const auto& no_rope = config_.no_rope_layers;
  layer.has_rope = std::find(no_rope.begin(), no_rope.end(), index) == no_rope.end();
  return layer;
}

void CpuModel::load_biases_behind_attention(const Weights& weights, const std::string& prefix,
                                         Layer& layer) const {
  if (config_.output_bias) {
    layer.o_bias = weights.vector(prefix + "self_attn.o_proj.bias", config_.hidden_size);
  }
  if (!config_.mlp_bias) return;
  const GatedRows rows{config_.intermediate_size};
  const std::vector<float> gate = weights.vector(prefix + "mlp.gate_proj.bias", rows.size);
  const std::vector<float> up = weights.vector(prefix + "mlp.up_proj.bias", rows.size);
  for (int64_t row = 0; row < rows.num_rows(); ++row) {
    const int64_t index = rows.index(row);
    layer.gate_up_bias.push_back(index >= rows.size ? 0.0f : (rows.is_gate(row) ? gate : up)[index]);
  }
  layer.down_bias = weights.vector(prefix + "mlp.down_proj.bias", config_.hidden_size);
}

void CpuModel::forward(const KvRegion& pool, const Batch& batch, float* logits) {
  const int64_t hidden = config_.hidden_size;
  int64_t num_rows = batch.num_tokens();
  if (num_rows == 0) return;
  if (pool.device) throw Error("INVALID_ARGUMENT", "Expected a KV pool in host memory but received one on a device.");
  if (pool.layout.dtype != KvDtype::kF32 && pool.layout.dtype != KvDtype::kBF16) {
    throw Error("INVALID_ARGUMENT",
                "Expected a KV pool of float32 or bfloat16 on the CPU but received " + pool.layout.to_string() + ".");
  }
  compute_rotary(batch);
  ops_->embed(batch.token_ids.data(), num_rows, *embed_, x_.sized(num_rows * hidden));
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    const Layer& layer = layers_[i];
    attend(layer, i, pool, batch);
    if (i == config_.num_layers - 1) {
      // Behind the last layer's K and V, only rows whose logits are wanted matter.
      keep_rows(batch.logits_indices);
      num_rows = static_cast<int64_t>(batch.logits_indices.size());
    }
    ops_->matmul_add(attended_.data(), num_rows, *layer.o, x_.data());
    add_bias(layer.o_bias, num_rows, x_.data());
    ops_->feed_forward(x_.data(), num_rows,
                       {norm_of(layer.post_attention_norm), layer.gate_up.get(), data_or_null(layer.gate_up_bias),
                        layer.down.get()});
    add_bias(layer.down_bias, num_rows, x_.data());
  }
  const RmsNorm norm = norm_of(norm_);
  ops_->matmul(x_.data(), num_rows, &norm, lm_head_ ? *lm_head_ : *embed_, nullptr, logits);
}

/** Cosines and sines as Hugging Face has them: the angle rounded to float32 first. */
void CpuModel::compute_rotary(const Batch& batch) {
  const int64_t half = static_cast<int64_t>(config_.inv_freq.size());
  const int64_t count = batch.num_tokens() * half;
  float* const cos = cos_.sized(count);
  float* const sin = sin_.sized(count);
  for (int64_t i = 0; i < count; ++i) {
    const float angle = static_cast<float>(batch.positions[i / half]) * config_.inv_freq[i % half];
    cos[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * config_.rope_attention_scaling;
    sin[i] = static_cast<float>(std::sin(static_cast<double>(angle))) * config_.rope_attention_scaling;
  }
}

/** x_ → K and V in the pool, attention output in attended_. */
void CpuModel::attend(const Layer& layer, int64_t index, const KvRegion& pool, const Batch& batch) {
  AttentionShape shape = config_.attention;
  if (!config_.sliding_windows.empty()) shape.sliding_window = config_.sliding_windows[index];
  const int64_t num_tokens = batch.num_tokens();
  float* const qkv = qkv_.sized(num_tokens * shape.qkv_dim());
  const RmsNorm norm = norm_of(layer.input_norm);
  ops_->matmul(x_.data(), num_tokens, &norm, *layer.qkv, data_or_null(layer.qkv_bias), qkv);
  const RotaryArgs rotary{layer.has_rope ? cos_.data() : nullptr,
                          sin_.data(),
                          data_or_null(layer.q_norm),
                          data_or_null(layer.k_norm),
                          config_.rms_norm_eps,
                          2 * static_cast<int64_t>(config_.inv_freq.size())};
  ops_->rotate_and_cache(qkv, shape, rotary, batch, pool, index);
  ops_->paged_attention(qkv, shape, batch, pool, index, attended_.sized(num_tokens * shape.q_dim()));
}

void CpuModel::keep_rows(const std::vector<int32_t>& rows) {
  gather_rows(x_, config_.hidden_size, rows);
  gather_rows(attended_, config_.attention.q_dim(), rows);
}

}  // namespace vllm_pd::cpu
