// The decoder on a GPU: weights, activations and KV in device memory, the forward pass in the kernels of launch.h.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "cuda/activations.h"
#include "cuda/cublaslt.h"
#include "cuda/device_sampler.h"
#include "cuda/device_weights.h"
#include "cuda/launch.h"
#include "cuda/step_plan.h"
#include "model.h"

namespace vllm_pd::cuda {

struct CudaModelOptions {
  /** Of matrices and activations. */
  ElementType element = ElementType::kBF16;
  /** Of the pools that it computes with: the same type, or fp8 where the chip has it. */
  KvDtype kv_dtype = KvDtype::kBF16;
  /** Tokens that are never drawn by forward_and_sample. */
  std::vector<int32_t> suppressed_tokens;
  /** A row's bits do not depend on the other rows. False: cuBLASLt where it is found, which is faster. */
  bool batch_invariant = true;
  /** Memory for steps of this size is taken when the model is loaded; larger ones take more when they come. */
  int64_t max_tokens = 0;
  int64_t max_requests = 0;
  /** Longest sequence. */
  int64_t max_positions = 0;
};

/** Matrices, activations and KV in two bytes, or KV in one; the residual stream and every sum are float32. */
class CudaModel : public Model {
 public:
  /** Throws BAD_FILE, NOT_SUPPORTED without a device or for a shape that the kernels do not take. */
  CudaModel(ModelConfig config, const std::vector<TensorLocation>& locations, const CudaModelOptions& options);
  ~CudaModel() override;

  const ModelConfig& config() const override { return config_; }
  WeightSource weight_source() const override { return WeightSource::kMemory; }
  void forward(const KvRegion& pool, const Batch& batch, float* logits) override;
  void forward_and_sample(const KvRegion& pool, const Batch& batch, const Sampling& sampling, int32_t* token_ids,
                          float* logits) override;

 private:
  struct Layer {
    DeviceMemory input_norm;           // (hidden_size)
    DeviceMemory post_attention_norm;  // (hidden_size)
    DeviceMatrix qkv;                  // (q_dim + 2 kv_dim, hidden_size)
    DeviceMemory qkv_bias;             // (q_dim + 2 kv_dim), or empty
    DeviceMemory q_norm;               // (head_dim), or empty
    DeviceMemory k_norm;               // (head_dim), or empty
    DeviceMatrix o;                    // (hidden_size, q_dim)
    DeviceMemory o_bias;               // (hidden_size), or empty
    DeviceMatrix gate_up;              // (2 intermediate_size, hidden_size)
    DeviceMemory gate_up_bias;         // (2 intermediate_size), or empty
    DeviceMatrix down;                 // (hidden_size, intermediate_size)
    DeviceMemory down_bias;            // (hidden_size), or empty
    bool has_rope;
    int64_t sliding_window;
  };

  /** (num_tokens, num_segments, block 0): what a captured step depends on beside the activations' places. */
  using GraphKey = std::tuple<int64_t, int64_t, const void*>;

  void load(const std::vector<TensorLocation>& locations, ElementType element);
  Layer load_layer(WeightUploader& uploader, int64_t index) const;
  void reserve(const CudaModelOptions& options);
  void compute_rotary(int64_t num_positions);

  /** Up to the logits of every row that the batch asks for, in act_.logits; not waited for. */
  void run(const KvRegion& pool, const Batch& batch);
  void check_pool(const KvRegion& pool) const;
  void launch_step(const StepPlan& plan, const InputPointers& inputs, const KvRegion& pool);
  void replay(const StepPlan& plan, const InputPointers& inputs, const KvRegion& pool);
  void attend(const Layer& layer, const KvLayerArgs& kv, const StepPlan& plan, const InputPointers& inputs);
  void feed_forward(const Layer& layer, int64_t num_rows);
  /** act_.x += act_.delta where asked, then act_.normed. */
  void norm(const DeviceMemory& weight, bool has_delta, int64_t num_rows);
  /** `out` (num_rows, n) = `a` (num_rows, k) · wᵀ + bias */
  void matmul(const DeviceMemory& a, const DeviceMatrix& w, const DeviceMemory& bias, const DeviceMemory& out,
              int64_t num_rows, MatmulOutput output = MatmulOutput::kElements);
  void keep_rows(const StepPlan& plan, const InputPointers& inputs);

  ModelConfig config_;
  KvDtype kv_dtype_;
  HeadsArgs heads_;
  std::shared_ptr<Device> device_;
  Kernels kernels_;
  Stream stream_;
  std::unique_ptr<CublasLt> cublaslt_;  // null: own products

  std::vector<Layer> layers_;
  DeviceMemory norm_;      // (hidden_size)
  DeviceMatrix embed_;     // (vocab_size, hidden_size)
  DeviceMatrix lm_head_;   // (vocab_size, hidden_size), or empty where tied
  DeviceMemory cos_;       // (num_positions_, rotary_dim / 2)
  DeviceMemory sin_;       // likewise
  int64_t num_positions_ = 0;

  Activations act_;
  StepInputs inputs_;
  DeviceSampler sampler_;
  /** Null until a step of that kind has run once by itself, which loads its kernels. */
  std::map<GraphKey, std::unique_ptr<Graph>> graphs_;
};

}  // namespace vllm_pd::cuda
