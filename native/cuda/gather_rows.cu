// gather_rows: the rows whose logits are wanted. Grid (num_rows), 256 threads.
#include "cuda/args.h"
#include "cuda/dialect.h"

namespace vllm_pd::cuda {

VLLM_PD_KERNEL(gather_rows, GatherRowsArgs, 256) {
  const float* const from = args.x + args.rows[blockIdx.x] * args.dim;
  float* const to = args.out + static_cast<int64_t>(blockIdx.x) * args.dim;
  for (int64_t i = threadIdx.x; i < args.dim; i += blockDim.x) to[i] = from[i];
}

}  // namespace vllm_pd::cuda
