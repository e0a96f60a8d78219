// Scores and weighted values of few query rows, straight from the blocks: what decoding does. Every sum is the
// one that the packed panels of many rows form, in the same order.
#pragma once

#include "cpu/kernels.h"
#include "cpu/paged_rows.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kDirectRows = 8;
constexpr int kDirectVecs = 2;
#else
constexpr int kDirectRows = 4;
constexpr int kDirectVecs = 1;
#endif

/** scores (kRows, kSegment) of q (kRows, head_dim) with each key of the segment. */
template <bool kBf16, int kRows>
void score_rows(const AttentionArgs& args, const Slots& slots, const Slots& next, const float* q, float* scores) {
  const int64_t head_dim = args.head_dim;
  for (int64_t key = 0; key < slots.count; key += kLanes) {
    prefetch_rows(args.keys, next, key, key + kLanes, row_bytes_of(args));
    V16 sums[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sums[r] = splat(0.0f);
    each_element_of_keys<kBf16>(args, slots, key, [&](int64_t d, const V16& lanes) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sums[r] = fma(splat(q[r * head_dim + d]), lanes, sums[r]);
    });
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) store(scores + r * kSegment + key, sums[r]);
  }
}

/** Columns [column, column + kVecs * kLanes) of out (kRows, value_dim) = p (kRows, kSegment) · V. */
template <bool kBf16, int kRows, int kVecs>
VLLM_PD_INLINE void weigh_columns(const AttentionArgs& args, const Slots& slots, const KeyRange& range,
                                  int64_t column, const float* p, float* out, int64_t value_dim) {
  const int64_t columns = args.head_dim - column;
  const uint8_t* const values = args.values + column * (kBf16 ? 2 : 4);
  V16 sums[kRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) sums[r][v] = splat(0.0f);
  }
  const bool whole = columns >= kVecs * kLanes;
  for (int64_t key = range.begin; key < range.end; ++key) {
    const uint8_t* const row = values + slots.offset[key];
    V16 lanes[kVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      const int64_t left = whole ? kLanes : columns - v * kLanes;
      lanes[v] = left > 0 ? load_row<kBf16>(row + v * kLanes * (kBf16 ? 2 : 4), left) : splat(0.0f);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const V16 weight = splat(p[r * kSegment + key]);
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) sums[r][v] = fma(weight, lanes[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) store(out + r * value_dim + column + v * kLanes, sums[r][v]);
  }
}

/** out (kRows, value_dim) = p (kRows, kSegment) · V over these keys; columns from head_dim on become zeros. */
template <bool kBf16, int kRows>
void weigh_rows(const AttentionArgs& args, const Slots& slots, const KeyRange& range, const float* p, float* out,
                int64_t value_dim) {
  for (int64_t column = 0; column < value_dim; column += kDirectVecs * kLanes) {
    weigh_columns<kBf16, kRows, kDirectVecs>(args, slots, range, column, p, out, value_dim);
  }
}

/** Both with as many rows as there are, kDirectRows at most. */
template <bool kBf16, int kRows = kDirectRows>
VLLM_PD_INLINE void score_some(int64_t num_rows, const AttentionArgs& args, const Slots& slots, const Slots& next,
                               const float* q, float* scores) {
  if (num_rows == kRows) {
    score_rows<kBf16, kRows>(args, slots, next, q, scores);
  } else if constexpr (kRows > 1) {
    score_some<kBf16, kRows - 1>(num_rows, args, slots, next, q, scores);
  }
}

template <bool kBf16, int kRows = kDirectRows>
VLLM_PD_INLINE void weigh_some(int64_t num_rows, const AttentionArgs& args, const Slots& slots,
                               const KeyRange& range, const float* p, float* out, int64_t value_dim) {
  if (num_rows == kRows) {
    weigh_rows<kBf16, kRows>(args, slots, range, p, out, value_dim);
  } else if constexpr (kRows > 1) {
    weigh_some<kBf16, kRows - 1>(num_rows, args, slots, range, p, out, value_dim);
  }
}

}  // namespace
}  // namespace vllm_pd::cpu
