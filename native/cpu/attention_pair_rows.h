// Scores and weighted values of few query rows in pairs of bfloat16, straight from the blocks: what decoding does.
// Every sum is the one that the packed panels of many rows form, in the same order. For AVX-512 with bf16 alone.
#pragma once

#include "cpu/attention_rows.h"
#include "cpu/attention_widened.h"
#include "cpu/kernels.h"
#include "cpu/matmul.h"
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
  constexpr int64_t kRowWords = kRowBytes / 4;
  V16 sums[kRows][kRuns];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kRuns; ++v) sums[r][v] = splat(0.0f);
  }
  constexpr int kWords = words_of(kRows);
  for (int64_t word = 0; word < kRowWords; word += kWords) {
    // Two runs' words at a time: registers hold no more beside the sums.
#pragma GCC unroll 2
    for (int first = 0; first < kRuns; first += 2) {
      V16 words[2][kWords];
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        wanted.ask<kWords / 2>();
        transpose_run<kWords, kRowBytes>(keys[first + v] + 4 * word, words[v]);
      }
#pragma GCC unroll 8
      for (int i = 0; i < kWords; ++i) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const V16 x = splat(q[r * kRowWords + word + i]);
#pragma GCC unroll 2
          for (int v = 0; v < 2; ++v) sums[r][first + v] = add_pairs(sums[r][first + v], x, words[v][i]);
        }
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

/** Pairs of `count` columns, kPanel at most, of two rows (null: zeros); returns the largest magnitude. */
VLLM_PD_INLINE int interleave_pairs(const uint8_t* first, const uint8_t* second, int64_t count, float* out) {
  const auto mask = static_cast<__mmask32>((uint64_t{1} << count) - 1);
  const __m512i a = first ? _mm512_maskz_loadu_epi16(mask, first) : _mm512_setzero_si512();
  const __m512i b = second ? _mm512_maskz_loadu_epi16(mask, second) : _mm512_setzero_si512();
  const __m512i low = _mm512_unpacklo_epi16(a, b);
  const __m512i high = _mm512_unpackhi_epi16(a, b);
  const __m512i first_columns = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i last_columns = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  _mm512_storeu_si512(out, _mm512_permutex2var_epi64(low, first_columns, high));
  _mm512_storeu_si512(out + kLanes, _mm512_permutex2var_epi64(low, last_columns, high));
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  const __m512i larger = _mm512_max_epi16(_mm512_and_si512(a, magnitude), _mm512_and_si512(b, magnitude));
  return _mm512_cmpge_epi16_mask(larger, _mm512_set1_epi16(kInfiniteHalf)) == 0 ? 0 : kInfiniteHalf;
}

/** Products in the instructions of AVX-512 with bf16. */
struct PairUnit {
  /** Rows whose scores, probabilities and sums stay in the nearest cache together. */
  static constexpr int64_t kBlockRows = 24;
  /** Elements of k that one instruction takes. */
  static constexpr int64_t kStep = 2;
  static constexpr int64_t kMaxDirectRows = 8;

  static bool reads_in_place(const AttentionArgs& args) {
    return args.block_size % kLanes == 0 && (args.head_dim == 64 || args.head_dim == 128);
  }

  static void score_rows(const AttentionArgs& args, const Slots& slots, Wanted& wanted, const float* q, int64_t num_rows,
                         float* scores) {
    with_rows<8>(num_rows, [&](auto rows) {
      if (args.head_dim == 64) return score_pairs<rows.value, 128>(args, slots, wanted, q, scores);
      score_pairs<rows.value, 256>(args, slots, wanted, q, scores);
    });
  }

  static void arrange_queries(float*, int64_t, int64_t) {}

  static void weigh_rows(const AttentionArgs& args, const Slots& slots, Wanted& wanted, const KeyRange& range,
                         const float* p, int64_t num_rows, float* sums) {
    with_rows<8>(num_rows, [&](auto rows) { weigh_pairs<rows.value>(args, slots, wanted, range, p, sums); });
  }

  static void put_row(const V16 p[kSegment / kLanes], float* row) {
    for (int i = 0; i < kSegment / kLanes; i += 2) {
      const __m512bh halves = _mm512_cvtne2ps_pbh((__m512)p[i + 1].part[0], (__m512)p[i].part[0]);
      std::memcpy(row + i / 2 * kLanes, &halves, sizeof(halves));
    }
  }

  static void end_rows(float*) {}

  static void put_sums(const float* sums, float factor, int64_t head_dim, float* out) {
    for (int64_t d = 0; d < head_dim; ++d) out[d] = sums[d] * factor;
  }

  /** Panels (value_dim / kPanel, kSegment / 2, kPanel) of pairs of keys. */
  static bool pack_values(const AttentionArgs& args, const Slots& slots, const KeyRange& range, float* panels) {
    int largest = 0;
    for (int64_t column = 0; column < args.head_dim; column += kPanel) {
      const int64_t left = args.head_dim - column;
      const int64_t count = left < kPanel ? left : kPanel;
      for (int64_t key = 0; key < kSegment; key += 2) {
        const auto row = [&](int64_t k) {
          const bool exists = k >= range.begin && k < range.end;
          return exists ? args.values + slots.offset[k] + column * 2 : nullptr;
        };
        const int magnitude =
            interleave_pairs(row(key), row(key + 1), count, panels + column * kSegment / 2 + key / 2 * kPanel);
        largest = magnitude > largest ? magnitude : largest;
      }
    }
    return largest < kInfiniteHalf;
  }

  void score_panels(const float* q, int64_t k, const float* panels, int64_t num_rows, int64_t num_panels, float* scores) {
    MatmulArgs args{};
    args.a = q;
    args.a_stride = k * static_cast<int64_t>(sizeof(uint16_t));
    args.num_rows = num_rows;
    args.k = k;
    args.panels = panels;
    args.panel_end = num_panels;
    args.n = kSegment;
    args.out = scores;
    matmul<Bf16Format>(args);
  }

  void weigh_panels(const float* p, const float* panels, const KeyRange& range, int64_t num_rows, int64_t value_dim,
                    float* sums) {
    const int64_t begin = range.begin / kStep * kStep;
    MatmulArgs args{};
    args.a = p + begin / 2;
    args.a_stride = kSegment * static_cast<int64_t>(sizeof(float));
    args.num_rows = num_rows;
    args.k = (range.end + kStep - 1) / kStep * kStep - begin;
    args.panel_end = 1;
    args.n = value_dim;
    args.init_stride = value_dim;
    for (int64_t column = 0; column < value_dim; column += kPanel) {
      args.panels = panels + column * kSegment / 2 + begin / 2 * kPanel;
      args.init = args.out = sums + column;
      matmul<Bf16Format>(args);
    }
  }
};

}  // namespace
}  // namespace vllm_pd::cpu
