// swiglu: silu(gate) * up. Grid (num_rows, pieces of a row), 256 threads.
#include "cuda/args.h"
#include "cuda/vectors.h"

namespace vllm_pd::cuda {


template <typename T>
VLLM_PD_DEVICE void swiglu(const SwigluArgs& args) {
  const T* const gate = static_cast<const T*>(args.gate_up) + static_cast<int64_t>(blockIdx.x) * 2 * args.dim;
  T* const out = static_cast<T*>(args.out) + static_cast<int64_t>(blockIdx.x) * args.dim;
  const int64_t step = static_cast<int64_t>(gridDim.y) * blockDim.x * kChunk;
  for (int64_t i = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kChunk; i < args.dim; i += step) {
    float values[kChunk];
    float up[kChunk];
    load_chunk(gate + i, values);
    load_chunk(gate + args.dim + i, up);
#pragma unroll
    for (int j = 0; j < kChunk; ++j) values[j] = values[j] / (1.0f + exp2_fast(values[j] * -kLog2E)) * up[j];
    store_chunk(out + i, values);
  }
}

VLLM_PD_KERNEL(swiglu_bf16, SwigluArgs, 256) { swiglu<BF16>(args); }
VLLM_PD_KERNEL(swiglu_f16, SwigluArgs, 256) { swiglu<F16>(args); }

}  // namespace vllm_pd::cuda
