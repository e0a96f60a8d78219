// Attention's products in AMX tiles: of many rows with packed panels, of few with K and V as they lie in their blocks.
#pragma once

#include <cstring>

#include "bfloat16.h"
#include "cpu/amx_formats.h"
#include "cpu/amx_tiles.h"
#include "cpu/attention_rows.h"
#include "cpu/kernels.h"
#include "cpu/paged_rows.h"

namespace vllm_pd::cpu {
namespace {

class PairUnit {
 public:
  /** Rows whose scores, probabilities and sums stay in the nearest cache together. */
  static constexpr int64_t kBlockRows = 64;
  /** Elements of k that one instruction takes. */
  static constexpr int64_t kStep = 32;

  PairUnit() = default;
  PairUnit(const PairUnit&) = delete;
  PairUnit& operator=(const PairUnit&) = delete;
  ~PairUnit() {
    if (first_rows_ != 0) release_tiles();
  }

  /** scores (num_rows, kSegment) of q (num_rows, k), bfloat16, with panels (kSegment / kPanel, k / 2, kPanel) of keys. */
  void score_panels(const float* q, int64_t k, const float* panels, int64_t num_rows, int64_t num_panels, float* scores) {
    for (int64_t row = 0; row < num_rows; row += 2 * kAmxRows) {
      const int64_t left = num_rows - row;
      if (left > kAmxRows) {
        configure(kAmxRows, left < 2 * kAmxRows ? left - kAmxRows : kAmxRows);
      } else {
        configure(left, left);
      }
      for (int64_t panel = 0; panel < num_panels; ++panel) {
        const float* const keys = panels + panel * k / 2 * kPanel;
        float* const out = scores + row * kSegment + panel * kPanel;
        if (left > kAmxRows) {
          score_panel<true>(q + row * k / 2, k, keys, out);
        } else {
          score_panel<false>(q + row * k / 2, k, keys, out);
        }
      }
    }
  }

  /** One tile of rows. */
  static constexpr int64_t kMaxDirectRows = kAmxRows;

  static bool reads_in_place(const AttentionArgs& args) {
    return args.block_size % kAmxRows == 0 && args.head_dim % kStep == 0 && args.head_dim <= kMaxDirectHead;
  }

  /** q (num_rows, head_dim) into columns (head_dim / 2, 16): word w of row r becomes lane r of the w-th; others are zeros. */
  static void arrange_queries(float* q, int64_t num_rows, int64_t head_dim) {
    const int64_t num_words = head_dim / 2;
    alignas(64) float rows[kMaxDirectHead / 2 * kAmxRows];
    std::memcpy(rows, q, num_rows * num_words * sizeof(float));
    for (int64_t word = 0; word < num_words; word += kLanes) {
      V16 in[kLanes];
      V16 words[kLanes];
      for (int64_t r = 0; r < kLanes; ++r) in[r] = r < num_rows ? load(rows + r * num_words + word) : splat(0.0f);
      transpose_16x16(in, words);
      for (int64_t i = 0; i < kLanes; ++i) store(q + (word + i) * kAmxRows, words[i]);
    }
  }

  /**
   * scores (num_rows, kSegment) of at most sixteen rows, `q` as arrange_queries leaves it. The other way round than for
   * many rows: keys are the rows of tiles, as they lie in their blocks, and queries the columns. Both ways add the same
   * products in the same order. Keys behind the segment's last one get some score or other.
   */
  void score_rows(const AttentionArgs& args, const Slots& slots, Wanted& wanted, const float* q, int64_t num_rows,
                  float* scores) {
    configure(kAmxRows, kAmxRows);
    const uint8_t* keys[kSegment / kAmxRows];
    for (int64_t run = 0; run < kSegment / kAmxRows; ++run) {
      const int64_t key = run * kAmxRows;
      keys[run] = args.keys + slots.offset[key < slots.count ? key : 0];
    }
    const int64_t row_bytes = row_bytes_of(args);
    zero_tile<0>();
    zero_tile<1>();
    zero_tile<2>();
    zero_tile<3>();
    for (int64_t byte = 0; byte < row_bytes; byte += kAmxRowBytes) {
      load_tile<6>(q + byte / 4 * kAmxRows, kAmxRowBytes);
      load_tile<4>(keys[0] + byte, row_bytes);
      load_tile<5>(keys[1] + byte, row_bytes);
      multiply_bf16<0, 4, 6>();
      multiply_bf16<1, 5, 6>();
      wanted.ask<2>();
      wanted.ask<2>();
      load_tile<4>(keys[2] + byte, row_bytes);
      load_tile<7>(keys[3] + byte, row_bytes);
      multiply_bf16<2, 4, 6>();
      multiply_bf16<3, 7, 6>();
      wanted.ask<2>();
      wanted.ask<2>();
    }
    alignas(64) float by_key[kSegment * kAmxRows];
    store_tile_to<0>(by_key, kAmxRowBytes);
    store_tile_to<1>(by_key + kAmxTileSums, kAmxRowBytes);
    store_tile_to<2>(by_key + 2 * kAmxTileSums, kAmxRowBytes);
    store_tile_to<3>(by_key + 3 * kAmxTileSums, kAmxRowBytes);
    transpose_scores(by_key, num_rows, wanted, scores);
  }

  /** sums (num_rows, head_dim) += p (num_rows, kSegment) · V over these keys, at most sixteen rows. */
  void weigh_rows(const AttentionArgs& args, const Slots& slots, Wanted& wanted, const KeyRange& range, const float* p,
                  int64_t num_rows, float* sums) {
    configure(kAmxRows, kAmxRows);
    const int64_t head_dim = args.head_dim;
    const int64_t sums_bytes = head_dim * static_cast<int64_t>(sizeof(float));
    // Whole tiles: what rows that do not exist come to is left behind.
    alignas(64) float whole[kAmxRows * kMaxDirectHead];
    std::memcpy(whole, sums, num_rows * sums_bytes);
    alignas(64) uint8_t seen[2][kAmxTileBytes];
    const auto values_of = [&](int64_t key, int64_t column) -> TileRows {
      wanted.ask<2>();
      wanted.ask<2>();
      if (key >= range.begin && key + kAmxRows <= range.end) {
        return {args.values + slots.offset[key] + 2 * column, row_bytes_of(args)};
      }
      uint8_t* const copy = seen[column / kPanel % 2];
      copy_seen(args, slots, range, key, column, copy);
      return {copy, kAmxRowBytes};
    };
    weigh_sixteen(range, p, head_dim, whole, values_of);
    std::memcpy(sums, whole, num_rows * sums_bytes);
  }

  /**
   * Probabilities rounded to bfloat16, as floats: pairs of zero and a probability. Two bytes further on they are pairs of a
   * probability and zero. So a tile of V, as it lies in its block, gives the sums of its odd columns with the one and of
   * its even columns with the other, and no pairs of keys need to be put together.
   */
  static void put_row(const V16 p[kSegment / kLanes], float* row) {
    for (int i = 0; i < kSegment / kLanes; ++i) {
#if defined(VLLM_PD_AVX512_BF16)
      const __m512i halves = _mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)_mm512_cvtneps_pbh((__m512)p[i].part[0]));
      _mm512_storeu_si512(row + i * kLanes, _mm512_maskz_slli_epi32(0xffff, halves, 16));
#else
      float floats[kLanes];
      store(floats, p[i]);
      for (int lane = 0; lane < kLanes; ++lane) row[i * kLanes + lane] = from_bfloat16(to_bfloat16(floats[lane]));
#endif
    }
  }

  /** The last pair of a row ends in the float behind it: in the next row's first one, or here. */
  static void end_rows(float* end) { *end = 0.0f; }

  /** Sums lie as tiles leave them: of each 32 columns the even ones, then the odd ones. */
  static void put_sums(const float* sums, float factor, int64_t head_dim, float* out) {
    for (int64_t column = 0; column < head_dim; column += kPanel) {
      const V16 even = load(sums + column) * splat(factor);
      const V16 odd = load(sums + column + kLanes) * splat(factor);
      alignas(64) float in_order[kPanel];
#if defined(VLLM_PD_AVX512)
      const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
      _mm512_store_ps(in_order, _mm512_permutex2var_ps((__m512)even.part[0], low, (__m512)odd.part[0]));
      _mm512_store_ps(in_order + kLanes, _mm512_permutex2var_ps((__m512)even.part[0], high, (__m512)odd.part[0]));
#else
      float halves[2][kLanes];
      store(halves[0], even);
      store(halves[1], odd);
      for (int64_t i = 0; i < kPanel; ++i) in_order[i] = halves[i % 2][i / 2];
#endif
      const int64_t left = head_dim - column;
      std::memcpy(out + column, in_order, (left < kPanel ? left : kPanel) * sizeof(float));
    }
  }

  /** Panels (value_dim / kPanel, kSegment, kPanel) of bfloat16. */
  static bool pack_values(const AttentionArgs& args, const Slots& slots, const KeyRange& range, float* panels) {
    int largest = 0;
    for (int64_t column = 0; column < args.head_dim; column += kPanel) {
      auto* const panel = reinterpret_cast<uint8_t*>(panels + column * kSegment / 2);
      for (int64_t key = 0; key < kSegment; key += kAmxRows) {
        const int magnitude = copy_seen(args, slots, range, key, column, panel + key * kAmxRowBytes);
        largest = magnitude > largest ? magnitude : largest;
      }
    }
    return largest < kInfiniteHalf;
  }

  void weigh_panels(const float* p, const float* panels, const KeyRange& range, int64_t num_rows, int64_t value_dim,
                    float* sums) {
    const auto values_of = [&](int64_t key, int64_t column) -> TileRows {
      return {reinterpret_cast<const uint8_t*>(panels + column * kSegment / 2) + key * kAmxRowBytes, kAmxRowBytes};
    };
    for (int64_t row = 0; row < num_rows; row += kAmxRows) {
      const int64_t rows = num_rows - row < kAmxRows ? num_rows - row : kAmxRows;
      configure(rows, rows);
      weigh_sixteen(range, p + row * kSegment, value_dim, sums + row * value_dim, values_of);
    }
  }

 private:
  static constexpr int64_t kMaxDirectHead = 256;
  /** Bytes from one row of probabilities to the next. */
  static constexpr int64_t kRowOfP = kSegment * sizeof(float);

  /** What is loaded into a tile. */
  struct TileRows {
    const uint8_t* rows;
    int64_t stride;
  };

  /** sums (sixteen rows at most, num_columns) += p · V, of which `values_of` finds sixteen keys' 32 columns. */
  template <typename ValuesOf>
  static void weigh_sixteen(const KeyRange& range, const float* p, int64_t num_columns, float* sums,
                            ValuesOf&& values_of) {
    for (int64_t column = 0; column < num_columns; column += 2 * kPanel) {
      if (column + kPanel < num_columns) {
        weigh_columns<true>(range, p, column, num_columns, sums + column, values_of);
      } else {
        weigh_columns<false>(range, p, column, num_columns, sums + column, values_of);
      }
    }
  }

  /** Two panels at a time where there are two: products onto one tile of sums wait for each other. */
  template <bool kTwoPanels, typename ValuesOf>
  VLLM_PD_INLINE static void weigh_columns(const KeyRange& range, const float* p, int64_t column, int64_t stride,
                                           float* sums, ValuesOf&& values_of) {
    const int64_t sums_bytes = stride * static_cast<int64_t>(sizeof(float));
    load_tile<0>(sums, sums_bytes);
    load_tile<1>(sums + kLanes, sums_bytes);
    if constexpr (kTwoPanels) {
      load_tile<2>(sums + kPanel, sums_bytes);
      load_tile<3>(sums + kPanel + kLanes, sums_bytes);
    }
    for (int64_t key = range.begin / kAmxRows * kAmxRows; key < range.end; key += kAmxRows) {
      const TileRows values = values_of(key, column);
      load_tile<4>(reinterpret_cast<const uint8_t*>(p + key) + 2, kRowOfP);
      load_tile<6>(values.rows, values.stride);
      multiply_bf16<0, 4, 6>();
      if constexpr (kTwoPanels) {
        const TileRows right = values_of(key, column + kPanel);
        load_tile<7>(right.rows, right.stride);
        multiply_bf16<2, 4, 7>();
      }
      load_tile<5>(p + key, kRowOfP);
      multiply_bf16<1, 5, 6>();
      if constexpr (kTwoPanels) multiply_bf16<3, 5, 7>();
    }
    store_tile_to<0>(sums, sums_bytes);
    store_tile_to<1>(sums + kLanes, sums_bytes);
    if constexpr (kTwoPanels) {
      store_tile_to<2>(sums + kPanel, sums_bytes);
      store_tile_to<3>(sums + kPanel + kLanes, sums_bytes);
    }
  }

  /** Sixteen keys' columns [column, column + 32) of V, zeros outside the range and behind the last; their largest magnitude. */
  static int copy_seen(const AttentionArgs& args, const Slots& slots, const KeyRange& range, int64_t begin,
                       int64_t column, uint8_t* out) {
    const int64_t left = args.head_dim - column;
    const int64_t count = left < kPanel ? left : kPanel;
    int largest = 0;
    for (int64_t key = begin; key < begin + kAmxRows; ++key, out += kAmxRowBytes) {
      const bool is_seen = key >= range.begin && key < range.end;
      const uint8_t* const from = is_seen ? args.values + slots.offset[key] + 2 * column : nullptr;
#if defined(VLLM_PD_AVX512)
      const auto mask = static_cast<__mmask32>((uint64_t{1} << count) - 1);
      const __m512i row = from ? _mm512_maskz_loadu_epi16(mask, from) : _mm512_setzero_si512();
      _mm512_storeu_si512(out, row);
      const __m512i magnitudes = _mm512_and_si512(row, _mm512_set1_epi16(0x7fff));
      if (_mm512_cmpge_epi16_mask(magnitudes, _mm512_set1_epi16(kInfiniteHalf)) != 0) largest = kInfiniteHalf;
#else
      uint16_t row[kPanel] = {};
      if (from) std::memcpy(row, from, count * sizeof(uint16_t));
      std::memcpy(out, row, sizeof(row));
      for (const uint16_t half : row) largest = (half & 0x7fff) > largest ? half & 0x7fff : largest;
#endif
    }
    return largest;
  }

  /** scores (num_rows, kSegment) from by_key (kSegment, 16). */
  static void transpose_scores(const float* by_key, int64_t num_rows, Wanted& wanted, float* scores) {
    for (int64_t key = 0; key < kSegment; key += kLanes) {
      const float* const from = by_key + key * kAmxRows;
      wanted.ask<2>();
#if defined(VLLM_PD_AVX512)
      for (int64_t row = 0; row < num_rows; row += 4) {
        V16 out[4];
        transpose_words<kAmxRowBytes>(reinterpret_cast<const uint8_t*>(from + row), out);
        for (int64_t i = 0; i < 4 && row + i < num_rows; ++i) store(scores + (row + i) * kSegment + key, out[i]);
      }
#else
      for (int64_t row = 0; row < num_rows; ++row) {
        for (int64_t i = 0; i < kLanes; ++i) scores[row * kSegment + key + i] = from[i * kAmxRows + row];
      }
#endif
    }
  }

  /** Rows of tiles 0, 1 and 4, and of 2, 3 and 5. Costs as much as multiplying a few tiles, so it is left as it is where it fits. */
  void configure(int64_t first_rows, int64_t second_rows) {
    if (first_rows_ == first_rows && second_rows_ == second_rows) return;
    configure_tiles(tiles_for(first_rows, second_rows));
    first_rows_ = first_rows;
    second_rows_ = second_rows;
  }

  template <bool kBoth>
  static void score_panel(const float* q, int64_t k, const float* keys, float* out) {
    constexpr int64_t kOutBytes = kSegment * sizeof(float);
    const int64_t q_bytes = k * static_cast<int64_t>(sizeof(uint16_t));
    const auto* first = reinterpret_cast<const uint8_t*>(q);
    const auto* second = first + kAmxRows * q_bytes;
    const auto* columns = reinterpret_cast<const uint8_t*>(keys);
    float* const below = out + kAmxRows * kSegment;
    zero_tile<0>();
    zero_tile<1>();
    if constexpr (kBoth) {
      zero_tile<2>();
      zero_tile<3>();
    }
    for (int64_t i = 0; i < k; i += kStep) {
      load_tile<6>(columns, kPanelStride);
      load_tile<4>(first, q_bytes);
      load_tile<7>(columns + kAmxRowBytes, kPanelStride);
      multiply_bf16<0, 4, 6>();
      multiply_bf16<1, 4, 7>();
      if constexpr (kBoth) {
        load_tile<5>(second, q_bytes);
        multiply_bf16<2, 5, 6>();
        multiply_bf16<3, 5, 7>();
      }
      first += kAmxRowBytes;
      second += kAmxRowBytes;
      columns += kAmxSteps * kPanelStride;
    }
    store_tile_to<0>(out, kOutBytes);
    store_tile_to<1>(out + kLanes, kOutBytes);
    if constexpr (kBoth) {
      store_tile_to<2>(below, kOutBytes);
      store_tile_to<3>(below + kLanes, kOutBytes);
    }
  }

  int64_t first_rows_ = 0;
  int64_t second_rows_ = 0;
};

}  // namespace
}  // namespace vllm_pd::cpu
