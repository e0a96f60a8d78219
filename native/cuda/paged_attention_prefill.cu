// paged_attention_prefill: queries of many tokens of a request over its cached prefix and themselves. Grid
// (num_tiles, num_kv_heads), kPrefillThreads threads: four warps of 32 rows, row r being token r / group, head
// r % group. Segments are merged in order, what was merged so far lying in `running` meanwhile.
#include "cuda/attention_tile.h"

namespace vllm_pd::cuda {

constexpr int kPrefillFragments = 2;

/** What a thread has merged so far; element i of its outputs lies at running[i * kPrefillThreads]. */
struct MergedRows {
  float max[kPrefillFragments][2];
  float sum[kPrefillFragments][2];
};

/** `state` joins `merged` and `running`; with `last`, `state` holds everything afterwards. */
template <int kDim>
VLLM_PD_DEVICE void merge_segment(SegmentState<kPrefillFragments, kDim>& state, MergedRows& merged, float* running,
                                  bool first, bool last) {
#pragma unroll
  for (int f = 0; f < kPrefillFragments; ++f) {
    MergeFactors factors[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      factors[h] = merge_weights(merged.max[f][h], merged.sum[f][h], state.max[f][h], state.row_sum(f, h));
    }
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float* const kept = running + ((f * (kDim / 8) + i) * 4 + j) * kPrefillThreads;
        const float out = merge_out(factors[j / 2], first ? 0.0f : *kept, state.out[f][i][j]);
        if (last) {
          state.out[f][i][j] = out;
        } else {
          *kept = out;
        }
      }
    }
  }
}

template <typename T, int kDim>
VLLM_PD_DEVICE void store_rows(const AttentionArgs& args, const AttentionTile& tile, int first_row, int group,
                               const SegmentState<kPrefillFragments, kDim>& state, const MergedRows& merged) {
  const HeadsArgs& heads = args.heads;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int f = 0; f < kPrefillFragments; ++f) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = first_row + 16 * f + 8 * h + lane / 4;
      if (row >= tile.num_tokens * group) continue;
      const int64_t token = tile.token + row / group;
      const int head = static_cast<int>(blockIdx.y) * group + row % group;
      T* const out = static_cast<T*>(args.out) + (token * heads.num_heads + head) * heads.head_dim;
      const float factor = args.kv.v_scale / merged.sum[f][h];
#pragma unroll
      for (int i = 0; i < kDim / 8; ++i) {
        const int column = 8 * i + 2 * (lane % 4);
        if (column >= heads.head_dim) continue;
        // Plus 0: a sum of nothing but zeros has one sign.
        *reinterpret_cast<uint32_t*>(out + column) = pack<T>(state.out[f][i][2 * h] * factor + 0.0f,
                                                             state.out[f][i][2 * h + 1] * factor + 0.0f);
      }
    }
  }
}

VLLM_PD_DEVICE RowPositions<kPrefillFragments> positions_of(const AttentionArgs& args, const AttentionTile& tile,
                                                            int first_row, int group) {
  RowPositions<kPrefillFragments> rows;
#pragma unroll
  for (int f = 0; f < kPrefillFragments; ++f) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = first_row + 16 * f + 8 * h + static_cast<int>(threadIdx.x) % 32 / 4;
      const bool present = row < tile.num_tokens * group;
      rows.position[f][h] = present ? args.positions[tile.token + row / group] : -1;
      rows.low[f][h] = first_visible(rows.position[f][h], args.sliding_window);
    }
  }
  return rows;
}

template <typename T, typename Kv, int kDim>
VLLM_PD_DEVICE void paged_attention_prefill(const AttentionArgs& args) {
  const AttentionTile tile = args.tiles[blockIdx.x];
  const HeadsArgs& heads = args.heads;
  const int group = heads.num_heads / heads.num_kv_heads;
  const int first_row = static_cast<int>(threadIdx.x) / 32 * 16 * kPrefillFragments;
  T* const q = shared_memory<T>();
  load_queries<T, kDim, kPrefillThreads>(args, tile.token, static_cast<int>(blockIdx.y) * group, group,
                                         tile.num_tokens * group, kPrefillRows, q);
  KvSource source;
  source.block_table = args.block_tables + args.cu_blocks[tile.request];
  source.head_offset = static_cast<int64_t>(blockIdx.y) * args.kv.block_size * heads.head_dim;
  source.visible = {first_visible(args.positions[tile.token], args.sliding_window),
                    args.positions[tile.token + tile.num_tokens - 1] + 1};
  const RowPositions<kPrefillFragments> rows = positions_of(args, tile, first_row, group);
  const float scale = args.softmax_scale * args.kv.k_scale * kLog2E;
  const int begin = source.visible.low / kTileKeys;
  const int end = (source.visible.end + kTileKeys - 1) / kTileKeys;
  const int64_t block = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  float* const running = args.running + block * kPrefillRows * kDim + threadIdx.x;

  SegmentState<kPrefillFragments, kDim> state;
  state.clear();
  MergedRows merged;
#pragma unroll
  for (int f = 0; f < kPrefillFragments; ++f) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      merged.max[f][h] = negative_infinity();
      merged.sum[f][h] = 0.0f;
    }
  }
  bool first = true;
  for_tiles<T, Kv, kDim, kPrefillThreads>(
      args.kv, source, heads.head_dim, begin, end, q + kPrefillRows * kDim,
      [&](const T* keys, const T* values, int first_key) {
        attend_tile<T, kPrefillFragments, kDim>(q, first_row, keys, values, first_key, rows, scale, state);
        const int next = first_key + kTileKeys;
        const bool last = next >= source.visible.end;
        if (!last && next % kSegmentKeys != 0) return;
        merge_segment<kDim>(state, merged, running, first, last);
        first = false;
        if (!last) state.clear();
      });
  store_rows<T, kDim>(args, tile, first_row, group, state, merged);
}

#define VLLM_PD_PREFILL(name, T, Kv)                                                   \
  VLLM_PD_KERNEL(paged_attention_prefill_##name##_64, AttentionArgs, kPrefillThreads) { \
    paged_attention_prefill<T, Kv, 64>(args);                                          \
  }                                                                                    \
  VLLM_PD_KERNEL(paged_attention_prefill_##name##_128, AttentionArgs, kPrefillThreads) { \
    paged_attention_prefill<T, Kv, 128>(args);                                         \
  }

VLLM_PD_PREFILL(bf16, BF16, BF16)
VLLM_PD_PREFILL(f16, F16, F16)
VLLM_PD_PREFILL(bf16_e4m3, BF16, E4M3)
VLLM_PD_PREFILL(f16_e4m3, F16, E4M3)

}  // namespace vllm_pd::cuda
