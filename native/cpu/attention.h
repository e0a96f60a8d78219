// Causal attention of a tile of queries over paged K and V, segment by segment of keys: scores, probabilities over
// the highest score so far, weighted sum. Spans of segments stand on their own and are merged in order.
#pragma once

#include "cpu/attention_pairs.h"
#include "cpu/attention_widened.h"
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
  float* scores;  // (kScoreRows, kSegment)
  float* q;       // (num_kv_heads, num_rows, …) as the format takes them
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
  s.span = s.scores + kScoreRows * kSegment;
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

/** Queries over sqrt(head_dim) ln 2, so that products are scores in powers of two. */
template <typename Format>
VLLM_PD_INLINE void take_queries(const AttentionArgs& args, float* q) {
  const float scale = 1.44269504088896341f / __builtin_sqrtf(static_cast<float>(args.head_dim));
  for (int64_t head = 0; head < args.num_kv_heads; ++head) {
    const AttentionArgs one = args_of_head(args, head);
    for (int64_t row = 0; row < rows_of(args); ++row, q += Format::q_floats(args.head_dim)) {
      const float* const from = one.q + row / args.group_size * args.q_stride + row % args.group_size * args.head_dim;
      Format::take_query(from, args.head_dim, scale, q);
    }
  }
}

/** Of the segment that begins at position `begin`, counted from there: keys at most at the token's, and within its window. */
VLLM_PD_INLINE KeyRange keys_in_segment(const AttentionArgs& args, int64_t token, int64_t begin) {
  const int64_t position = args.positions[token];
  const int64_t first = args.sliding_window > 0 ? position + 1 - args.sliding_window - begin : 0;
  const int64_t end = position + 1 - begin;
  return {first < 0 ? 0 : first, end < 0 ? 0 : end < kSegment ? end : kSegment};
}

struct Segment {
  int64_t begin;
  const Slots& slots;
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

/**
 * Turns scores (num_rows, kSegment) into probabilities over the rows' new maxima, and brings the state up to them: a
 * row that sees none of the keys stays as it was, to the bit.
 */
template <typename Format>
VLLM_PD_INLINE void soften(const AttentionArgs& args, const RowBlock& block, int64_t begin, float* scores,
                           Wanted& wanted, const AttentionState& state) {
  alignas(64) float maxima[kScoreRows];
  alignas(64) float keep[kScoreRows];
  alignas(64) float sums[kScoreRows];
  const auto keys_of_row = [&](int64_t r) {
    return block.sees_all ? KeyRange{0, kSegment} : keys_in_segment(args, (block.row + r) / args.group_size, begin);
  };
  for (int64_t r = 0; r < block.num_rows; ++r) {
    wanted.ask<2>();
    V16 x[kSegmentVecs];
    load_scores(scores + r * kSegment, block, keys_of_row(r), x);
    maxima[r] = reduce_max(max(max(x[0], x[1]), max(x[2], x[3])));
  }
  for (int64_t r = 0; r < block.num_rows; r += kLanes) {
    const int64_t count = block.num_rows - r < kLanes ? block.num_rows - r : kLanes;
    const V16 before = load_some(state.maxima + block.row + r, count);
    const V16 now = max(before, load(maxima + r));
    store(maxima + r, now);
    store(keep + r, exp2(before - now));
    store_some(state.maxima + block.row + r, now, count);
  }
  for (int64_t r = 0; r < block.num_rows; ++r) {
    const KeyRange keys = keys_of_row(r);
    float* const row = scores + r * kSegment;
    wanted.ask<2>();
    V16 p[kSegmentVecs];
#pragma GCC unroll 4
    for (int i = 0; i < kSegmentVecs; ++i) {
      p[i] = exp2(load(row + i * kLanes) - splat(maxima[r]));
      if (!block.sees_all) p[i] = within(p[i], i * kLanes, keys.begin, keys.end, 0.0f);
    }
    sums[r] = reduce_add((p[0] + p[1]) + (p[2] + p[3]));
    Format::put_row(p, row);
  }
  for (int64_t r = 0; r < block.num_rows; r += kLanes) {
    const int64_t count = block.num_rows - r < kLanes ? block.num_rows - r : kLanes;
    const V16 weights = load_some(state.weights + block.row + r, count);
    store_some(state.weights + block.row + r, fma(weights, load(keep + r), load(sums + r)), count);
  }
  const int64_t value_dim = value_dim_of(args.head_dim);
  for (int64_t r = 0; r < block.num_rows; ++r) {
    if (keep[r] == 1.0f) continue;
    float* const row = state.sums + (block.row + r) * value_dim;
    for (int64_t d = 0; d < value_dim; d += kLanes) store(row + d, load(row + d) * splat(keep[r]));
  }
}

/** Few rows: K and V are read where they lie. */
template <typename Format>
VLLM_PD_INLINE void attend_in_place(const AttentionArgs& args, const AttentionScratch& s, const float* q,
                                    const Segment& segment, Wanted& wanted, const AttentionState& into) {
  const int64_t group = args.group_size;
  const RowBlock all = block_of_rows(args, 0, rows_of(args), segment.begin);
  Format::score_rows(args, segment.slots, wanted, q, all.num_rows, s.scores);
  soften<Format>(args, all, segment.begin, s.scores, wanted, into);
  // Rows that see the whole segment are taken together, others token by token: no row touches a V that lies behind it.
  const int64_t step = all.sees_all ? all.num_rows : group;
  for (int64_t row = 0; row < all.num_rows; row += step) {
    const KeyRange keys = keys_in_segment(args, row / group, segment.begin);
    if (keys.begin >= keys.end) continue;
    Format::weigh_rows(args, segment.slots, wanted, keys, s.scores + row * kSegment, step,
                       into.sums + row * value_dim_of(args.head_dim));
  }
}

/** Many rows: K and V are packed once for all of them. */
template <typename Format>
VLLM_PD_INLINE void attend_packed(const AttentionArgs& args, const AttentionScratch& s, const float* q,
                                  const Segment& segment, Wanted& wanted, const AttentionState& into) {
  const int64_t value_dim = value_dim_of(args.head_dim);
  const int64_t num_rows = rows_of(args);
  Format::pack_keys(args, segment.slots, s.keys);
  const RowBlock all = block_of_rows(args, 0, num_rows, segment.begin);
  bool together = Format::pack_values(args, segment.slots, all.keys, s.values);
  together = together || args.num_tokens == 1;
  // What a row does not see is multiplied by zero, unless that would not be zero: then each token packs its own.
  const int64_t share = together ? num_rows : args.group_size;
  for (int64_t first = 0; first < num_rows; first += share) {
    for (int64_t row = first; row < first + share; row += Format::kBlockRows) {
      const int64_t left = first + share - row;
      const RowBlock block =
          block_of_rows(args, row, left < Format::kBlockRows ? left : Format::kBlockRows, segment.begin);
      if (block.sees_none()) continue;
      if (!together) Format::pack_values(args, segment.slots, block.keys, s.values);
      Format::score_panels(q + row * Format::q_floats(args.head_dim), args.head_dim, s.keys, block.num_rows,
                           block.keys.end, s.scores);
      soften<Format>(args, block, segment.begin, s.scores, wanted, into);
      Format::weigh_panels(s.scores, s.values, block.keys, block.num_rows, value_dim, into.sums + row * value_dim);
    }
  }
}

/** All segments of a span, of each all KV heads: a layer's K and V are read in the order in which they lie. */
template <typename Format>
void attend_span(const AttentionArgs& args, const AttentionScratch& s, int64_t span, float* states) {
  clear(args, states);
  const KeyRange all = keys_of(args);
  const int64_t span_end = (span + 1) * kSpan;
  const KeyRange keys{all.begin > span * kSpan ? all.begin : span * kSpan, all.end < span_end ? all.end : span_end};
  const bool in_place = rows_of(args) <= Format::kMaxDirectRows && Format::reads_in_place(args);
  const int64_t q_floats = rows_of(args) * Format::q_floats(args.head_dim);
  const int64_t head_bytes = args.block_size * row_bytes_of(args);
  Slots slots[2];
  find_slots(args, keys.begin, keys.end - keys.begin, &slots[keys.begin / kSegment % 2]);
  for (int64_t begin = keys.begin; begin < keys.end; begin += kSegment) {
    const int64_t index = begin / kSegment % 2;
    find_slots(args, begin + kSegment, keys.end - begin - kSegment, &slots[1 - index]);
    for (int64_t head = 0; head < args.num_kv_heads; ++head) {
      const AttentionArgs one = args_of_head(args, head);
      const Segment segment{begin, slots[index]};
      const SegmentRows rows{one.keys, one.values, &slots[index]};
      const SegmentRows next_head{one.keys + head_bytes, one.values + head_bytes, &slots[index]};
      const SegmentRows next_segment{args.keys, args.values, &slots[1 - index]};
      Wanted wanted(rows, head + 1 < args.num_kv_heads ? next_head : next_segment);
      const AttentionState into = state_of_head(states, args, head);
      if (in_place) {
        attend_in_place<Format>(one, s, s.q + head * q_floats, segment, wanted, into);
      } else {
        attend_packed<Format>(one, s, s.q + head * q_floats, segment, wanted, into);
      }
    }
  }
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
VLLM_PD_INLINE void write_out(const AttentionArgs& args, float* totals) {
  const int64_t head_dim = args.head_dim;
  const int64_t value_dim = value_dim_of(head_dim);
  for (int64_t head = 0; head < args.num_kv_heads; ++head) {
    const AttentionArgs one = args_of_head(args, head);
    const AttentionState total = state_of_head(totals, args, head);
    for (int64_t row = 0; row < rows_of(args); ++row) {
      float* const out = one.out + row / args.group_size * args.out_stride + row % args.group_size * head_dim;
      const float* const sums = total.sums + row * value_dim;
      const float weight = 1.0f / total.weights[row];
      for (int64_t d = 0; d < head_dim; ++d) out[d] = sums[d] * weight;
    }
  }
}

/** Calls `body` with the format that K and V of this type are multiplied in. */
template <typename Body>
VLLM_PD_INLINE void with_format(const AttentionArgs& args, Body&& body) {
  if (args.is_bfloat16) {
    body(Bf16Attention());
  } else {
    body(Widened<false>());
  }
}

void attention(const AttentionArgs& args) {
  const AttentionScratch s = carve(args);
  clear(args, s.total);
  with_format(args, [&](auto format) {
    using Format = decltype(format);
    take_queries<Format>(args, s.q);
    const KeyRange spans = spans_of(keys_of(args));
    for (int64_t span = spans.begin; span < spans.end; ++span) {
      attend_span<Format>(args, s, span, s.span);
      merge_span(args, s.total, s.span);
    }
  });
  write_out(args, s.total);
}

void attention_span(const AttentionArgs& args, int64_t span, float* states) {
  const AttentionScratch s = carve(args);
  with_format(args, [&](auto format) {
    using Format = decltype(format);
    take_queries<Format>(args, s.q);
    attend_span<Format>(args, s, span, states);
  });
}

void attention_join(const AttentionArgs& args, const float* states, int64_t num_states) {
  const AttentionScratch s = carve(args);
  clear(args, s.total);
  const int64_t floats = args.num_kv_heads * attention_state_floats(rows_of(args), args.head_dim);
  for (int64_t i = 0; i < num_states; ++i) merge_span(args, s.total, const_cast<float*>(states) + i * floats);
  write_out(args, s.total);
}

}  // namespace
}  // namespace vllm_pd::cpu
