// paged_attention_decode: one query token a request, its keys split into segments on the fixed grid. Grid
// (num_segments, num_kv_heads * tiles of kDecodeRows heads, num_requests), one warp each; what each segment comes
// to is merged in order by paged_attention_reduce.
#include "cuda/attention_tile.h"

namespace vllm_pd::cuda {

template <typename T, typename Kv, int kDim>
VLLM_PD_DEVICE void paged_attention_decode(const AttentionArgs& args) {
  const HeadsArgs& heads = args.heads;
  const int64_t request = blockIdx.z;
  const int position = args.positions[request];
  const int low = first_visible(position, args.sliding_window);
  const int segment = static_cast<int>(blockIdx.x);
  const int segment_end = (segment + 1) * kSegmentKeys;
  if (position < segment * kSegmentKeys || segment_end <= low) return;
  const int group = heads.num_heads / heads.num_kv_heads;
  const int row_tiles = (group + kDecodeRows - 1) / kDecodeRows;
  const int kv_head = static_cast<int>(blockIdx.y) / row_tiles;
  const int first_in_group = static_cast<int>(blockIdx.y) % row_tiles * kDecodeRows;
  const int count = group - first_in_group < kDecodeRows ? group - first_in_group : kDecodeRows;
  const int first_head = kv_head * group + first_in_group;

  T* const q = shared_memory<T>();
  load_queries<T, kDim, kDecodeThreads>(args, request, first_head, kDecodeRows, count, kDecodeRows, q);
  KvSource source;
  source.block_table = args.block_tables + args.cu_blocks[request];
  source.head_offset = static_cast<int64_t>(kv_head) * args.kv.block_size * heads.head_dim;
  source.visible = {low > segment * kSegmentKeys ? low : segment * kSegmentKeys,
                    position + 1 < segment_end ? position + 1 : segment_end};
  const int lane = threadIdx.x;
  RowPositions<1> rows;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    rows.position[0][h] = lane / 4 + 8 * h < count ? position : -1;
    rows.low[0][h] = low;
  }
  SegmentState<1, kDim> state;
  state.clear();
  const float scale = args.softmax_scale * args.kv.k_scale * kLog2E;
  for_tiles<T, Kv, kDim, kDecodeThreads>(
      args.kv, source, heads.head_dim, source.visible.low / kTileKeys,
      (source.visible.end + kTileKeys - 1) / kTileKeys, q + kDecodeRows * kDim,
      [&](const T* keys, const T* values, int first_key) {
        attend_tile<T, 1, kDim>(q, 0, keys, values, first_key, rows, scale, state);
      });

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float sum = state.row_sum(0, h);
    const int row = lane / 4 + 8 * h;
    if (row >= count) continue;
    const int64_t at = (request * heads.num_heads + first_head + row) * args.num_segments + segment;
    if (lane % 4 == 0) {
      args.partial_max[at] = state.max[0][h];
      args.partial_sum[at] = sum;
    }
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
      const int column = 8 * i + 2 * (lane % 4);
      if (column >= heads.head_dim) continue;
      args.partial_out[at * heads.head_dim + column] = state.out[0][i][2 * h];
      args.partial_out[at * heads.head_dim + column + 1] = state.out[0][i][2 * h + 1];
    }
  }
}

#define VLLM_PD_DECODE(name, T, Kv)                                                   \
  VLLM_PD_KERNEL(paged_attention_decode_##name##_64, AttentionArgs, kDecodeThreads) {  \
    paged_attention_decode<T, Kv, 64>(args);                                          \
  }                                                                                   \
  VLLM_PD_KERNEL(paged_attention_decode_##name##_128, AttentionArgs, kDecodeThreads) { \
    paged_attention_decode<T, Kv, 128>(args);                                         \
  }

VLLM_PD_DECODE(bf16, BF16, BF16)
VLLM_PD_DECODE(f16, F16, F16)
VLLM_PD_DECODE(bf16_e4m3, BF16, E4M3)
VLLM_PD_DECODE(f16_e4m3, F16, E4M3)

}  // namespace vllm_pd::cuda
