// Scores and weighted values of few query rows in float32, straight from the blocks: what decoding does (with AVX2 its
// scores are attention_widened.h's). Every sum is the one that the packed panels of many rows form, in the same order.
#pragma once

#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/paged_rows.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

/** Rows taken at once at most, and how many sums of sixteen lanes each call keeps in registers. */
#if defined(VLLM_PD_AVX512)
constexpr int kDirectRows = 8;
constexpr int kDirectSums = 16;
#else
constexpr int kDirectRows = 4;
constexpr int kDirectSums = 4;
#endif

/** Vectors a row: sums enough that no addition waits for the one before it. */
constexpr int direct_vecs(int num_rows) {
  return 4 * num_rows <= kDirectSums ? 4 : 2 * num_rows <= kDirectSums ? 2 : 1;
}

#if defined(VLLM_PD_AVX512)

/** In each quarter of the vectors: lane i of out[j] is lane j of rows[i]. */
VLLM_PD_INLINE void transpose_quarters(const __m512 rows[4], __m512 out[4]) {
  const auto low = (__m512d)_mm512_maskz_unpacklo_ps(0xffff, rows[0], rows[1]);
  const auto high = (__m512d)_mm512_maskz_unpackhi_ps(0xffff, rows[0], rows[1]);
  const auto other_low = (__m512d)_mm512_maskz_unpacklo_ps(0xffff, rows[2], rows[3]);
  const auto other_high = (__m512d)_mm512_maskz_unpackhi_ps(0xffff, rows[2], rows[3]);
  out[0] = (__m512)_mm512_maskz_unpacklo_pd(0xff, low, other_low);
  out[1] = (__m512)_mm512_maskz_unpackhi_pd(0xff, low, other_low);
  out[2] = (__m512)_mm512_maskz_unpacklo_pd(0xff, high, other_high);
  out[3] = (__m512)_mm512_maskz_unpackhi_pd(0xff, high, other_high);
}

/** Words [0, 4) of sixteen rows of kRowBytes, lane i of out[j] word j of row i. */
template <int64_t kRowBytes>
VLLM_PD_INLINE void transpose_words(const uint8_t* from, V16 out[4]) {
  __m512 quads[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    // Rows i, 4 + i, 8 + i and 12 + i side by side: loads put them there, shuffles are dear.
    const auto quad = [&](int row) {
      return _mm_loadu_ps(reinterpret_cast<const float*>(from + (row + i) * kRowBytes));
    };
    quads[i] = _mm512_maskz_broadcast_f32x4(0x000f, quad(0));
    quads[i] = _mm512_mask_broadcast_f32x4(quads[i], 0x00f0, quad(4));
    quads[i] = _mm512_mask_broadcast_f32x4(quads[i], 0x0f00, quad(8));
    quads[i] = _mm512_mask_broadcast_f32x4(quads[i], 0xf000, quad(12));
  }
  __m512 words[4];
  transpose_quarters(quads, words);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) out[j].part[0] = (Native)words[j];
}

/** Of each of sixteen rows, words taken at once where so many rows of queries are multiplied with them. */
#if defined(VLLM_PD_AVX512_BF16) && !defined(VLLM_PD_AMX)
constexpr int words_of(int num_rows) { return num_rows <= 4 ? 8 : 4; }
#else
constexpr int words_of(int) { return 4; }
#endif

/**
 * transpose_words for eight: half as many loads and half as many shuffles more. That is faster where the chip shuffles as
 * often as it loads, as AMD's do.
 */
template <int64_t kRowBytes>
VLLM_PD_INLINE void transpose_eight(const uint8_t* from, V16 out[8]) {
  __m512 halves[2][4];
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    __m512 rows[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const uint8_t* const row = from + (8 * half + i) * kRowBytes;
      const __m512d low = _mm512_maskz_broadcast_f64x4(0x0f, _mm256_loadu_pd(reinterpret_cast<const double*>(row)));
      rows[i] = (__m512)_mm512_mask_broadcast_f64x4(low, 0xf0, _mm256_loadu_pd(reinterpret_cast<const double*>(row + 4 * kRowBytes)));
    }
    transpose_quarters(rows, halves[half]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    out[i].part[0] = (Native)_mm512_maskz_shuffle_f32x4(0xffff, halves[0][i], halves[1][i], 0x88);
    out[4 + i].part[0] = (Native)_mm512_maskz_shuffle_f32x4(0xffff, halves[0][i], halves[1][i], 0xdd);
  }
}

/** Words [0, kWords) of sixteen rows, lane i of out[j] word j of row i. */
template <int kWords, int64_t kRowBytes>
VLLM_PD_INLINE void transpose_run(const uint8_t* from, V16 out[kWords]) {
  if constexpr (kWords == 8) {
    transpose_eight<kRowBytes>(from, out);
  } else {
    transpose_words<kRowBytes>(from, out);
  }
}

/** score_rows of 32 keys that lie in two runs of sixteen, without a detour through memory. */
template <bool kBf16, int kRows, int64_t kRowBytes>
void score_runs(const uint8_t* const keys[2], Wanted& wanted, const float* q, float* scores) {
  constexpr int kPack = kBf16 ? 2 : 1;
  constexpr int64_t kHeadDim = kRowBytes / (kBf16 ? 2 : 4);
  V16 sums[kRows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = splat(0.0f);
  constexpr int kWords = words_of(kRows);
  for (int64_t word = 0; word < kRowBytes / 4; word += kWords) {
    V16 words[2][kWords];
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      wanted.ask<kWords / 2>();
      transpose_run<kWords, kRowBytes>(keys[v] + 4 * word, words[v]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kWords; ++i) {
#pragma GCC unroll 2
      for (int half = 0; half < kPack; ++half) {
        V16 lanes[2];
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
          lanes[v] = !kBf16 ? words[v][i] : half == 0 ? first_of_pair(words[v][i]) : second_of_pair(words[v][i]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const V16 x = splat(q[r * kHeadDim + kPack * (word + i) + half]);
          sums[r][0] = fma(x, lanes[0], sums[r][0]);
          sums[r][1] = fma(x, lanes[1], sums[r][1]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    store(scores + r * kSegment, sums[r][0]);
    store(scores + r * kSegment + kLanes, sums[r][1]);
  }
}

/** The segment's whole pairs of runs; returns how many keys that were. */
template <bool kBf16, int kRows, int64_t kRowBytes>
VLLM_PD_INLINE int64_t score_all_runs(const AttentionArgs& args, const Slots& slots, Wanted& wanted, const float* q, float* scores) {
  int64_t key = 0;
  for (; key + 2 * kLanes <= slots.count; key += 2 * kLanes) {
    const uint8_t* const keys[2] = {args.keys + slots.offset[key], args.keys + slots.offset[key + kLanes]};
    score_runs<kBf16, kRows, kRowBytes>(keys, wanted, q, scores + key);
  }
  return key;
}

/** Scores of the keys that come in runs of sixteen rows of a usual size; returns how many that were. */
template <bool kBf16, int kRows>
VLLM_PD_INLINE int64_t score_usual(const AttentionArgs& args, const Slots& slots, Wanted& wanted, const float* q, float* scores) {
  constexpr int kElement = kBf16 ? 2 : 4;
  if (args.block_size % kLanes != 0) return 0;
  if (args.head_dim == 64) return score_all_runs<kBf16, kRows, 64 * kElement>(args, slots, wanted, q, scores);
  if (args.head_dim == 128) return score_all_runs<kBf16, kRows, 128 * kElement>(args, slots, wanted, q, scores);
  return 0;
}

#else

template <bool kBf16, int kRows>
VLLM_PD_INLINE int64_t score_usual(const AttentionArgs&, const Slots&, Wanted&, const float*, float*) {
  return 0;
}

#endif

/**
 * Scores of the keys from `begin` on, kVecs * kLanes at a time. `begin` is a multiple of that: scores are written in
 * whole steps, and one that reached over the end of a row would write into the next one.
 */
template <bool kBf16, int kRows, int kVecs>
VLLM_PD_INLINE void score_from(const AttentionArgs& args, const Slots& slots, Wanted& wanted, int64_t begin, const float* q,
                               float* scores) {
  constexpr int kPack = kBf16 ? 2 : 1;
  const int64_t head_dim = args.head_dim;
  for (int64_t key = begin; key < slots.count; key += kVecs * kLanes) {
    V16 sums[kRows][kVecs];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sums[r][v] = splat(0.0f);
    }
    const int64_t num_words = row_bytes_of(args) / 4;
    for (int64_t word = 0; word < num_words; word += kLanes) {
      const int64_t count = num_words - word < kLanes ? num_words - word : kLanes;
      V16 words[kVecs][kLanes];
      for (int v = 0; v < kVecs; ++v) {
        wanted.ask<4>();
        wanted.ask<4>();
        transpose_keys(args, slots, key + v * kLanes, word, count, words[v]);
      }
      for (int64_t i = 0; i < count * kPack; ++i) {
        V16 lanes[kVecs];
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) {
          const V16& pair = words[v][i / kPack];
          lanes[v] = !kBf16 ? pair : i % 2 == 0 ? first_of_pair(pair) : second_of_pair(pair);
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const V16 x = splat(q[r * head_dim + word * kPack + i]);
#pragma GCC unroll 4
          for (int v = 0; v < kVecs; ++v) sums[r][v] = fma(x, lanes[v], sums[r][v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) store(scores + r * kSegment + key + v * kLanes, sums[r][v]);
    }
  }
}

/** scores (kRows, kSegment) of q (kRows, head_dim) with each key of the segment; asks for what is wanted next meanwhile. */
template <bool kBf16, int kRows>
void score_rows(const AttentionArgs& args, const Slots& slots, Wanted& wanted, const float* q, float* scores) {
  constexpr int kVecs = direct_vecs(kRows);
  const int64_t num_scored = score_usual<kBf16, kRows>(args, slots, wanted, q, scores);
  if (num_scored == 0) {
    score_from<kBf16, kRows, kVecs>(args, slots, wanted, 0, q, scores);
  } else {
    score_from<kBf16, kRows, kVecs < 2 ? kVecs : 2>(args, slots, wanted, num_scored, q, scores);
  }
}

/** Columns [column, column + kVecs * kLanes) of out (kRows, value_dim) += p (kRows, kSegment) · V. */
template <bool kBf16, int kRows, int kVecs>
VLLM_PD_INLINE void weigh_columns(const AttentionArgs& args, const Slots& slots, Wanted& wanted,
                                  const KeyRange& range, int64_t column, const float* p, float* out,
                                  int64_t value_dim) {
  const int64_t columns = args.head_dim - column;
  const uint8_t* const values = args.values + column * (kBf16 ? 2 : 4);
  constexpr int kLines = kBf16 ? (kVecs + 1) / 2 : kVecs;
  V16 sums[kRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) sums[r][v] = load(out + r * value_dim + column + v * kLanes);
  }
  const auto weigh = [&](int64_t key, auto is_whole) {
    const uint8_t* const row = values + slots.offset[key];
    V16 lanes[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      const int64_t left = is_whole.value ? kLanes : columns - v * kLanes;
      lanes[v] = left > 0 ? load_row<kBf16>(row + v * kLanes * (kBf16 ? 2 : 4), left) : splat(0.0f);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const V16 weight = splat(p[r * kSegment + key]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sums[r][v] = fma(weight, lanes[v], sums[r][v]);
    }
  };
  const auto weigh_all = [&](auto is_whole) {
    int64_t key = range.begin;
    for (; key + 2 <= range.end; key += 2) {
      wanted.ask<(kLines + 1) / 2 * 2>();
      weigh(key, is_whole);
      weigh(key + 1, is_whole);
    }
    if (key < range.end) weigh(key, is_whole);
  };
  if (columns >= kVecs * kLanes) {
    weigh_all(std::true_type());
  } else {
    weigh_all(std::false_type());
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) store(out + r * value_dim + column + v * kLanes, sums[r][v]);
  }
}

/** out (kRows, value_dim) += p (kRows, kSegment) · V over these keys; nothing is added to columns from head_dim on. */
template <bool kBf16, int kRows>
void weigh_rows(const AttentionArgs& args, const Slots& slots, Wanted& wanted, const KeyRange& range,
                const float* p, float* out, int64_t value_dim) {
  constexpr int kVecs = direct_vecs(kRows);
  int64_t column = 0;
  for (; column + kVecs * kLanes <= value_dim; column += kVecs * kLanes) {
    weigh_columns<kBf16, kRows, kVecs>(args, slots, wanted, range, column, p, out, value_dim);
  }
  if constexpr (kVecs > 2) {
    if (column < value_dim) weigh_columns<kBf16, kRows, 2>(args, slots, wanted, range, column, p, out, value_dim);
  }
}

}  // namespace
}  // namespace vllm_pd::cpu
