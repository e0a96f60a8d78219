// Which keys of a segment a row sees, and the probabilities that its scores become.
#pragma once

#include "cpu/attention_state.h"
#include "cpu/kernels.h"
#include "cpu/paged_rows.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

/** Of the segment that begins at position `begin`, counted from there: keys at most at the token's, and within its window. */
VLLM_PD_INLINE KeyRange keys_in_segment(const AttentionArgs& args, int64_t token, int64_t begin) {
  const int64_t position = args.positions[token];
  const int64_t first = args.sliding_window > 0 ? position + 1 - args.sliding_window - begin : 0;
  const int64_t end = position + 1 - begin;
  return {first < 0 ? 0 : first, end < 0 ? 0 : end < kSegment ? end : kSegment};
}

struct Segment {
  int64_t begin;
  const Slots* slots;
};

/** Rows [row, row + num_rows) of one KV head with a segment, and the keys that any of them sees. */
struct RowBlock {
  int64_t row;
  int64_t num_rows;
  KeyRange keys;
  bool sees_all;  // every row every key of the segment

  bool sees_none() const { return keys.begin >= keys.end; }
};

VLLM_PD_INLINE RowBlock block_of_rows(const AttentionArgs& args, int64_t row, int64_t num_rows, int64_t begin) {
  RowBlock block{row, num_rows, {kSegment, 0}, true};
  for (int64_t token = row / args.group_size; token * args.group_size < row + num_rows; ++token) {
    const KeyRange keys = keys_in_segment(args, token, begin);
    block.sees_all = block.sees_all && keys.begin == 0 && keys.end == kSegment;
    if (keys.begin >= keys.end) continue;
    block.keys.begin = keys.begin < block.keys.begin ? keys.begin : block.keys.begin;
    block.keys.end = keys.end > block.keys.end ? keys.end : block.keys.end;
  }
  return block;
}

constexpr int kSegmentVecs = kSegment / kLanes;

/** Scores of one row; those of keys that it does not see are -infinity. */
VLLM_PD_INLINE void load_scores(const float* scores, const RowBlock& block, const KeyRange& keys, V16 out[kSegmentVecs]) {
#pragma GCC unroll 4
  for (int i = 0; i < kSegmentVecs; ++i) {
    out[i] = load(scores + i * kLanes);
    if (!block.sees_all) out[i] = within(out[i], i * kLanes, keys.begin, keys.end, -__builtin_inff());
  }
}

/** `soften` of kRows rows that see the whole segment: what decoding does all the time. */
template <typename Format, int kRows>
VLLM_PD_INLINE void soften_whole(int64_t value_dim, float* scores, Wanted& wanted, const AttentionState& state) {
  V16 rows[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    wanted.ask<2>();
    const float* const x = scores + r * kSegment;
    rows[r] = max(max(load(x), load(x + kLanes)), max(load(x + 2 * kLanes), load(x + 3 * kLanes)));
  }
  alignas(64) float maxima[kLanes];
  alignas(64) float keep[kLanes];
  const V16 before = load_some(state.maxima, kRows);
  const V16 now = max(before, reduce_rows<kRows>(rows, native_max));
  const V16 kept = exp2(before - now);
  store(maxima, now);
  store(keep, kept);
  store_some(state.maxima, now, kRows);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    float* const row = scores + r * kSegment;
    wanted.ask<2>();
    V16 p[kSegmentVecs];
#pragma GCC unroll 4
    for (int i = 0; i < kSegmentVecs; ++i) p[i] = exp2(load(row + i * kLanes) - splat(maxima[r]));
    rows[r] = (p[0] + p[1]) + (p[2] + p[3]);
    Format::put_row(p, row);
  }
  const V16 sums = reduce_rows<kRows>(rows, [](const Native& a, const Native& b) { return a + b; });
  store_some(state.weights, fma(load_some(state.weights, kRows), kept, sums), kRows);
  for (int r = 0; r < kRows; ++r) {
    if (keep[r] == 1.0f) continue;
    float* const row = state.sums + r * value_dim;
    for (int64_t d = 0; d < value_dim; d += kLanes) store(row + d, load(row + d) * splat(keep[r]));
  }
  Format::end_rows(scores + kRows * kSegment);
}

/**
 * Turns scores (num_rows, kSegment) into probabilities over the rows' new maxima, and brings the state up to them: a
 * row that sees none of the keys stays as it was, to the bit.
 */
template <typename Format>
VLLM_PD_INLINE void soften(const AttentionArgs& args, const RowBlock& block, int64_t begin, float* scores,
                           Wanted& wanted, const AttentionState& state) {
  const auto keys_of_row = [&](int64_t r) {
    return block.sees_all ? KeyRange{0, kSegment} : keys_in_segment(args, (block.row + r) / args.group_size, begin);
  };
  const int64_t value_dim = value_dim_of(args.head_dim);
  for (int64_t first = 0; first < block.num_rows; first += kLanes) {
    const int64_t count = block.num_rows - first < kLanes ? block.num_rows - first : kLanes;
    float* const state_maxima = state.maxima + block.row + first;
    float* const state_weights = state.weights + block.row + first;
    V16 rows[kLanes];
    for (int64_t r = 0; r < count; ++r) {
      wanted.ask<2>();
      V16 x[kSegmentVecs];
      load_scores(scores + (first + r) * kSegment, block, keys_of_row(first + r), x);
      rows[r] = max(max(x[0], x[1]), max(x[2], x[3]));
    }
    for (int64_t r = count; r < kLanes; ++r) rows[r] = splat(0.0f);
    alignas(64) float maxima[kLanes];
    alignas(64) float keep[kLanes];
    const V16 before = load_some(state_maxima, count);
    const V16 now = max(before, reduce_rows<kLanes>(rows, native_max));
    const V16 kept = exp2(before - now);
    store(maxima, now);
    store(keep, kept);
    store_some(state_maxima, now, count);
    for (int64_t r = 0; r < count; ++r) {
      const KeyRange keys = keys_of_row(first + r);
      float* const row = scores + (first + r) * kSegment;
      wanted.ask<2>();
      V16 p[kSegmentVecs];
#pragma GCC unroll 4
      for (int i = 0; i < kSegmentVecs; ++i) {
        p[i] = exp2(load(row + i * kLanes) - splat(maxima[r]));
        if (!block.sees_all) p[i] = within(p[i], i * kLanes, keys.begin, keys.end, 0.0f);
      }
      rows[r] = (p[0] + p[1]) + (p[2] + p[3]);
      Format::put_row(p, row);
    }
    const V16 sums = reduce_rows<kLanes>(rows, [](const Native& a, const Native& b) { return a + b; });
    store_some(state_weights, fma(load_some(state_weights, count), kept, sums), count);
    for (int64_t r = 0; r < count; ++r) {
      if (keep[r] == 1.0f) continue;
      float* const row = state.sums + (block.row + first + r) * value_dim;
      for (int64_t d = 0; d < value_dim; d += kLanes) store(row + d, load(row + d) * splat(keep[r]));
    }
  }
  Format::end_rows(scores + block.num_rows * kSegment);
}

}  // namespace
}  // namespace vllm_pd::cpu
