// Causal attention of a tile of queries over paged K and V, segment by segment: scores, softmax and weighted
// sum of one segment stand on their own, then they are merged into what came before.
#pragma once

#include "cpu/kernels.h"
#include "cpu/matmul.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

struct AttentionScratch {
  float* keys;             // (kSegment / kPanel, head_dim, kPanel)
  float* values;           // (value_dim / kPanel, kSegment, kPanel)
  float* rows;             // (2, kSegment, head_dim): K and V as they lie in the blocks, as floats
  float* q;                // (num_rows, head_dim)
  float* scores;           // (num_rows, kSegment)
  float* segment;          // (num_rows, value_dim): this segment's weighted values
  float* sums;             // (num_rows, value_dim): all segments' so far, over e^max
  float* maxima;           // (num_rows): the highest score so far
  float* weights;          // (num_rows): all probabilities so far, over e^max
  float* segment_maxima;   // (num_rows): this segment's
  float* segment_weights;  // (num_rows): this segment's
  int64_t value_dim;       // head_dim, padded to whole panels
};

VLLM_PD_INLINE AttentionScratch carve(float* scratch, int64_t num_rows, int64_t head_dim) {
  AttentionScratch s;
  s.value_dim = (head_dim + kPanel - 1) / kPanel * kPanel;
  s.keys = scratch;
  s.values = s.keys + kSegment * head_dim;
  s.rows = s.values + kSegment * s.value_dim;
  s.q = s.rows + 2 * kSegment * head_dim;
  s.scores = s.q + num_rows * head_dim;
  s.segment = s.scores + num_rows * kSegment;
  s.sums = s.segment + num_rows * s.value_dim;
  s.maxima = s.sums + num_rows * s.value_dim;
  s.weights = s.maxima + num_rows;
  s.segment_maxima = s.weights + num_rows;
  s.segment_weights = s.segment_maxima + num_rows;
  return s;
}

/** Where the segment's keys lie, in bytes from `keys` (and their values from `values`). */
struct Slots {
  int64_t offset[kSegment];
  int64_t count;
};

VLLM_PD_INLINE Slots find_slots(const AttentionArgs& args, int64_t begin, int64_t count) {
  const int64_t element_bytes = args.is_bfloat16 ? 2 : 4;
  Slots slots;
  slots.count = count < kSegment ? count : kSegment;
  int64_t block = begin / args.block_size;
  int64_t within = begin % args.block_size;
  for (int64_t key = 0; key < slots.count; ++key) {
    slots.offset[key] = args.block_table[block] * args.block_stride + within * args.head_dim * element_bytes;
    if (++within == args.block_size) {
      within = 0;
      ++block;
    }
  }
  return slots;
}

/** Blocks lie far apart, so the processor does not see the next segment coming. */
VLLM_PD_INLINE void prefetch_row(const uint8_t* row, int64_t num_bytes) {
  for (int64_t i = 0; i < num_bytes; i += 64) __builtin_prefetch(row + i, 0, 2);
}

/** The segment's rows from wherever they lie, as floats, one behind the other. */
VLLM_PD_INLINE void gather_rows(const AttentionArgs& args, const uint8_t* from, const Slots& slots, const Slots& next,
                                float* rows) {
  const int64_t head_dim = args.head_dim;
  for (int64_t key = 0; key < slots.count; ++key) {
    const uint8_t* const row = from + slots.offset[key];
    if (key < next.count) prefetch_row(from + next.offset[key], head_dim * (args.is_bfloat16 ? 2 : 4));
    if (!args.is_bfloat16) {
      std::memcpy(rows + key * head_dim, row, head_dim * sizeof(float));
      continue;
    }
    for (int64_t d = 0; d < head_dim; ++d) {
      const uint32_t bits = static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(row)[d]) << 16;
      std::memcpy(rows + key * head_dim + d, &bits, sizeof(bits));
    }
  }
}

/** K of four keys, transposed into columns [0, 4) of a panel; a null row becomes zeros. */
VLLM_PD_INLINE void pack_four_keys(const float* const rows[4], int64_t head_dim, float* panel) {
  alignas(16) static const float kZeros[4] = {};
  const bool all = rows[3] != nullptr;
  int64_t d = 0;
  for (; d + 4 <= head_dim; d += 4) {
    const float* quads[4] = {rows[0] + d, rows[1] + d, rows[2] + d, rows[3] + d};
    if (!all) {
      for (int i = 0; i < 4; ++i) quads[i] = rows[i] ? rows[i] + d : kZeros;
    }
    transpose_4x4(quads, panel + d * kPanel, kPanel);
  }
  for (; d < head_dim; ++d) {
    for (int i = 0; i < 4; ++i) panel[d * kPanel + i] = rows[i] ? rows[i][d] : 0.0f;
  }
}

/** K into panels of kPanel keys; keys beyond the last, up to a whole panel, become zeros. */
VLLM_PD_INLINE void pack_keys(const float* from, int64_t head_dim, int64_t count, float* panels) {
  const int64_t padded = (count + kPanel - 1) / kPanel * kPanel;
  for (int64_t key = 0; key < padded; key += 4) {
    const float* rows[4];
    for (int64_t i = 0; i < 4; ++i) {
      rows[i] = key + i < count ? from + (key + i) * head_dim : nullptr;
    }
    pack_four_keys(rows, head_dim, panels + key / kPanel * head_dim * kPanel + key % kPanel);
  }
}

/** V into panels of kPanel of its columns. */
VLLM_PD_INLINE void pack_values(const float* from, int64_t head_dim, int64_t count, float* panels) {
  for (int64_t key = 0; key < count; ++key) {
    const float* row = from + key * head_dim;
    for (int64_t column = 0; column < head_dim; column += kPanel) {
      float* out = panels + column * kSegment + key * kPanel;
      if (head_dim - column >= kPanel) {
        store(out, load(row + column));
        store(out + kLanes, load(row + column + kLanes));
      } else {
        for (int64_t i = 0; i < kPanel; ++i) out[i] = column + i < head_dim ? row[column + i] : 0.0f;
      }
    }
  }
}

/** The keys of a segment that a query sees: [begin, end) of its kSegment. */
struct KeyRange {
  int64_t begin;
  int64_t end;
};

/**
 * Turns the scores of one query into e^(score - maximum), zero beside the range; returns the maximum and the
 * sum.
 */
VLLM_PD_INLINE void softmax(float* scores, const KeyRange& range, float scale, float* maximum, float* sum) {
  const int64_t num_keys = range.end;
  for (int64_t j = 0; j < range.begin; ++j) scores[j] = -__builtin_inff();
  const int64_t padded = (num_keys + kLanes - 1) / kLanes * kLanes;
  for (int64_t j = num_keys; j < padded; ++j) scores[j] = -__builtin_inff();
  V16 highest = splat(-__builtin_inff());
  for (int64_t j = 0; j < padded; j += kLanes) {
    const V16 scaled = load(scores + j) * splat(scale);
    store(scores + j, scaled);
    highest = max(highest, scaled);
  }
  *maximum = reduce_max(highest);
  V16 total = splat(0.0f);
  for (int64_t j = 0; j < padded; j += kLanes) {
    V16 p = exp(load(scores + j) - splat(*maximum));
    store(scores + j, p);
    if (num_keys - j < kLanes || range.begin > j) {
      for (int64_t i = j; i < range.begin && i < j + kLanes; ++i) scores[i] = 0.0f;
      for (int64_t i = num_keys; i < j + kLanes; ++i) scores[i] = 0.0f;
      p = load(scores + j);
    }
    total = total + p;
  }
  *sum = reduce_add(total);
}

/** Weighted values of rows [row, row + num_rows), each over these keys of the segment. */
VLLM_PD_INLINE void weigh_values(const AttentionScratch& s, int64_t row, int64_t num_rows, const KeyRange& range) {
  for (int64_t column = 0; column < s.value_dim; column += kPanel) {
    matmul_panel({s.scores + row * kSegment + range.begin, kSegment, range.end - range.begin,
                  s.values + column * kSegment + range.begin * kPanel, nullptr, 0,
                  s.segment + row * s.value_dim + column, s.value_dim},
                 num_rows, kPanel);
  }
}

/** Adds the segment's softmax and weighted values of up to kLanes rows to the running ones. */
VLLM_PD_INLINE void merge(const AttentionScratch& s, int64_t row, int64_t num_rows) {
  const V16 before = load_some(s.maxima + row, num_rows);
  const V16 segment_maxima = load_some(s.segment_maxima + row, num_rows);
  const V16 both = max(before, segment_maxima);
  const V16 keep = exp(before - both);
  const V16 add = exp(segment_maxima - both);
  const V16 weights =
      fma(keep, load_some(s.weights + row, num_rows), add * load_some(s.segment_weights + row, num_rows));
  store_some(s.maxima + row, both, num_rows);
  store_some(s.weights + row, weights, num_rows);
  float keeps[kLanes];
  float adds[kLanes];
  store(keeps, keep);
  store(adds, add);
  for (int64_t r = 0; r < num_rows; ++r) {
    float* const sums = s.sums + (row + r) * s.value_dim;
    const float* const segment = s.segment + (row + r) * s.value_dim;
    for (int64_t d = 0; d < s.value_dim; d += kLanes) {
      store(sums + d, fma(splat(keeps[r]), load(sums + d), splat(adds[r]) * load(segment + d)));
    }
  }
}

/** One segment for rows [row, row + num_rows), all of which see these of its keys. */
VLLM_PD_INLINE void attend_rows(const AttentionScratch& s, int64_t row, int64_t num_rows, const KeyRange& range,
                                float scale) {
  const int64_t end = row + num_rows;
  for (int64_t r = row; r < end; ++r) {
    softmax(s.scores + r * kSegment, range, scale, s.segment_maxima + r, s.segment_weights + r);
  }
  weigh_values(s, row, num_rows, range);
  for (int64_t r = row; r < end; r += kLanes) merge(s, r, end - r < kLanes ? end - r : kLanes);
}

/** Of the segment that begins at position `begin`: keys at most at `position`, and above position - window. */
VLLM_PD_INLINE KeyRange keys_in_segment(const AttentionArgs& args, int64_t token, int64_t begin) {
  const int64_t position = args.positions[token];
  const int64_t first = args.sliding_window > 0 ? position + 1 - args.sliding_window - begin : 0;
  const int64_t end = position + 1 - begin;
  return {first < 0 ? 0 : first, end < kSegment ? end : kSegment};
}

/** Where the first segment begins that any token of the tile sees. */
VLLM_PD_INLINE int64_t first_segment(const AttentionArgs& args) {
  if (args.sliding_window <= 0) return 0;
  int64_t first = args.positions[0];
  for (int64_t token = 1; token < args.num_tokens; ++token) {
    if (args.positions[token] < first) first = args.positions[token];
  }
  first += 1 - args.sliding_window;
  return first < 0 ? 0 : first / kSegment * kSegment;
}

/** One segment of keys, from position `begin`, for all rows of the tile. */
void attend_segment(const AttentionArgs& args, const AttentionScratch& s, int64_t begin, const Slots& slots) {
  const int64_t group = args.group_size;
  const int64_t num_rows = args.num_tokens * group;
  for (int64_t key = 0; key < slots.count; key += kPanel) {
    matmul_panel({s.q, args.head_dim, args.head_dim, s.keys + key * args.head_dim, nullptr, 0, s.scores + key,
                  kSegment},
                 num_rows, kPanel);
  }
  bool all_full = true;
  for (int64_t token = 0; token < args.num_tokens; ++token) {
    const KeyRange range = keys_in_segment(args, token, begin);
    all_full = all_full && range.begin == 0 && range.end == kSegment;
  }
  // Rows that see the whole segment are taken many at a time, others token by token: no row touches a V that
  // lies behind it.
  const int64_t step = all_full ? num_rows : group;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(args.head_dim));
  for (int64_t row = 0; row < num_rows; row += step) {
    const KeyRange range = keys_in_segment(args, row / group, begin);
    if (range.begin < range.end) attend_rows(s, row, step, range, scale);
  }
}

void attention(const AttentionArgs& args) {
  const int64_t group = args.group_size;
  const int64_t head_dim = args.head_dim;
  const int64_t num_rows = args.num_tokens * group;
  const AttentionScratch s = carve(args.scratch, num_rows, head_dim);
  int64_t num_keys = 0;
  for (int64_t token = 0; token < args.num_tokens; ++token) {
    std::memcpy(s.q + token * group * head_dim, args.q + token * args.q_stride,
                group * head_dim * sizeof(float));
    if (args.positions[token] >= num_keys) num_keys = args.positions[token] + 1;
  }
  std::memset(s.sums, 0, num_rows * s.value_dim * sizeof(float));
  for (int64_t row = 0; row < num_rows; ++row) {
    s.maxima[row] = -__builtin_inff();
    s.weights[row] = 0.0f;
  }
  const int64_t first = first_segment(args);
  Slots slots = find_slots(args, first, num_keys - first);
  for (int64_t begin = first; begin < num_keys; begin += kSegment) {
    const int64_t behind = num_keys - begin - kSegment;
    const Slots next = find_slots(args, begin + kSegment, behind > 0 ? behind : 0);
    gather_rows(args, args.keys, slots, next, s.rows);
    pack_keys(s.rows, head_dim, slots.count, s.keys);
    gather_rows(args, args.values, slots, next, s.rows + kSegment * head_dim);
    pack_values(s.rows + kSegment * head_dim, head_dim, slots.count, s.values);
    attend_segment(args, s, begin, slots);
    slots = next;
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    float* out = args.out + row / group * args.out_stride + row % group * head_dim;
    const float* sums = s.sums + row * s.value_dim;
    const float weight = 1.0f / s.weights[row];
    for (int64_t d = 0; d < head_dim; ++d) out[d] = sums[d] * weight;
  }
}

}  // namespace
}  // namespace vllm_pd::cpu
