// Causal attention of a tile of queries over paged K and V: scores, softmax and weighted sum of one segment of
// keys stand on their own; segments are merged in order into their span, spans in order into the result.
#pragma once

#include "cpu/attention_rows.h"
#include "cpu/kernels.h"
#include "cpu/matmul.h"
#include "cpu/paged_rows.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

/** What became of some keys: nothing yet where the maximum is -infinity. */
struct AttentionState {
  float* sums;     // (num_rows, value_dim): weighted values over e^maximum
  float* maxima;   // (num_rows): the highest score
  float* weights;  // (num_rows): all probabilities over e^maximum
};

struct AttentionScratch {
  float* keys;             // (kSegment / kPanel, head_dim, kPanel)
  float* values;           // (value_dim / kPanel, kSegment, kPanel)
  float* q;                // (num_rows, head_dim), scaled
  float* scores;           // (num_rows, kSegment)
  AttentionState segment;  // this segment's
  AttentionState span;     // this span's segments so far
  AttentionState total;    // all spans so far
};

VLLM_PD_INLINE AttentionState state_at(float* floats, int64_t num_rows, int64_t value_dim) {
  return {floats, floats + num_rows * value_dim, floats + num_rows * (value_dim + 1)};
}

VLLM_PD_INLINE AttentionScratch carve(const AttentionArgs& args) {
  const int64_t num_rows = args.num_tokens * args.group_size;
  const int64_t value_dim = value_dim_of(args.head_dim);
  const int64_t state_floats = attention_state_floats(num_rows, args.head_dim);
  AttentionScratch s;
  s.keys = args.scratch;
  s.values = s.keys + kSegment * args.head_dim;
  s.q = s.values + kSegment * value_dim;
  s.scores = s.q + num_rows * args.head_dim;
  float* const states = s.scores + num_rows * kSegment;
  s.segment = state_at(states, num_rows, value_dim);
  s.span = state_at(states + state_floats, num_rows, value_dim);
  s.total = state_at(states + 2 * state_floats, num_rows, value_dim);
  return s;
}

VLLM_PD_INLINE void clear(const AttentionState& state, int64_t num_rows, int64_t value_dim) {
  std::memset(state.sums, 0, num_rows * value_dim * sizeof(float));
  for (int64_t row = 0; row < num_rows; ++row) {
    state.maxima[row] = -__builtin_inff();
    state.weights[row] = 0.0f;
  }
}

/** Queries of the tile over sqrt(head_dim), so that products are scores. */
VLLM_PD_INLINE void take_queries(const AttentionArgs& args, float* q) {
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(args.head_dim));
  const int64_t count = args.group_size * args.head_dim;
  for (int64_t token = 0; token < args.num_tokens; ++token) {
    for (int64_t i = 0; i < count; ++i) q[token * count + i] = args.q[token * args.q_stride + i] * scale;
  }
}

/** K into panels of kPanel keys; keys beyond the last, up to a whole panel, repeat it. */
template <bool kBf16>
VLLM_PD_INLINE void pack_keys(const AttentionArgs& args, const Slots& slots, const Slots& next, float* panels) {
  for (int64_t key = 0; key < (slots.count + kPanel - 1) / kPanel * kPanel; key += kLanes) {
    prefetch_rows(args.keys, next, key, key + kLanes, row_bytes_of(args));
    float* const panel = panels + key / kPanel * args.head_dim * kPanel + key % kPanel;
    for (int64_t d = 0; d < args.head_dim; d += (kBf16 ? 2 : 1) * kLanes) {
      transpose_keys<kBf16>(args, slots, key, d, panel + d * kPanel, kPanel);
    }
  }
}

/** V into panels of kPanel of its columns. */
template <bool kBf16>
VLLM_PD_INLINE void pack_values(const AttentionArgs& args, const Slots& slots, float* panels) {
  for (int64_t key = 0; key < slots.count; ++key) {
    const uint8_t* const row = args.values + slots.offset[key];
    for (int64_t column = 0; column < value_dim_of(args.head_dim); column += kLanes) {
      const int64_t left = args.head_dim - column;
      const V16 lanes = left > 0 ? load_row<kBf16>(row + column * (kBf16 ? 2 : 4), left) : splat(0.0f);
      store(panels + column / kPanel * kPanel * kSegment + key * kPanel + column % kPanel, lanes);
    }
  }
}

/** Turns all kSegment scores of one query into e^(score - maximum); returns the maximum and the sum. */
VLLM_PD_INLINE void softmax_all(float* scores, float* maximum, float* sum) {
  constexpr int kVecs = kSegment / kLanes;
  V16 highest = load(scores);
#pragma GCC unroll 4
  for (int i = 1; i < kVecs; ++i) highest = max(highest, load(scores + i * kLanes));
  *maximum = reduce_max(highest);
  V16 total = splat(0.0f);
#pragma GCC unroll 4
  for (int i = 0; i < kVecs; ++i) {
    const V16 p = exp(load(scores + i * kLanes) - splat(*maximum));
    store(scores + i * kLanes, p);
    total = total + p;
  }
  *sum = reduce_add(total);
}

/** The same of the keys in the range; the others become zeros. */
VLLM_PD_INLINE void softmax(float* scores, const KeyRange& range, float* maximum, float* sum) {
  for (int64_t j = 0; j < range.begin; ++j) scores[j] = -__builtin_inff();
  for (int64_t j = range.end; j < kSegment; ++j) scores[j] = -__builtin_inff();
  softmax_all(scores, maximum, sum);
}

/** Adds `from` to rows [row, row + num_rows), kLanes at most. */
VLLM_PD_INLINE void merge(const AttentionState& into, const AttentionState& from, int64_t value_dim, int64_t row,
                          int64_t num_rows) {
  const V16 before = load_some(into.maxima + row, num_rows);
  const V16 maxima = load_some(from.maxima + row, num_rows);
  const V16 both = max(before, maxima);
  const V16 keep = exp(before - both);
  const V16 add = exp(maxima - both);
  const V16 weights =
      fma(keep, load_some(into.weights + row, num_rows), add * load_some(from.weights + row, num_rows));
  store_some(into.maxima + row, both, num_rows);
  store_some(into.weights + row, weights, num_rows);
  float keeps[kLanes];
  float adds[kLanes];
  store(keeps, keep);
  store(adds, add);
  for (int64_t r = 0; r < num_rows; ++r) {
    float* const sums = into.sums + (row + r) * value_dim;
    const float* const other = from.sums + (row + r) * value_dim;
    for (int64_t d = 0; d < value_dim; d += kLanes) {
      store(sums + d, fma(splat(keeps[r]), load(sums + d), splat(adds[r]) * load(other + d)));
    }
  }
}

/** Adds a span; rows that see nothing of it stay as they are. */
VLLM_PD_INLINE void merge_span(const AttentionState& total, const AttentionState& span, int64_t num_rows,
                               int64_t value_dim) {
  for (int64_t row = 0; row < num_rows; ++row) {
    if (span.weights[row] > 0.0f || span.weights[row] != span.weights[row]) {
      merge(total, span, value_dim, row, 1);
    }
  }
}

/** Of the segment that begins at position `begin`, counted from there: keys at most at the token's, and within its window. */
VLLM_PD_INLINE KeyRange keys_in_segment(const AttentionArgs& args, int64_t token, int64_t begin) {
  const int64_t position = args.positions[token];
  const int64_t first = args.sliding_window > 0 ? position + 1 - args.sliding_window - begin : 0;
  const int64_t end = position + 1 - begin;
  return {first < 0 ? 0 : first, end < kSegment ? end : kSegment};
}

/** Tiles of at most this many rows read K and V where they lie; larger ones pack them once for all rows. */
constexpr int64_t kMaxDirectRows = 8;

/** One segment of a tile, with what is known of it. */
struct Segment {
  int64_t begin;
  Slots slots;
  bool is_direct;
};

template <bool kBf16>
VLLM_PD_INLINE void score(const AttentionArgs& args, const AttentionScratch& s, const Segment& segment,
                          const Slots& next, int64_t num_rows) {
  const int64_t head_dim = args.head_dim;
  if (segment.is_direct) {
    for (int64_t row = 0; row < num_rows; row += kDirectRows) {
      const int64_t count = num_rows - row < kDirectRows ? num_rows - row : kDirectRows;
      score_some<kBf16>(count, args, segment.slots, s.q + row * head_dim, s.scores + row * kSegment);
    }
    return;
  }
  pack_keys<kBf16>(args, segment.slots, next, s.keys);
  prefetch_rows(args.values, next, 0, kSegment, row_bytes_of(args));
  pack_values<kBf16>(args, segment.slots, s.values);
  for (int64_t key = 0; key < segment.slots.count; key += kPanel) {
    matmul_panel({s.q, head_dim, head_dim, s.keys + key * head_dim, nullptr, 0, s.scores + key, kSegment},
                 num_rows, kPanel);
  }
}

/** Weighted values of rows [row, row + num_rows), each over these keys of the segment. */
template <bool kBf16>
VLLM_PD_INLINE void weigh(const AttentionArgs& args, const AttentionScratch& s, const Segment& segment,
                          const Slots& next, int64_t row, int64_t num_rows, const KeyRange& range) {
  const int64_t value_dim = value_dim_of(args.head_dim);
  if (segment.is_direct) {
    for (int64_t r = row; r < row + num_rows; r += kDirectRows) {
      const int64_t count = row + num_rows - r < kDirectRows ? row + num_rows - r : kDirectRows;
      weigh_some<kBf16>(count, args, segment.slots, next, range, s.scores + r * kSegment, s.segment.sums + r * value_dim,
                        value_dim);
    }
    return;
  }
  for (int64_t column = 0; column < value_dim; column += kPanel) {
    matmul_panel({s.scores + row * kSegment + range.begin, kSegment, range.end - range.begin,
                  s.values + column * kSegment + range.begin * kPanel, nullptr, 0,
                  s.segment.sums + row * value_dim + column, value_dim},
                 num_rows, kPanel);
  }
}

/** One segment for rows [row, row + num_rows), all of which see these of its keys. */
template <bool kBf16>
VLLM_PD_INLINE void attend_rows(const AttentionArgs& args, const AttentionScratch& s, const Segment& segment,
                                const Slots& next, const AttentionState& into, int64_t row, int64_t num_rows,
                                const KeyRange& range) {
  const int64_t end = row + num_rows;
  const bool sees_all = range.begin == 0 && range.end == kSegment;
  for (int64_t r = row; r < end; ++r) {
    float* const scores = s.scores + r * kSegment;
    if (sees_all) {
      softmax_all(scores, s.segment.maxima + r, s.segment.weights + r);
    } else {
      softmax(scores, range, s.segment.maxima + r, s.segment.weights + r);
    }
  }
  weigh<kBf16>(args, s, segment, next, row, num_rows, range);
  const int64_t value_dim = value_dim_of(args.head_dim);
  for (int64_t r = row; r < end; r += kLanes) {
    merge(into, s.segment, value_dim, r, end - r < kLanes ? end - r : kLanes);
  }
}

template <bool kBf16>
void attend_segment(const AttentionArgs& args, const AttentionScratch& s, const Segment& segment,
                    const Slots& next, const AttentionState& into) {
  const int64_t group = args.group_size;
  const int64_t num_rows = args.num_tokens * group;
  score<kBf16>(args, s, segment, next, num_rows);
  bool all_full = true;
  for (int64_t token = 0; token < args.num_tokens; ++token) {
    const KeyRange range = keys_in_segment(args, token, segment.begin);
    all_full = all_full && range.begin == 0 && range.end == kSegment;
  }
  // Rows that see the whole segment are taken many at a time, others token by token: no row touches a V that
  // lies behind it.
  const int64_t step = all_full ? num_rows : group;
  for (int64_t row = 0; row < num_rows; row += step) {
    const KeyRange range = keys_in_segment(args, row / group, segment.begin);
    if (range.begin < range.end) attend_rows<kBf16>(args, s, segment, next, into, row, step, range);
  }
}

template <bool kBf16>
VLLM_PD_INLINE void attend_span(const AttentionArgs& args, const AttentionScratch& s, int64_t span,
                                const AttentionState& into) {
  const int64_t num_rows = args.num_tokens * args.group_size;
  clear(into, num_rows, value_dim_of(args.head_dim));
  const KeyRange all = keys_of(args);
  const int64_t span_end = (span + 1) * kSpan;
  const KeyRange keys{all.begin > span * kSpan ? all.begin : span * kSpan, all.end < span_end ? all.end : span_end};
  Segment segment{keys.begin, find_slots(args, keys.begin, keys.end - keys.begin), num_rows <= kMaxDirectRows};
  while (segment.begin < keys.end) {
    const int64_t behind = segment.begin + kSegment;
    const Slots next = find_slots(args, behind, keys.end - behind);
    attend_segment<kBf16>(args, s, segment, next, into);
    segment.begin = behind;
    segment.slots = next;
  }
}

/** out = sums over weights. */
VLLM_PD_INLINE void write_out(const AttentionArgs& args, const AttentionState& total) {
  const int64_t head_dim = args.head_dim;
  const int64_t value_dim = value_dim_of(head_dim);
  for (int64_t row = 0; row < args.num_tokens * args.group_size; ++row) {
    float* out = args.out + row / args.group_size * args.out_stride + row % args.group_size * head_dim;
    const float* sums = total.sums + row * value_dim;
    const float weight = 1.0f / total.weights[row];
    for (int64_t d = 0; d < head_dim; ++d) out[d] = sums[d] * weight;
  }
}

VLLM_PD_INLINE void run_span(const AttentionArgs& args, const AttentionScratch& s, int64_t span,
                             const AttentionState& into) {
  if (args.is_bfloat16) {
    attend_span<true>(args, s, span, into);
  } else {
    attend_span<false>(args, s, span, into);
  }
}

void attention(const AttentionArgs& args) {
  const int64_t num_rows = args.num_tokens * args.group_size;
  const int64_t value_dim = value_dim_of(args.head_dim);
  const AttentionScratch s = carve(args);
  take_queries(args, s.q);
  clear(s.total, num_rows, value_dim);
  const KeyRange spans = spans_of(keys_of(args));
  for (int64_t span = spans.begin; span < spans.end; ++span) {
    run_span(args, s, span, s.span);
    merge_span(s.total, s.span, num_rows, value_dim);
  }
  write_out(args, s.total);
}

void attention_span(const AttentionArgs& args, int64_t span, float* state) {
  const AttentionScratch s = carve(args);
  take_queries(args, s.q);
  run_span(args, s, span, state_at(state, args.num_tokens * args.group_size, value_dim_of(args.head_dim)));
}

void attention_join(const AttentionArgs& args, const float* states, int64_t num_states) {
  const int64_t num_rows = args.num_tokens * args.group_size;
  const int64_t value_dim = value_dim_of(args.head_dim);
  const AttentionScratch s = carve(args);
  clear(s.total, num_rows, value_dim);
  for (int64_t i = 0; i < num_states; ++i) {
    float* const state = const_cast<float*>(states) + i * attention_state_floats(num_rows, args.head_dim);
    merge_span(s.total, state_at(state, num_rows, value_dim), num_rows, value_dim);
  }
  write_out(args, s.total);
}

}  // namespace
}  // namespace vllm_pd::cpu
