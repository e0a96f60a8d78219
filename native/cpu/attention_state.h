// What attention has come to so far: where it lies, how it begins, how spans are merged, and what is written of it.
#pragma once

#include <cstring>

#include "cpu/kernels.h"
#include "cpu/paged_rows.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

/** What became of some keys for one KV head's rows: nothing yet where the maximum is -infinity. */
struct AttentionState {
  float* sums;     // (num_rows, value_dim): weighted values over 2^maximum
  float* maxima;   // (num_rows): the highest score, in powers of two
  float* weights;  // (num_rows): all probabilities over 2^maximum
};

struct AttentionScratch {
  float* keys;    // one head's segment in panels
  float* values;  // likewise
  float* scores;  // (kScoreRows, kSegment), and a line behind them
  float* q;       // (num_kv_heads, head_q_floats()) as the format takes them
  float* span;    // states of this span's segments so far, one a KV head
  float* total;   // states of all spans so far
};

VLLM_PD_INLINE AttentionState state_of_head(float* states, const AttentionArgs& args, int64_t head) {
  const int64_t num_rows = rows_of(args);
  float* const sums = states + head * attention_state_floats(num_rows, args.head_dim);
  float* const maxima = sums + num_rows * value_dim_of(args.head_dim);
  return {sums, maxima, maxima + (num_rows + kLanes - 1) / kLanes * kLanes};
}

VLLM_PD_INLINE AttentionScratch carve(const AttentionArgs& args) {
  const int64_t num_rows = rows_of(args);
  const int64_t value_dim = value_dim_of(args.head_dim);
  AttentionScratch s;
  s.keys = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(args.scratch) + 63) & ~uintptr_t{63});
  s.values = s.keys + kSegment * value_dim;
  s.scores = s.values + kSegment * value_dim;
  s.span = s.scores + kScoreRows * kSegment + kLanes;
  s.total = s.span + args.num_kv_heads * attention_state_floats(num_rows, args.head_dim);
  s.q = s.total + args.num_kv_heads * attention_state_floats(num_rows, args.head_dim);
  return s;
}

VLLM_PD_INLINE void clear(const AttentionArgs& args, float* states) {
  const int64_t num_rows = rows_of(args);
  for (int64_t head = 0; head < args.num_kv_heads; ++head) {
    const AttentionState state = state_of_head(states, args, head);
    std::memset(state.sums, 0, num_rows * value_dim_of(args.head_dim) * sizeof(float));
    for (int64_t row = 0; row < num_rows; ++row) {
      state.maxima[row] = -__builtin_inff();
      state.weights[row] = 0.0f;
    }
  }
}

/** What belongs to one of the KV heads. */
VLLM_PD_INLINE AttentionArgs args_of_head(const AttentionArgs& args, int64_t head) {
  AttentionArgs one = args;
  const int64_t bytes = head * args.block_size * row_bytes_of(args);
  one.keys += bytes;
  one.values += bytes;
  one.q += head * args.group_size * args.head_dim;
  one.out += head * args.group_size * args.head_dim;
  one.num_kv_heads = 1;
  return one;
}

/** Adds a span's states; rows that see nothing of it stay as they are. */
VLLM_PD_INLINE void merge_span(const AttentionArgs& args, float* totals, float* spans) {
  const int64_t value_dim = value_dim_of(args.head_dim);
  for (int64_t head = 0; head < args.num_kv_heads; ++head) {
    const AttentionState total = state_of_head(totals, args, head);
    const AttentionState span = state_of_head(spans, args, head);
    for (int64_t row = 0; row < rows_of(args); ++row) {
      // Not zero, or NaN.
      if (span.weights[row] == 0.0f) continue;
      const float now = total.maxima[row] > span.maxima[row] ? total.maxima[row] : span.maxima[row];
      float lanes[kLanes] = {total.maxima[row], span.maxima[row]};
      store(lanes, exp2(load(lanes) - splat(now)));
      total.maxima[row] = now;
      total.weights[row] = total.weights[row] * lanes[0] + span.weights[row] * lanes[1];
      float* const sums = total.sums + row * value_dim;
      const float* const other = span.sums + row * value_dim;
      for (int64_t d = 0; d < value_dim; d += kLanes) {
        store(sums + d, fma(splat(lanes[0]), load(sums + d), splat(lanes[1]) * load(other + d)));
      }
    }
  }
}

/** out = sums over weights. */
template <typename Format>
VLLM_PD_INLINE void write_out(const AttentionArgs& args, float* totals) {
  const int64_t head_dim = args.head_dim;
  const int64_t value_dim = value_dim_of(head_dim);
  for (int64_t head = 0; head < args.num_kv_heads; ++head) {
    const AttentionArgs one = args_of_head(args, head);
    const AttentionState total = state_of_head(totals, args, head);
    for (int64_t row = 0; row < rows_of(args); ++row) {
      float* const out = one.out + row / args.group_size * args.out_stride + row % args.group_size * head_dim;
      const float* const sums = total.sums + row * value_dim;
      Format::put_sums(sums, 1.0f / total.weights[row], head_dim, out);
    }
  }
}

}  // namespace
}  // namespace vllm_pd::cpu
