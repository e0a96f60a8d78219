// embed: rows of the embedding table, widened to float32. Grid (num_rows), 128 threads.
#include "cuda/args.h"
#include "cuda/vectors.h"

namespace vllm_pd::cuda {

template <typename T>
VLLM_PD_DEVICE void embed(const EmbedArgs& args) {
  const int64_t row = blockIdx.x;
  const T* const from = static_cast<const T*>(args.table) + args.ids[row] * args.dim;
  for (int64_t i = threadIdx.x * kChunk; i < args.dim; i += blockDim.x * kChunk) {
    float values[kChunk];
    load_chunk(from + i, values);
    store_chunk(args.out + row * args.dim + i, values);
  }
}

VLLM_PD_KERNEL(embed_bf16, EmbedArgs, 128) { embed<BF16>(args); }
VLLM_PD_KERNEL(embed_f16, EmbedArgs, 128) { embed<F16>(args); }

}  // namespace vllm_pd::cuda
