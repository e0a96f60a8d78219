// paged_attention_reduce: merges what paged_attention_decode found in each segment, in the order in which prefill
// merges its own. Grid (num_requests, num_heads), kMaxHeadDim threads: one an element.
#include "cuda/attention_tile.h"

namespace vllm_pd::cuda {

template <typename T>
VLLM_PD_DEVICE void paged_attention_reduce(const AttentionArgs& args) {
  const HeadsArgs& heads = args.heads;
  const int position = args.positions[blockIdx.x];
  const int column = static_cast<int>(threadIdx.x);
  if (position < 0 || column >= heads.head_dim) return;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * heads.num_heads + blockIdx.y;
  float max = negative_infinity();
  float sum = 0.0f;
  float out = 0.0f;
  const int begin = first_visible(position, args.sliding_window) / kSegmentKeys;
  for (int segment = begin; segment <= position / kSegmentKeys; ++segment) {
    const int64_t at = row * args.num_segments + segment;
    const MergeFactors factors = merge_weights(max, sum, args.partial_max[at], args.partial_sum[at]);
    out = merge_out(factors, out, args.partial_out[at * heads.head_dim + column]);
  }
  static_cast<T*>(args.out)[row * heads.head_dim + column] = from_float<T>(out * (args.kv.v_scale / sum) + 0.0f);
}

VLLM_PD_KERNEL(paged_attention_reduce_bf16, AttentionArgs, kMaxHeadDim) { paged_attention_reduce<BF16>(args); }
VLLM_PD_KERNEL(paged_attention_reduce_f16, AttentionArgs, kMaxHeadDim) { paged_attention_reduce<F16>(args); }

}  // namespace vllm_pd::cuda
