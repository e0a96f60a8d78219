// A Llama/Qwen-style decoder on a GPU.
#include "cuda/cuda_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cuda/device_blocks.h"
#include "error.h"

namespace vllm_pd::cuda {
namespace {

HeadsArgs heads_of(const AttentionShape& shape) {
  return {static_cast<int32_t>(shape.num_heads), static_cast<int32_t>(shape.num_kv_heads),
          static_cast<int32_t>(shape.head_dim)};
}

/** Null where there is none. */
const float* floats_or_null(const DeviceMemory& memory) {
  return memory.num_bytes() == 0 ? nullptr : memory.as<float>();
}

KvLayerArgs kv_layer(const KvRegion& pool, int64_t index) {
  const KvLayout& layout = pool.layout;
  uint8_t* const keys = pool.device->address() + index * 2 * layout.kv_bytes();
  KvLayerArgs args{};
  args.keys = keys;
  args.values = keys + layout.kv_bytes();
  args.block_stride = layout.block_bytes() / layout.element_bytes();
  args.block_size = static_cast<int32_t>(layout.block_size);
  args.k_scale = 1;
  args.v_scale = 1;
  return args;
}

KvType kv_type(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kBF16: return KvType::kBF16;
    case KvDtype::kF16: return KvType::kF16;
    case KvDtype::kE4M3: return KvType::kE4M3;
    default: throw Error("NOT_SUPPORTED", "On CUDA, expected KV in bfloat16, float16 or fp8 but received float32.");
  }
}

/** fp8 is for chips that have it. */
std::shared_ptr<Device> device_for(KvDtype dtype) {
  std::shared_ptr<Device> device = shared_device();
  const DeviceInfo& info = device->info();
  if (dtype != KvDtype::kE4M3 || info.has_fp8()) return device;
  throw Error("NOT_SUPPORTED", "Expected a GPU of compute capability 8.9 or above for KV in fp8 but " + info.name +
                                   " has " + std::to_string(info.capability_major) + "." +
                                   std::to_string(info.capability_minor) + ".");
}

}  // namespace

CudaModel::CudaModel(ModelConfig config, const std::vector<TensorLocation>& locations,
                     const CudaModelOptions& options)
    : config_(std::move(config)),
      kv_dtype_(options.kv_dtype),
      heads_(heads_of(config_.attention)),
      device_(device_for(options.kv_dtype)),
      kernels_(device_, options.element, kv_type(options.kv_dtype)),
      stream_(device_),
      act_(device_, config_, heads_),
      inputs_(device_),
      sampler_(device_, config_.vocab_size, options.suppressed_tokens) {
  check_shape(heads_, config_.hidden_size, config_.intermediate_size);
  if (!options.batch_invariant && why_no_cublaslt().empty())
    cublaslt_ = std::make_unique<CublasLt>(device_, options.element);
  load(locations, options.element);
  reserve(options);
}

CudaModel::~CudaModel() = default;

void CudaModel::load(const std::vector<TensorLocation>& locations, ElementType element) {
  const Weights weights(locations);
  WeightUploader uploader(device_, weights, element);
  const int64_t vocab = config_.vocab_size;
  const int64_t hidden = config_.hidden_size;
  embed_ = uploader.matrix({"model.embed_tokens.weight"}, {vocab}, hidden);
  for (int64_t i = 0; i < config_.num_layers; ++i) layers_.push_back(load_layer(uploader, i));
  norm_ = uploader.vectors({"model.norm.weight"}, {hidden});
  if (!config_.tie_word_embeddings) lm_head_ = uploader.matrix({"lm_head.weight"}, {vocab}, hidden);
}

CudaModel::Layer CudaModel::load_layer(WeightUploader& uploader, int64_t index) const {
  const std::string prefix = "model.layers." + std::to_string(index) + ".";
  const std::string attention = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  const AttentionShape& shape = config_.attention;
  const int64_t hidden = config_.hidden_size;
  const int64_t intermediate = config_.intermediate_size;
  const std::vector<int64_t> qkv_rows = {shape.q_dim(), shape.kv_dim(), shape.kv_dim()};
  Layer layer;
  layer.input_norm = uploader.vectors({prefix + "input_layernorm.weight"}, {hidden});
  layer.post_attention_norm = uploader.vectors({prefix + "post_attention_layernorm.weight"}, {hidden});
  layer.qkv = uploader.matrix({attention + "q_proj.weight", attention + "k_proj.weight", attention + "v_proj.weight"},
                              qkv_rows, hidden);
  if (config_.attention_bias) {
    layer.qkv_bias =
        uploader.vectors({attention + "q_proj.bias", attention + "k_proj.bias", attention + "v_proj.bias"}, qkv_rows);
  }
  if (config_.qk_norm) {
    layer.q_norm = uploader.vectors({attention + "q_norm.weight"}, {shape.head_dim});
    layer.k_norm = uploader.vectors({attention + "k_norm.weight"}, {shape.head_dim});
  }
  layer.o = uploader.matrix({attention + "o_proj.weight"}, {hidden}, shape.q_dim());
  if (config_.output_bias) layer.o_bias = uploader.vectors({attention + "o_proj.bias"}, {hidden});
  layer.gate_up =
      uploader.matrix({mlp + "gate_proj.weight", mlp + "up_proj.weight"}, {intermediate, intermediate}, hidden);
  layer.down = uploader.matrix({mlp + "down_proj.weight"}, {hidden}, intermediate);
  if (config_.mlp_bias) {
    layer.gate_up_bias =
        uploader.vectors({mlp + "gate_proj.bias", mlp + "up_proj.bias"}, {intermediate, intermediate});
    layer.down_bias = uploader.vectors({mlp + "down_proj.bias"}, {hidden});
  }
  const auto& no_rope = config_.no_rope_layers;
  layer.has_rope = std::find(no_rope.begin(), no_rope.end(), index) == no_rope.end();
  layer.sliding_window = config_.sliding_windows.empty() ? 0 : config_.sliding_windows[index];
  return layer;
}

void CudaModel::reserve(const CudaModelOptions& options) {
  const int64_t tile_tokens = tokens_per_tile(heads_);
  act_.reserve({options.max_tokens, options.max_requests,
                options.max_tokens / tile_tokens + std::min(options.max_tokens, options.max_requests),
                options.max_requests, num_segments(options.max_positions)});
  compute_rotary(std::max<int64_t>(1, options.max_positions));
}

/** Cosines and sines as Hugging Face has them: the angle rounded to float32 first. */
void CudaModel::compute_rotary(int64_t num_positions) {
  if (num_positions <= num_positions_) return;
  const auto half = static_cast<int64_t>(config_.inv_freq.size());
  std::vector<float> cos(num_positions * half);
  std::vector<float> sin(num_positions * half);
  for (int64_t i = 0; i < num_positions * half; ++i) {
    const float angle = static_cast<float>(i / half) * config_.inv_freq[i % half];
    cos[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * config_.rope_attention_scaling;
    sin[i] = static_cast<float>(std::sin(static_cast<double>(angle))) * config_.rope_attention_scaling;
  }
  const auto num_bytes = static_cast<int64_t>(cos.size() * sizeof(float));
  cos_ = DeviceMemory(device_, num_bytes);
  sin_ = DeviceMemory(device_, num_bytes);
  stream_.to_device(cos_.address(), cos.data(), num_bytes);
  stream_.to_device(sin_.address(), sin.data(), num_bytes);
  stream_.synchronize();
  num_positions_ = num_positions;
  graphs_.clear();
}

void CudaModel::check_pool(const KvRegion& pool) const {
  if (!pool.device)
    throw Error("INVALID_ARGUMENT", "Expected a KV pool on the device but received one in host memory.");
  if (pool.layout.dtype != kv_dtype_) {
    throw Error("INVALID_ARGUMENT", std::string("Expected a KV pool of ") + name_of(kv_dtype_) +
                                        ", as the model was loaded for, but received " + pool.layout.to_string() + ".");
  }
}

void CudaModel::forward(const KvRegion& pool, const Batch& batch, float* logits) {
  if (batch.num_tokens() == 0) return;
  run(pool, batch);
  const int64_t num_bytes =
      static_cast<int64_t>(batch.logits_indices.size()) * config_.vocab_size * static_cast<int64_t>(sizeof(float));
  stream_.to_host(act_.host_logits->data(), act_.logits.address(), num_bytes);
  stream_.synchronize();
  std::memcpy(logits, act_.host_logits->data(), num_bytes);
}

void CudaModel::forward_and_sample(const KvRegion& pool, const Batch& batch, const Sampling& sampling,
                                   int32_t* token_ids, float* logits) {
  if (batch.num_tokens() == 0) return;
  run(pool, batch);
  sampler_.draw(kernels_, act_.logits.as<float>(), sampling.draws, stream_);
  const auto row_bytes = config_.vocab_size * static_cast<int64_t>(sizeof(float));
  for (size_t i = 0; i < sampling.logits_rows.size(); ++i) {
    stream_.to_host(act_.host_logits->data() + i * row_bytes,
                    act_.logits.address() + static_cast<CUdeviceptr>(sampling.logits_rows[i] * row_bytes), row_bytes);
  }
  stream_.synchronize();
  sampler_.copy_to(token_ids);
  if (!sampling.logits_rows.empty())
    std::memcpy(logits, act_.host_logits->data(), sampling.logits_rows.size() * row_bytes);
}

void CudaModel::run(const KvRegion& pool, const Batch& batch) {
  check_pool(pool);
  device_->bind();
  StepPlan plan = plan_step(batch, heads_, pool.layout.block_size);
  const bool replays = plan.decodes_only() && plan.keeps_all_rows;
  if (replays) pad_for_graph(plan);
  if (plan.num_positions > num_positions_) compute_rotary(2 * plan.num_positions);
  bool moved = act_.reserve({plan.num_tokens(), plan.num_kept_rows(), static_cast<int64_t>(plan.tiles.size()),
                             plan.num_decodes, plan.num_segments});
  const InputPointers inputs = inputs_.upload(plan, stream_, moved);
  if (moved) graphs_.clear();
  if (replays) {
    replay(plan, inputs, pool);
  } else {
    launch_step(plan, inputs, pool);
  }
}

void CudaModel::replay(const StepPlan& plan, const InputPointers& inputs, const KvRegion& pool) {
  const GraphKey key{plan.num_tokens(), plan.num_segments, pool.device->address()};
  const auto [entry, is_new] = graphs_.try_emplace(key);
  if (is_new) return launch_step(plan, inputs, pool);
  if (!entry->second) {
    // Uploads are not part of it: they change from step to step.
    entry->second = std::make_unique<Graph>(device_, stream_, [&] { launch_step(plan, inputs, pool); });
  }
  entry->second->launch(stream_);
}

void CudaModel::launch_step(const StepPlan& plan, const InputPointers& inputs, const KvRegion& pool) {
  int64_t num_rows = plan.num_tokens();
  kernels_.embed({inputs.token_ids, embed_.memory.as<void>(), act_.x.as<float>(), config_.hidden_size}, num_rows,
                 stream_.get());
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    norm(layers_[i].input_norm, i > 0, num_rows);
    attend(layers_[i], kv_layer(pool, i), plan, inputs);
    if (i == config_.num_layers - 1 && !plan.keeps_all_rows) {
      // Behind the last layer's K and V, only rows whose logits are wanted matter.
      num_rows = plan.num_logits_rows();
      keep_rows(plan, inputs);
    }
    matmul(act_.attended, layers_[i].o, layers_[i].o_bias, act_.delta, num_rows);
    feed_forward(layers_[i], num_rows);
  }
  norm(norm_, true, num_rows);
  matmul(act_.normed, config_.tie_word_embeddings ? embed_ : lm_head_, DeviceMemory(), act_.logits, num_rows,
         MatmulOutput::kFloats);
}

void CudaModel::norm(const DeviceMemory& weight, bool has_delta, int64_t num_rows) {
  kernels_.rms_norm({act_.x.as<float>(), has_delta ? act_.delta.as<void>() : nullptr, weight.as<float>(),
                     act_.normed.as<void>(), config_.hidden_size, config_.rms_norm_eps},
                    num_rows, stream_.get());
}

void CudaModel::matmul(const DeviceMemory& a, const DeviceMatrix& w, const DeviceMemory& bias,
                       const DeviceMemory& out, int64_t num_rows, MatmulOutput output) {
  if (num_rows == 0) return;
  const MatmulArgs args{a.as<void>(), w.memory.as<void>(), floats_or_null(bias), out.as<void>(),
                        num_rows,     w.n,                 w.k,                  output};
  if (cublaslt_ && cublaslt_->matmul(args, stream_.get())) return;
  kernels_.matmul(args, stream_.get());
}

/** act_.normed → K and V in the pool, attention's output in act_.attended. */
void CudaModel::attend(const Layer& layer, const KvLayerArgs& kv, const StepPlan& plan, const InputPointers& inputs) {
  matmul(act_.normed, layer.qkv, layer.qkv_bias, act_.qkv, plan.num_tokens());
  RotateAndCacheArgs rotate{};
  rotate.qkv = act_.qkv.as<void>();
  rotate.cos = cos_.as<float>();
  rotate.sin = sin_.as<float>();
  rotate.q_norm = floats_or_null(layer.q_norm);
  rotate.k_norm = floats_or_null(layer.k_norm);
  rotate.positions = inputs.positions;
  rotate.slot_mapping = inputs.slot_mapping;
  rotate.kv = kv;
  rotate.heads = heads_;
  rotate.rotary_dim = layer.has_rope ? 2 * static_cast<int32_t>(config_.inv_freq.size()) : 0;
  rotate.norm_eps = config_.rms_norm_eps;
  kernels_.rotate_and_cache(rotate, plan.num_tokens(), stream_.get());

  AttentionArgs args{};
  args.qkv = act_.qkv.as<void>();
  args.out = act_.attended.as<void>();
  args.positions = inputs.positions;
  args.block_tables = inputs.block_tables;
  args.cu_blocks = inputs.cu_blocks;
  args.kv = kv;
  args.heads = heads_;
  args.softmax_scale = 1.0f / std::sqrt(static_cast<float>(heads_.head_dim));
  args.sliding_window = static_cast<int32_t>(layer.sliding_window);
  args.tiles = inputs.tiles;
  args.running = act_.running.as<float>();
  args.num_segments = static_cast<int32_t>(plan.num_segments);
  args.partial_out = act_.partial_out.as<float>();
  args.partial_max = act_.partial_max.as<float>();
  args.partial_sum = act_.partial_sum.as<float>();
  if (plan.num_decodes > 0) kernels_.paged_attention_decode(args, plan.num_decodes, stream_.get());
  if (!plan.tiles.empty())
    kernels_.paged_attention_prefill(args, static_cast<int64_t>(plan.tiles.size()), stream_.get());
}

void CudaModel::feed_forward(const Layer& layer, int64_t num_rows) {
  norm(layer.post_attention_norm, true, num_rows);
  matmul(act_.normed, layer.gate_up, layer.gate_up_bias, act_.gate_up, num_rows);
  kernels_.swiglu({act_.gate_up.as<void>(), act_.gated.as<void>(), config_.intermediate_size}, num_rows,
                  stream_.get());
  matmul(act_.gated, layer.down, layer.down_bias, act_.delta, num_rows);
}

/** Rows of x and attended whose logits are wanted move to the front. */
void CudaModel::keep_rows(const StepPlan& plan, const InputPointers& inputs) {
  const int64_t num_rows = plan.num_logits_rows();
  const int64_t row_bytes = config_.attention.q_dim() * 2;
  kernels_.gather_rows({act_.x.as<float>(), inputs.logits_rows, act_.kept_x.as<float>(), config_.hidden_size},
                       num_rows, stream_.get());
  kernels_.copy_blocks({act_.attended.as<void>(), act_.kept_attended.as<void>(), inputs.logits_rows, nullptr,
                        num_rows, row_bytes},
                       stream_.get());
  stream_.copy(act_.x.address(), act_.kept_x.address(), num_rows * config_.hidden_size * 4);
  stream_.copy(act_.attended.address(), act_.kept_attended.address(), num_rows * row_bytes);
}

}  // namespace vllm_pd::cuda
