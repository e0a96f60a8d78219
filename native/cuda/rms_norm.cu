// rms_norm: adds what the last matmul brought to the residual stream, where given, and norms it. Grid (num_rows),
// 256 threads, whatever the number of rows.
#include "cuda/args.h"
#include "cuda/vectors.h"

namespace vllm_pd::cuda {

template <typename T>
VLLM_PD_DEVICE void rms_norm(const RmsNormArgs& args) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * args.dim;
  float* const x = args.x + begin;
  float squares = 0.0f;
  for (int64_t i = threadIdx.x * kChunk; i < args.dim; i += blockDim.x * kChunk) {
    float values[kChunk];
    load_chunk(x + i, values);
    if (args.delta != nullptr) {
      float delta[kChunk];
      load_chunk(static_cast<const T*>(args.delta) + begin + i, delta);
#pragma unroll
      for (int j = 0; j < kChunk; ++j) values[j] += delta[j];
      store_chunk(x + i, values);
    }
#pragma unroll
    for (int j = 0; j < kChunk; ++j) squares = fused(values[j], values[j], squares);
  }
  const float mean = block_sum(squares, shared_memory<float>()) / static_cast<float>(args.dim);
  const float factor = 1.0f / square_root(mean + args.eps);
  for (int64_t i = threadIdx.x * kChunk; i < args.dim; i += blockDim.x * kChunk) {
    float values[kChunk];
    float weight[kChunk];
    load_chunk(x + i, values);
    load_chunk(args.weight + i, weight);
#pragma unroll
    for (int j = 0; j < kChunk; ++j) values[j] = values[j] * factor * weight[j];
    store_chunk(static_cast<T*>(args.out) + begin + i, values);
  }
}

VLLM_PD_KERNEL(rms_norm_bf16, RmsNormArgs, 256) { rms_norm<BF16>(args); }
VLLM_PD_KERNEL(rms_norm_f16, RmsNormArgs, 256) { rms_norm<F16>(args); }

}  // namespace vllm_pd::cuda
