// Attention in pairs of bfloat16: K and V as they are kept, queries and probabilities rounded to bfloat16, every sum
// float32. For the instruction sets that multiply pairs; what they make of one pair after the other is what
// matmul_bf16 makes of it, for few rows and for many.
#pragma once

#include "bfloat16.h"
#include "cpu/attention_rows.h"
#include "cpu/attention_widened.h"
#include "cpu/kernels.h"
#include "cpu/paged_rows.h"
#include "cpu/simd.h"
#if defined(VLLM_PD_AMX)
#include "cpu/matmul_amx.h"
#else
#include "cpu/matmul_narrow.h"
#endif
#if defined(__AVX512BF16__) && !defined(VLLM_PD_AMX)
#include "cpu/attention_pair_rows.h"
#endif

namespace vllm_pd::cpu {
namespace {

#if defined(VLLM_PD_AMX) || defined(__AVX512BF16__)

struct Pairs {
#if defined(VLLM_PD_AMX)
  static constexpr int64_t kBlockRows = 64;
  /** Elements of k that one instruction takes. */
  static constexpr int64_t kStep = 32;
  static void multiply(const MatmulArgs& args) { matmul_amx<AmxBf16>(args); }
#else
  static constexpr int64_t kBlockRows = 24;
  static constexpr int64_t kStep = 2;
  static void multiply(const MatmulArgs& args) { matmul_narrow<Bf16Format>(args); }
#endif
  static constexpr int64_t kScoreStride = kSegment * sizeof(float);

  static int64_t padded(int64_t k) { return (k + kStep - 1) / kStep * kStep; }

  static int64_t q_floats(int64_t head_dim) { return padded(head_dim) / 2; }

  static void take_query(const float* q, int64_t head_dim, float scale, float* out) {
    auto* const halves = reinterpret_cast<uint16_t*>(out);
    for (int64_t i = 0; i < head_dim; ++i) halves[i] = to_bfloat16(q[i] * scale);
    std::memset(halves + head_dim, 0, (padded(head_dim) - head_dim) * sizeof(uint16_t));
  }

  /** Probabilities of one row, in place of its scores: (kSegment) bfloat16. */
  static void put_row(const V16 p[kSegment / kLanes], float* row) {
#if defined(__AVX512BF16__)
    for (int i = 0; i < kSegment / kLanes; i += 2) {
      const __m512bh halves = _mm512_cvtne2ps_pbh((__m512)p[i + 1].part[0], (__m512)p[i].part[0]);
      std::memcpy(row + i / 2 * kLanes, &halves, sizeof(halves));
    }
#else
    float floats[kSegment];
    for (int i = 0; i < kSegment / kLanes; ++i) store(floats + i * kLanes, p[i]);
    auto* const halves = reinterpret_cast<uint16_t*>(row);
    for (int64_t i = 0; i < kSegment; ++i) halves[i] = to_bfloat16(floats[i]);
#endif
  }

#if defined(__AVX512BF16__) && !defined(VLLM_PD_AMX)
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

  static void weigh_rows(const AttentionArgs& args, const Slots& slots, Wanted& wanted, const KeyRange& range,
                         const float* p, int64_t num_rows, float* sums) {
    with_rows<8>(num_rows, [&](auto rows) { weigh_pairs<rows.value>(args, slots, wanted, range, p, sums); });
  }
#else
  /** Tiles take their rows from panels, however few. */
  static constexpr int64_t kMaxDirectRows = 0;
  static bool reads_in_place(const AttentionArgs&) { return false; }
  static void score_rows(const AttentionArgs&, const Slots&, Wanted&, const float*, int64_t, float*) {}
  static void weigh_rows(const AttentionArgs&, const Slots&, Wanted&, const KeyRange&, const float*, int64_t, float*) {}
#endif

  /** K into panels (kSegment / kPanel, padded head_dim / 2, kPanel) of pairs; keys beyond the last repeat it. */
  static void pack_keys(const AttentionArgs& args, const Slots& slots, float* panels) {
    const int64_t num_pairs = args.head_dim / 2;
    const int64_t num_steps = padded(args.head_dim) / 2;
    for (int64_t key = 0; key < (slots.count + kPanel - 1) / kPanel * kPanel; key += kLanes) {
      float* const panel = panels + key / kPanel * num_steps * kPanel + key % kPanel;
      for (int64_t pair = 0; pair < num_steps; pair += kLanes) {
        V16 pairs[kLanes];
        const int64_t left = num_pairs - pair;
        const int64_t count = left < kLanes ? left : kLanes;
        transpose_keys(args, slots, key, pair, count, pairs);
        for (int64_t i = 0; i < count; ++i) store(panel + (pair + i) * kPanel, pairs[i]);
        for (int64_t i = count; i < kLanes && pair + i < num_steps; ++i) store(panel + (pair + i) * kPanel, splat(0.0f));
      }
    }
  }

  /**
   * V into panels (value_dim / kPanel, kSegment / 2, kPanel) of pairs of keys, zeros outside the range; returns whether
   * all are finite.
   */
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
        const int magnitude = interleave(row(key), row(key + 1), count, panels + column * kSegment / 2 + key / 2 * kPanel);
        largest = magnitude > largest ? magnitude : largest;
      }
    }
    return largest < kInfinity;
  }

  /** scores (num_rows, kSegment) of q with keys [0, num_keys), in whole panels. */
  static void score_panels(const float* q, int64_t head_dim, const float* panels, int64_t num_rows, int64_t num_keys,
                           float* scores) {
    MatmulArgs args{};
    args.a = q;
    args.a_stride = q_floats(head_dim) * static_cast<int64_t>(sizeof(float));
    args.num_rows = num_rows;
    args.k = padded(head_dim);
    args.panels = panels;
    args.panel_end = (num_keys + kPanel - 1) / kPanel;
    args.n = kSegment;
    args.out = scores;
    multiply(args);
  }

  /** sums (num_rows, value_dim) += p (num_rows, kSegment) · V; p is zero outside the range. */
  static void weigh_panels(const float* p, const float* panels, const KeyRange& range, int64_t num_rows,
                           int64_t value_dim, float* sums) {
    const int64_t begin = range.begin / kStep * kStep;
    MatmulArgs args{};
    args.a = p + begin / 2;
    args.a_stride = kScoreStride;
    args.num_rows = num_rows;
    args.k = padded(range.end) - begin;
    args.panel_end = 1;
    args.n = value_dim;
    args.init_stride = value_dim;
    for (int64_t column = 0; column < value_dim; column += kPanel) {
      args.panels = panels + column * kSegment / 2 + begin / 2 * kPanel;
      args.init = args.out = sums + column;
      multiply(args);
    }
  }

 private:
  /** Magnitude of bfloat16 infinity; NaN is above it. */
  static constexpr int kInfinity = 0x7f80;

  /** Pairs of `count` columns, kPanel at most, of two rows (null: zeros); returns the largest magnitude. */
  static int interleave(const uint8_t* first, const uint8_t* second, int64_t count, float* out) {
#if defined(__AVX512F__)
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
    return _mm512_cmpge_epi16_mask(larger, _mm512_set1_epi16(kInfinity)) == 0 ? 0 : kInfinity;
#else
    auto* const to = reinterpret_cast<uint16_t*>(out);
    int largest = 0;
    for (int64_t i = 0; i < kPanel; ++i) {
      uint16_t pair[2] = {};
      if (first && i < count) std::memcpy(&pair[0], first + 2 * i, sizeof(uint16_t));
      if (second && i < count) std::memcpy(&pair[1], second + 2 * i, sizeof(uint16_t));
      std::memcpy(to + 2 * i, pair, sizeof(pair));
      for (const uint16_t half : pair) largest = (half & 0x7fff) > largest ? half & 0x7fff : largest;
    }
    return largest;
#endif
  }
};

using Bf16Attention = Pairs;

#else

using Bf16Attention = Widened<true>;

#endif

}  // namespace
}  // namespace vllm_pd::cpu
