// Attention of a warp's query rows over one tile of keys at a time, the same for prefill and decode: a row's bits
// depend on its query, its position and the keys before it, never on how many rows are beside it.
#pragma once

#include "cuda/args.h"
#include "cuda/vectors.h"

namespace vllm_pd::cuda {

constexpr int kKeyTiles = kTileKeys / 8;

/** Softmax under way over one segment. Lane (g, t) has rows g and g + 8 of each fragment of 16, of each 8
 * columns two, and of each row's sum a quarter. Maxima are in units of log2. */
template <int kFragments, int kDim>
struct SegmentState {
  float out[kFragments][kDim / 8][4];
  float max[kFragments][2];
  float sum[kFragments][2];

  VLLM_PD_DEVICE void clear() {
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
#pragma unroll
      for (int i = 0; i < kDim / 8; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) out[f][i][j] = 0.0f;
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        max[f][h] = negative_infinity();
        sum[f][h] = 0.0f;
      }
    }
  }

  /** Each row's whole sum, in each of its four lanes. */
  VLLM_PD_DEVICE float row_sum(int f, int h) const {
    float total = sum[f][h];
    total += shuffle_xor(total, 1);
    return total + shuffle_xor(total, 2);
  }
};

/** How a finished segment joins those before it, in order: out = keep * out + add * segment's. */
struct MergeFactors {
  float keep;
  float add;
};

/** A segment without a visible key leaves everything as it was. */
VLLM_PD_DEVICE MergeFactors merge_weights(float& max, float& sum, float segment_max, float segment_sum) {
  if (segment_sum == 0.0f) return {1.0f, 0.0f};
  const float both = max > segment_max ? max : segment_max;
  const MergeFactors factors{exp2_fast(max - both), exp2_fast(segment_max - both)};
  max = both;
  sum = fused(factors.keep, sum, factors.add * segment_sum);
  return factors;
}

VLLM_PD_DEVICE float merge_out(const MergeFactors& factors, float out, float segment_out) {
  return fused(factors.keep, out, factors.add * segment_out);
}

/** Keys that anybody here sees: [low, end). Others are taken for zeros, whatever lies in their place. */
struct KeyRange {
  int low;
  int end;
};

struct KvSource {
  const int32_t* block_table;
  int64_t head_offset;  // of the KV head within a layer's K of a block, in elements
  KeyRange visible;
};

VLLM_PD_DEVICE int64_t key_offset(const KvLayerArgs& kv, const KvSource& source, int key, int head_dim) {
  const int block = kv.block_shift >= 0 ? key >> kv.block_shift : key / kv.block_size;
  const int slot = key - block * kv.block_size;
  return source.block_table[block] * kv.block_stride + source.head_offset + static_cast<int64_t>(slot) * head_dim;
}

template <typename T>
VLLM_PD_DEVICE void load_kv_chunk(T* shared, const T* from, bool present) {
  copy_async(shared, from, present ? 16 : 0);
}
template <typename T>
VLLM_PD_DEVICE void load_kv_chunk(T* shared, const E4M3* from, bool present) {
  float values[kChunk] = {};
  if (present) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t bytes = reinterpret_cast<const uint32_t*>(from)[half];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        values[4 * half + i] = to_float(E4M3{static_cast<uint8_t>(bytes >> (8 * i))});
    }
  }
  store_chunk(shared, values);
}

/** Begins to bring K and V of keys [first, first + kTileKeys) to shared memory, (kTileKeys, kDim) each. */
template <typename T, typename Kv, int kDim, int kThreads>
VLLM_PD_DEVICE void load_tile(const KvLayerArgs& kv, const KvSource& source, int first, int head_dim, T* keys,
                              T* values) {
  constexpr int kRowChunks = kDim / kChunk;
  constexpr int kRowsAtOnce = kThreads / kRowChunks;
  const int chunk = static_cast<int>(threadIdx.x) % kRowChunks;
#pragma unroll
  for (int i = 0; i < kTileKeys / kRowsAtOnce; ++i) {
    const int row = static_cast<int>(threadIdx.x) / kRowChunks + i * kRowsAtOnce;
    const int key = first + row;
    const bool present = key >= source.visible.low && key < source.visible.end && chunk * kChunk < head_dim;
    const int64_t offset = present ? key_offset(kv, source, key, head_dim) + chunk * kChunk : 0;
    const int to = swizzled(row, chunk, kRowChunks);
    load_kv_chunk(keys + to, static_cast<const Kv*>(kv.keys) + offset, present);
    load_kv_chunk(values + to, static_cast<const Kv*>(kv.values) + offset, present);
  }
}

/** scores (16 kFragments, kTileKeys) = q · kᵀ; `q_row` is the warp's first row in (rows, kDim) of q. */
template <typename T, int kFragments, int kDim>
VLLM_PD_DEVICE void score(const T* q, int q_row, const T* keys, float (&scores)[kFragments][kKeyTiles][4]) {
  constexpr int kRowChunks = kDim / kChunk;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int f = 0; f < kFragments; ++f) {
#pragma unroll
    for (int i = 0; i < kKeyTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) scores[f][i][j] = 0.0f;
    }
  }
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    uint32_t a[kFragments][4];
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
      const int row = q_row + 16 * f + lane % 16;
      load_matrices(a[f], q + swizzled(row, 2 * step + lane / 16, kRowChunks));
    }
#pragma unroll
    for (int pair = 0; pair < kKeyTiles / 2; ++pair) {
      uint32_t b[4];
      const int key = 16 * pair + lane % 8 + lane / 16 * 8;
      load_matrices(b, keys + swizzled(key, 2 * step + lane / 8 % 2, kRowChunks));
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
        multiply_add<T>(scores[f][2 * pair], a[f], b[0], b[1]);
        multiply_add<T>(scores[f][2 * pair + 1], a[f], b[2], b[3]);
      }
    }
  }
}

/** Scales one row half's scores and hides what its query does not see. */
VLLM_PD_DEVICE void scale_and_mask(float (&scores)[kKeyTiles][4], int h, int first, int position, int low,
                                   float scale) {
  const int column = 2 * (threadIdx.x % 4);
  const bool all = first >= low && first + kTileKeys - 1 <= position;
#pragma unroll
  for (int i = 0; i < kKeyTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int key = first + 8 * i + column + j;
      float& value = scores[i][2 * h + j];
      value = all || (key <= position && key >= low) ? value * scale : negative_infinity();
    }
  }
}

/** Turns one row half's scores into e^(score - maximum) and counts them in; returns the factor by which what was
 * summed before is to be scaled. */
VLLM_PD_DEVICE float exponentials(float (&scores)[kKeyTiles][4], int h, float& max, float& sum) {
  float highest = max;
#pragma unroll
  for (int i = 0; i < kKeyTiles; ++i) {
    highest = fmaxf(highest, fmaxf(scores[i][2 * h], scores[i][2 * h + 1]));
  }
  highest = fmaxf(highest, shuffle_xor(highest, 1));
  highest = fmaxf(highest, shuffle_xor(highest, 2));
  // Nothing seen yet: any finite base makes zeros of the scores.
  const float base = highest == negative_infinity() ? 0.0f : highest;
  const float factor = exp2_fast(max - base);
  max = highest;
  sum = sum * factor;
#pragma unroll
  for (int i = 0; i < kKeyTiles; ++i) {
    scores[i][2 * h] = exp2_fast(scores[i][2 * h] - base);
    scores[i][2 * h + 1] = exp2_fast(scores[i][2 * h + 1] - base);
    sum = sum + (scores[i][2 * h] + scores[i][2 * h + 1]);
  }
  return factor;
}

/** out += weights · values */
template <typename T, int kFragments, int kDim>
VLLM_PD_DEVICE void weigh_values(const float (&weights)[kFragments][kKeyTiles][4], const T* values,
                                 float (&out)[kFragments][kDim / 8][4]) {
  constexpr int kRowChunks = kDim / kChunk;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < kTileKeys / 16; ++step) {
    uint32_t a[kFragments][4];
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&pair)[4] = weights[f][2 * step + i / 2];
        a[f][i] = pack<T>(pair[2 * (i % 2)], pair[2 * (i % 2) + 1]);
      }
    }
#pragma unroll
    for (int pair = 0; pair < kDim / 16; ++pair) {
      uint32_t b[4];
      load_matrices_transposed(b, values + swizzled(16 * step + lane % 16, 2 * pair + lane / 16, kRowChunks));
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
        multiply_add<T>(out[f][2 * pair], a[f], b[0], b[1]);
        multiply_add<T>(out[f][2 * pair + 1], a[f], b[2], b[3]);
      }
    }
  }
}

/** A row's query: its position (-1 = no such row), and the first position that it sees. */
template <int kFragments>
struct RowPositions {
  int position[kFragments][2];
  int low[kFragments][2];
};

template <typename T, int kFragments, int kDim>
VLLM_PD_DEVICE void attend_tile(const T* q, int q_row, const T* keys, const T* values, int first,
                                const RowPositions<kFragments>& rows, float scale,
                                SegmentState<kFragments, kDim>& state) {
  float scores[kFragments][kKeyTiles][4];
  score<T, kFragments, kDim>(q, q_row, keys, scores);
  float factors[kFragments][2];
  bool rescale = false;
#pragma unroll
  for (int f = 0; f < kFragments; ++f) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      scale_and_mask(scores[f], h, first, rows.position[f][h], rows.low[f][h], scale);
      factors[f][h] = exponentials(scores[f], h, state.max[f][h], state.sum[f][h]);
      rescale = rescale || factors[f][h] != 1.0f;
    }
  }
  // Times 1 changes no bit, so that rows whose maximum stays cost nothing.
  if (any_lane(rescale)) {
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
#pragma unroll
      for (int i = 0; i < kDim / 8; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) state.out[f][i][j] = state.out[f][i][j] * factors[f][j / 2];
      }
    }
  }
  weigh_values<T, kFragments, kDim>(scores, values, state.out);
}

/** Rows of q into shared memory, (num_rows, kDim), zeros behind head_dim and behind the last row: row r is head
 * first_head + r % group of token first_token + r / group. */
template <typename T, int kDim, int kThreads>
VLLM_PD_DEVICE void load_queries(const AttentionArgs& args, int64_t first_token, int first_head, int group,
                                 int count, int num_rows, T* q) {
  constexpr int kRowChunks = kDim / kChunk;
  const HeadsArgs& heads = args.heads;
  const int64_t stride = static_cast<int64_t>(heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim;
  const T* const qkv = static_cast<const T*>(args.qkv);
  for (int i = threadIdx.x; i < num_rows * kRowChunks; i += kThreads) {
    const int row = i / kRowChunks;
    const int chunk = i % kRowChunks;
    const bool present = row < count && chunk * kChunk < heads.head_dim;
    const int64_t offset =
        present ? (first_token + row / group) * stride + (first_head + row % group) * heads.head_dim + chunk * kChunk
                : 0;
    copy_async(q + swizzled(row, chunk, kRowChunks), qkv + offset, present ? 16 : 0);
  }
}

VLLM_PD_DEVICE int first_visible(int position, int sliding_window) {
  return sliding_window > 0 && position >= sliding_window ? position - sliding_window + 1 : 0;
}

/** Tiles [begin, end) of `source`, `at_tile` being called with each one's K and V and its first key. */
template <typename T, typename Kv, int kDim, int kThreads, typename AtTile>
VLLM_PD_DEVICE void for_tiles(const KvLayerArgs& kv, const KvSource& source, int head_dim, int begin, int end,
                              T* stages, AtTile at_tile) {
  constexpr int kElements = kTileKeys * kDim;
  const auto load = [&](int tile) {
    if (tile < end) {
      T* const keys = stages + (tile - begin) % kAttentionStages * 2 * kElements;
      load_tile<T, Kv, kDim, kThreads>(kv, source, tile * kTileKeys, head_dim, keys, keys + kElements);
    }
    commit_copies();
  };
  for (int i = 0; i < kAttentionStages - 1; ++i) load(begin + i);
  for (int tile = begin; tile < end; ++tile) {
    wait_copies<kAttentionStages - 2>();
    // Everybody's part has come, and nobody reads any more what is overwritten next.
    barrier();
    load(tile + kAttentionStages - 1);
    const T* const keys = stages + (tile - begin) % kAttentionStages * 2 * kElements;
    at_tile(keys, keys + kElements, tile * kTileKeys);
  }
}

}  // namespace vllm_pd::cuda
