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
#include "cpu/attention_tiles.h"
#elif defined(VLLM_PD_AVX512_BF16)
#include "cpu/attention_pair_rows.h"
#endif

namespace vllm_pd::cpu {
namespace {

#if defined(VLLM_PD_AMX) || defined(VLLM_PD_AVX512_BF16)

struct Pairs {
  using Unit = PairUnit;
  static constexpr int64_t kBlockRows = Unit::kBlockRows;
  static constexpr int64_t kMaxDirectRows = Unit::kMaxDirectRows;
  static int64_t padded(int64_t k) { return (k + Unit::kStep - 1) / Unit::kStep * Unit::kStep; }

  static int64_t q_floats(int64_t head_dim) { return padded(head_dim) / 2; }

  static void take_query(const float* q, int64_t head_dim, float scale, float* out) {
    auto* const halves = reinterpret_cast<uint16_t*>(out);
    for (int64_t i = 0; i < head_dim; ++i) halves[i] = to_bfloat16(q[i] * scale);
    std::memset(halves + head_dim, 0, (padded(head_dim) - head_dim) * sizeof(uint16_t));
  }

  /** Probabilities of one row, in place of its scores. */
  static void put_row(const V16 p[kSegment / kLanes], float* row) { Unit::put_row(p, row); }

  /** All rows are put; `end` is behind the last one. */
  static void end_rows(float* end) { Unit::end_rows(end); }

  /** out (head_dim) = a row of sums times `factor`. */
  static void put_sums(const float* sums, float factor, int64_t head_dim, float* out) {
    Unit::put_sums(sums, factor, head_dim, out);
  }

  static bool reads_in_place(const AttentionArgs& args) { return Unit::reads_in_place(args); }

  static void score_rows(Unit& unit, const AttentionArgs& args, const Slots& slots, Wanted& wanted, const float* q,
                         int64_t num_rows, float* scores) {
    unit.score_rows(args, slots, wanted, q, num_rows, scores);
  }

  static void arrange_queries(float* q, int64_t num_rows, int64_t head_dim) {
    Unit::arrange_queries(q, num_rows, head_dim);
  }

  static void weigh_rows(Unit& unit, const AttentionArgs& args, const Slots& slots, Wanted& wanted,
                         const KeyRange& range, const float* p, int64_t num_rows, float* sums) {
    unit.weigh_rows(args, slots, wanted, range, p, num_rows, sums);
  }

  /** K into panels (kSegment / kPanel, padded head_dim / 2, kPanel) of pairs; keys beyond the last repeat it. */
  static void pack_keys(const AttentionArgs& args, const Slots& slots, Wanted&, float* panels) {
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

  /** V into panels, zeros outside the range; returns whether all are finite. */
  static bool pack_values(const AttentionArgs& args, const Slots& slots, const KeyRange& range, float* panels) {
    return Unit::pack_values(args, slots, range, panels);
  }

  /** scores (num_rows, kSegment) of q with keys [0, num_keys), in whole panels. */
  static void score_panels(Unit& unit, const float* q, int64_t head_dim, const float* panels, int64_t num_rows,
                           int64_t num_keys, float* scores) {
    unit.score_panels(q, padded(head_dim), panels, num_rows, (num_keys + kPanel - 1) / kPanel, scores);
  }

  /** sums (num_rows, value_dim) += p (num_rows, kSegment) · V; p is zero outside the range. */
  static void weigh_panels(Unit& unit, const float* p, const float* panels, const KeyRange& range, int64_t num_rows,
                           int64_t value_dim, float* sums) {
    unit.weigh_panels(p, panels, range, num_rows, value_dim, sums);
  }
};

using Bf16Attention = Pairs;

#else

using Bf16Attention = Widened<true>;

#endif

}  // namespace
}  // namespace vllm_pd::cpu
