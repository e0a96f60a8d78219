// Scores and weighted values of few query rows in pairs of bfloat16, straight from the blocks: what decoding does.
// Every sum is the one that the packed panels of many rows form, in the same order. For AVX-512 with bf16 alone.
#pragma once

#include "cpu/attention_rows.h"
#include "cpu/kernels.h"
#include "cpu/paged_rows.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

VLLM_PD_INLINE V16 add_pairs(const V16& sums, const V16& a, const V16& b) {
  return {{(Native)_mm512_dpbf16_ps((__m512)sums.part[0], (__m512bh)a.part[0], (__m512bh)b.part[0])}};
}

/** Runs of sixteen keys that are scored together: enough sums that no addition waits for the one before it. */
constexpr int runs_of(int num_rows) { return num_rows <= 2 ? 4 : 2; }

/** Scores of kRuns runs of sixteen keys, kRowBytes a key; asks for what is wanted next meanwhile. */
template <int kRows, int kRuns, int64_t kRowBytes>
VLLM_PD_INLINE void score_pair_runs(const uint8_t* const keys[kRuns], Wanted& wanted, const float* q, float* scores) {
  constexpr int64_t kWords = kRowBytes / 4;
  V16 sums[kRows][kRuns];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kRuns; ++v) sums[r][v] = splat(0.0f);
  }
  for (int64_t word = 0; word < kWords; word += 4) {
    V16 words[kRuns][4];
#pragma GCC unroll 4
    for (int v = 0; v < kRuns; ++v) {
      wanted.ask<2>();
      transpose_words<kRowBytes>(keys[v] + 4 * word, words[v]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const V16 x = splat(q[r * kWords + word + i]);
#pragma GCC unroll 4
        for (int v = 0; v < kRuns; ++v) sums[r][v] = add_pairs(sums[r][v], x, words[v][i]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kRuns; ++v) store(scores + r * kSegment + v * kLanes, sums[r][v]);
  }
}

/** scores (kRows, kSegment) of q (kRows, kWords) with the segment's runs; of the last one slots may be read that hold no key. */
template <int kRows, int64_t kRowBytes>
void score_pairs(const AttentionArgs& args, const Slots& slots, Wanted& wanted, const float* q, float* scores) {
  constexpr int kRuns = runs_of(kRows);
  for (int64_t key = 0; key < slots.count; key += kRuns * kLanes) {
    const uint8_t* keys[kRuns];
    for (int v = 0; v < kRuns; ++v) {
      const int64_t first = key + v * kLanes;
      keys[v] = args.keys + slots.offset[first < slots.count ? first : key];
    }
    score_pair_runs<kRows, kRuns, kRowBytes>(keys, wanted, q, scores + key);
  }
}

/** Columns of V that are weighed together. */
constexpr int columns_of(int num_rows) { return num_rows <= 4 ? 64 : 32; }

/** Columns [column, column + kColumns) of sums (kRows, head_dim) += p (kRows, kSegment) · V. */
template <int kRows, int kColumns>
VLLM_PD_INLINE void weigh_pair_columns(const AttentionArgs& args, const Slots& slots, Wanted& wanted,
                                       const KeyRange& range, int64_t column, const float* p, float* sums) {
  constexpr int kHalves = kColumns / 32;
  // Of each 32 columns: those that unpacking puts low, those that it puts high.
  V16 partial[kRows][2 * kHalves];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < 2 * kHalves; ++v) partial[r][v] = splat(0.0f);
  }
  const auto add = [&](int64_t pair, const __m512i first[kHalves], const __m512i second[kHalves]) __attribute__((always_inline)) {
    V16 columns[2 * kHalves];
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      columns[2 * h].part[0] = (Native)_mm512_unpacklo_epi16(first[h], second[h]);
      columns[2 * h + 1].part[0] = (Native)_mm512_unpackhi_epi16(first[h], second[h]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const V16 weight = splat(p[r * kSegment + pair]);
#pragma GCC unroll 4
      for (int v = 0; v < 2 * kHalves; ++v) partial[r][v] = add_pairs(partial[r][v], weight, columns[v]);
    }
  };
  const auto load_key = [&](int64_t key, __m512i out[kHalves]) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      out[h] = _mm512_loadu_si512(args.values + slots.offset[key] + 2 * column + 64 * h);
    }
  };
  __m512i first[kHalves];
  __m512i second[kHalves];
  // A pair of which one key is not seen has zeros in its place.
  const auto clear = [](__m512i out[kHalves]) __attribute__((always_inline)) {
    for (int h = 0; h < kHalves; ++h) out[h] = _mm512_setzero_si512();
  };
  int64_t key = range.begin;
  if (key % 2 != 0) {
    clear(first);
    load_key(key, second);
    add(key / 2, first, second);
    ++key;
  }
  for (; key + 2 <= range.end; key += 2) {
    wanted.ask<2>();
    load_key(key, first);
    load_key(key + 1, second);
    add(key / 2, first, second);
  }
  if (key < range.end) {
    load_key(key, first);
    clear(second);
    add(key / 2, first, second);
  }
  const __m512i low_columns = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i high_columns = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      const auto low = (__m512d)partial[r][2 * h].part[0];
      const auto high = (__m512d)partial[r][2 * h + 1].part[0];
      float* const out = sums + r * args.head_dim + column + 32 * h;
      const V16 columns[2] = {{{(Native)_mm512_permutex2var_pd(low, low_columns, high)}},
                              {{(Native)_mm512_permutex2var_pd(low, high_columns, high)}}};
      store(out, columns[0] + load(out));
      store(out + kLanes, columns[1] + load(out + kLanes));
    }
  }
}

template <int kRows>
void weigh_pairs(const AttentionArgs& args, const Slots& slots, Wanted& wanted, const KeyRange& range, const float* p,
                 float* sums) {
  for (int64_t column = 0; column < args.head_dim; column += columns_of(kRows)) {
    weigh_pair_columns<kRows, columns_of(kRows)>(args, slots, wanted, range, column, p, sums);
  }
}

}  // namespace
}  // namespace vllm_pd::cpu
