// Causal attention of a tile of queries over paged K and V, segment by segment of keys: scores, probabilities over
// the highest score so far, weighted sum. Spans of segments stand on their own and are merged in order.
#pragma once

#include "cpu/attention_pairs.h"
#include "cpu/attention_softmax.h"
#include "cpu/attention_state.h"
#include "cpu/attention_widened.h"
#include "cpu/formats.h"
#include "cpu/kernels.h"
#include "cpu/paged_rows.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

/**
 * Where tiles are stored, scores are a step ahead of what is made of them: tiles, stores and loads of one wait for each
 * other only. Elsewhere decoding is an eighth slower so.
 */
#if defined(VLLM_PD_AMX)
constexpr bool kScoresAhead = true;
#else
constexpr bool kScoresAhead = false;
#endif

/** Whether K and V are read where they lie. */
template <typename Format>
VLLM_PD_INLINE bool is_in_place(const AttentionArgs& args) {
  return rows_of(args) <= Format::kMaxDirectRows && Format::reads_in_place(args);
}

/** Queries over sqrt(head_dim) ln 2, so that products are scores in powers of two. */
template <typename Format>
VLLM_PD_INLINE void take_queries(const AttentionArgs& args, float* q) {
  const float scale = 1.44269504088896341f / __builtin_sqrtf(static_cast<float>(args.head_dim));
  const int64_t num_rows = rows_of(args);
  for (int64_t head = 0; head < args.num_kv_heads; ++head) {
    const AttentionArgs one = args_of_head(args, head);
    float* row_q = q;
    for (int64_t row = 0; row < num_rows; ++row, row_q += Format::q_floats(args.head_dim)) {
      const float* const from = one.q + row / args.group_size * args.q_stride + row % args.group_size * args.head_dim;
      Format::take_query(from, args.head_dim, scale, row_q);
    }
    if (is_in_place<Format>(args)) Format::arrange_queries(q, num_rows, args.head_dim);
    q += head_q_floats(num_rows, args.head_dim);
  }
}

/** Rows that the softmax takes in one go. */
constexpr int kFewRows = 8;

/** One KV head's few rows with one segment, whose K and V are read where they lie. */
struct InPlace {
  AttentionArgs args;  // of the head
  Segment segment;
  Wanted wanted;
  const float* q;
  float* scores;
  AttentionState into;
};

template <typename Format>
VLLM_PD_INLINE void score_in_place(typename Format::Unit& unit, InPlace& step) {
  Format::score_rows(unit, step.args, *step.segment.slots, step.wanted, step.q, rows_of(step.args), step.scores);
}

template <typename Format>
VLLM_PD_INLINE void attend_in_place(typename Format::Unit& unit, InPlace& step) {
  const AttentionArgs& args = step.args;
  const Segment& segment = step.segment;
  const int64_t group = args.group_size;
  const RowBlock all = block_of_rows(args, 0, rows_of(args), segment.begin);
  // Rows that see the whole segment are taken together, others token by token: no row touches a V that lies behind it.
  const int64_t share = all.sees_all ? all.num_rows : group;
  if (all.sees_all && all.num_rows <= kFewRows) {
    with_rows<kFewRows>(all.num_rows, [&](auto rows) {
      soften_whole<Format, rows.value>(value_dim_of(args.head_dim), step.scores, step.wanted, step.into);
    });
  } else {
    soften<Format>(args, all, segment.begin, step.scores, step.wanted, step.into);
  }
  for (int64_t row = 0; row < all.num_rows; row += share) {
    const KeyRange keys = keys_in_segment(args, row / group, segment.begin);
    if (keys.begin >= keys.end) continue;
    Format::weigh_rows(unit, args, *segment.slots, step.wanted, keys, step.scores + row * kSegment, share,
                       step.into.sums + row * value_dim_of(args.head_dim));
  }
}

/** Many rows: K and V are packed once for all of them. */
template <typename Format>
VLLM_PD_INLINE void attend_packed(typename Format::Unit& unit, const AttentionArgs& args, const AttentionScratch& s,
                                  const float* q, const Segment& segment, Wanted& wanted, const AttentionState& into) {
  const int64_t value_dim = value_dim_of(args.head_dim);
  const int64_t num_rows = rows_of(args);
  Format::pack_keys(args, *segment.slots, wanted, s.keys);
  const RowBlock all = block_of_rows(args, 0, num_rows, segment.begin);
  bool together = Format::pack_values(args, *segment.slots, all.keys, s.values);
  together = together || args.num_tokens == 1;
  // What a row does not see is multiplied by zero, unless that would not be zero: then each token packs its own.
  const int64_t share = together ? num_rows : args.group_size;
  for (int64_t first = 0; first < num_rows; first += share) {
    for (int64_t row = first; row < first + share; row += Format::kBlockRows) {
      const int64_t left = first + share - row;
      const RowBlock block =
          block_of_rows(args, row, left < Format::kBlockRows ? left : Format::kBlockRows, segment.begin);
      if (block.sees_none()) continue;
      if (!together) Format::pack_values(args, *segment.slots, block.keys, s.values);
      Format::score_panels(unit, q + row * Format::q_floats(args.head_dim), args.head_dim, s.keys, block.num_rows,
                           block.keys.end, s.scores);
      soften<Format>(args, block, segment.begin, s.scores, wanted, into);
      Format::weigh_panels(unit, s.scores, s.values, block.keys, block.num_rows, value_dim, into.sums + row * value_dim);
    }
  }
}

/** All segments of a span, of each all KV heads: a layer's K and V are read in the order in which they lie. */
template <typename Format>
class SpanOfKeys {
 public:
  SpanOfKeys(const AttentionArgs& args, const AttentionScratch& s, int64_t span, float* states)
      : args_(args), s_(s), states_(states) {
    clear(args, states);
    const KeyRange all = keys_of(args);
    const int64_t span_end = (span + 1) * kSpan;
    keys_ = {all.begin > span * kSpan ? all.begin : span * kSpan, all.end < span_end ? all.end : span_end};
    for (int64_t i = 0; i < kSegmentsAhead; ++i) find(keys_.begin + i * kSegment);
  }

  void attend() {
    const int64_t num_steps = (keys_.end - keys_.begin + kSegment - 1) / kSegment * args_.num_kv_heads;
    if (is_in_place<Format>(args_)) {
      if constexpr (kScoresAhead) return attend_behind_scores(num_steps);
      return attend_in_turns(num_steps);
    }
    for (int64_t i = 0; i < num_steps; ++i) {
      const Place place = begin_step(i);
      Wanted wanted(rows_of_step(i), rows_of_step(i + 1));
      attend_packed<Format>(unit_, args_of_head(args_, place.head), s_, q_of(place.head), {place.begin, &slots_of(place.begin)},
                            wanted, state_of_head(states_, args_, place.head));
    }
  }

  /** Reads K and V in the order of attend(), asking for them as it does, and nothing else; returns something of them. */
  float read() {
    constexpr int64_t kLine = 64;
    I16 sum = {};
    const int64_t num_steps = (keys_.end - keys_.begin + kSegment - 1) / kSegment * args_.num_kv_heads;
    for (int64_t i = 0; i < num_steps; ++i) {
      InPlace step = in_place(i);
      const Slots& slots = *step.segment.slots;
      const uint8_t* const bases[] = {step.args.keys, step.args.values};
      for (const uint8_t* const base : bases) {
        for (int64_t run = 0; run < slots.num_runs; ++run) {
          const uint8_t* const from = base + slots.run_offset[run];
          for (int64_t line = 0; line + 2 * kLine <= slots.run_bytes[run]; line += 2 * kLine) {
            step.wanted.ask<1>();
            sum = sum + (load_line(from + line) + load_line(from + line + kLine));
          }
        }
      }
    }
    return to_floats(sum).part[0][0];
  }

 private:
  VLLM_PD_INLINE static I16 load_line(const uint8_t* from) { return load_i16(reinterpret_cast<const int32_t*>(from)); }

  void attend_in_turns(int64_t num_steps) {
    for (int64_t i = 0; i < num_steps; ++i) {
      InPlace step = in_place(i);
      score_in_place<Format>(unit_, step);
      attend_in_place<Format>(unit_, step);
    }
  }

  void attend_behind_scores(int64_t num_steps) {
    InPlace step = in_place(0);
    score_in_place<Format>(unit_, step);
    for (int64_t i = 1; i < num_steps; ++i) {
      InPlace next = in_place(i);
      score_in_place<Format>(unit_, next);
      attend_in_place<Format>(unit_, step);
      step = next;
    }
    attend_in_place<Format>(unit_, step);
  }

  /** Of a step: one KV head with one segment, all heads of a segment before the next one. */
  struct Place {
    int64_t head;
    int64_t begin;
  };

  Place place_of(int64_t step) const {
    return {step % args_.num_kv_heads, keys_.begin + step / args_.num_kv_heads * kSegment};
  }

  Place begin_step(int64_t step) {
    const Place place = place_of(step);
    if (place.head == 0) find(place.begin + kSegmentsAhead * kSegment);
    return place;
  }

  InPlace in_place(int64_t step) {
    const auto [head, begin] = begin_step(step);
    // The next step's scores may be computed before this step's values are used.
    const int64_t now = kScoresAhead ? step + 1 : step;
    return {args_of_head(args_, head),
            {begin, &slots_of(begin)},
            Wanted(rows_of_step(now), rows_of_step(now + 1)),
            q_of(head),
            s_.scores + step % 2 * (kScoreRows / 2) * kSegment,
            state_of_head(states_, args_, head)};
  }

  const float* q_of(int64_t head) const { return s_.q + head * head_q_floats(rows_of(args_), args_.head_dim); }

  /** Of the segment before, which may not be done with, to so many ahead. */
  static constexpr int64_t kSegmentsAhead = 2;
  static constexpr int64_t kKnownSegments = kSegmentsAhead + 2;
  const Slots& slots_of(int64_t begin) const { return slots_[begin / kSegment % kKnownSegments]; }
  void find(int64_t begin) { find_slots(args_, begin, keys_.end - begin, &slots_[begin / kSegment % kKnownSegments]); }

  SegmentRows rows_of_step(int64_t step) const {
    const auto [head, begin] = place_of(step);
    const int64_t bytes = head * args_.block_size * row_bytes_of(args_);
    return {args_.keys + bytes, args_.values + bytes, &slots_of(begin)};
  }

  const AttentionArgs& args_;
  const AttentionScratch& s_;
  float* const states_;
  KeyRange keys_;
  Slots slots_[kKnownSegments];
  typename Format::Unit unit_;
};

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
      SpanOfKeys<Format>(args, s, span, s.span).attend();
      merge_span(args, s.total, s.span);
    }
    write_out<Format>(args, s.total);
  });
}

void attention_span(const AttentionArgs& args, int64_t span, float* states) {
  const AttentionScratch s = carve(args);
  with_format(args, [&](auto format) {
    using Format = decltype(format);
    take_queries<Format>(args, s.q);
    SpanOfKeys<Format>(args, s, span, states).attend();
  });
}

void attention_span_reads(const AttentionArgs& args, int64_t span, float* state) {
  const AttentionScratch s = carve(args);
  with_format(args, [&](auto format) { state[0] = SpanOfKeys<decltype(format)>(args, s, span, s.span).read(); });
}

void attention_join(const AttentionArgs& args, const float* states, int64_t num_states) {
  const AttentionScratch s = carve(args);
  clear(args, s.total);
  const int64_t floats = args.num_kv_heads * attention_state_floats(rows_of(args), args.head_dim);
  for (int64_t i = 0; i < num_states; ++i) merge_span(args, s.total, const_cast<float*>(states) + i * floats);
  with_format(args, [&](auto format) { write_out<decltype(format)>(args, s.total); });
}

}  // namespace
}  // namespace vllm_pd::cpu
