// Causal attention of a tile of queries over paged K and V, segment by segment: scores, softmax and weighted sum of one
// segment stand on their own, then they are merged into what came before.
#pragma once

#include "cpu/kernels.h"
#include "cpu/matmul.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

struct AttentionScratch {
  float* keys;      // (kSegment / kPanel, head_dim, kPanel)
  float* values;    // (value_dim / kPanel, kSegment, kPanel)
  float* q;         // (num_rows, head_dim)
  float* scores;    // (num_rows, kSegment)
  float* segment;   // (num_rows, value_dim): this segment's weighted values
  float* sums;      // (num_rows, value_dim): all segments' so far, over e^max
  float* maxima;    // (num_rows)
  float* weights;   // (num_rows): all probabilities so far, over e^max
  int64_t value_dim;  // head_dim, padded to whole panels
};

VLLM_PD_INLINE AttentionScratch carve(float* scratch, int64_t num_rows, int64_t head_dim) {
  AttentionScratch s;
  s.value_dim = (head_dim + kPanel - 1) / kPanel * kPanel;
  s.keys = scratch;
  s.values = s.keys + kSegment * head_dim;
  s.q = s.values + kSegment * s.value_dim;
  s.scores = s.q + num_rows * head_dim;
  s.segment = s.scores + num_rows * kSegment;
  s.sums = s.segment + num_rows * s.value_dim;
  s.maxima = s.sums + num_rows * s.value_dim;
  s.weights = s.maxima + num_rows;
  return s;
}

VLLM_PD_INLINE const float* slot(const float* base, const AttentionArgs& args, int64_t position) {
  const int64_t block_id = args.block_table[position / args.block_size];
  return base + block_id * args.block_stride + position % args.block_size * args.head_dim;
}

/** K of positions [begin, begin + count), transposed into panels of kPanel keys; keys beyond count become zeros. */
VLLM_PD_INLINE void pack_keys(const AttentionArgs& args, int64_t begin, int64_t count, float* panels) {
  static const float kZeros[4] = {};
  const int64_t head_dim = args.head_dim;
  const int64_t padded = (count + kPanel - 1) / kPanel * kPanel;
  for (int64_t key = 0; key < padded; key += 4) {
    const float* rows[4];
    for (int64_t i = 0; i < 4; ++i) rows[i] = key + i < count ? slot(args.keys, args, begin + key + i) : nullptr;
    float* out = panels + key / kPanel * head_dim * kPanel + key % kPanel;
    int64_t d = 0;
    for (; d + 4 <= head_dim; d += 4) {
      const float* quads[4];
      for (int i = 0; i < 4; ++i) quads[i] = rows[i] ? rows[i] + d : kZeros;
      transpose_4x4(quads, out + d * kPanel, kPanel);
    }
    for (; d < head_dim; ++d) {
      for (int i = 0; i < 4; ++i) out[d * kPanel + i] = rows[i] ? rows[i][d] : 0.0f;
    }
  }
}

/** V of positions [begin, begin + count), into panels of kPanel of its columns. */
VLLM_PD_INLINE void pack_values(const AttentionArgs& args, int64_t begin, int64_t count, float* panels) {
  const int64_t head_dim = args.head_dim;
  for (int64_t key = 0; key < count; ++key) {
    const float* row = slot(args.values, args, begin + key);
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

/** Turns `num_keys` scores of one query into e^(score - max); returns the maximum and the sum. */
VLLM_PD_INLINE void softmax(float* scores, int64_t num_keys, float scale, float* maximum, float* sum) {
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
    if (num_keys - j < kLanes) {
      store(scores + j, p);
      for (int64_t i = num_keys; i < padded; ++i) scores[i] = 0.0f;
      p = load(scores + j);
    }
    store(scores + j, p);
    total = total + p;
  }
  *sum = reduce_add(total);
}

/** Adds one segment's softmax and weighted values to a query's running ones. */
VLLM_PD_INLINE void merge(const AttentionScratch& s, int64_t row, float maximum, float sum, bool first) {
  float* sums = s.sums + row * s.value_dim;
  const float* segment = s.segment + row * s.value_dim;
  if (first) {
    s.maxima[row] = maximum;
    s.weights[row] = sum;
    for (int64_t d = 0; d < s.value_dim; d += kLanes) store(sums + d, load(segment + d));
    return;
  }
  const float before = s.maxima[row];
  const float both = before > maximum ? before : maximum;
  const V16 keep = exp(splat(before - both));
  const V16 add = exp(splat(maximum - both));
  float lanes[kLanes];
  store(lanes, fma(keep, splat(s.weights[row]), add * splat(sum)));
  s.maxima[row] = both;
  s.weights[row] = lanes[0];
  for (int64_t d = 0; d < s.value_dim; d += kLanes) {
    store(sums + d, fma(keep, load(sums + d), add * load(segment + d)));
  }
}

/** Weighted values of rows [row, row + num_rows), each over the segment's first `num_keys` keys. */
VLLM_PD_INLINE void weigh_values(const AttentionScratch& s, int64_t row, int64_t num_rows, int64_t num_keys) {
  for (int64_t column = 0; column < s.value_dim; column += kPanel) {
    matmul_panel({s.scores + row * kSegment, kSegment, num_keys, s.values + column * kSegment, nullptr, 0,
                  s.segment + row * s.value_dim + column, s.value_dim},
                 num_rows, kPanel);
  }
}

VLLM_PD_INLINE int64_t keys_in_segment(int32_t position, int64_t begin) {
  const int64_t count = position + 1 - begin;
  return count < 0 ? 0 : count < kSegment ? count : kSegment;
}

/** One segment of keys, from position `begin`, for all rows of the tile. `num_keys`: the most that any of its tokens sees. */
void attend_segment(const AttentionArgs& args, const AttentionScratch& s, int64_t begin, int64_t num_keys) {
  const int64_t group = args.group_size;
  const int64_t num_rows = args.num_tokens * group;
  pack_keys(args, begin, num_keys, s.keys);
  pack_values(args, begin, num_keys, s.values);
  for (int64_t key = 0; key < num_keys; key += kPanel) {
    matmul_panel({s.q, args.head_dim, args.head_dim, s.keys + key * args.head_dim, nullptr, 0, s.scores + key, kSegment},
                 num_rows, kPanel);
  }
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(args.head_dim));
  float maximum[64];
  float sum[64];
  bool all_full = true;
  for (int64_t token = 0; token < args.num_tokens; ++token) {
    all_full = all_full && keys_in_segment(args.positions[token], begin) == kSegment;
  }
  // Rows that see the whole segment are taken many at a time, others token by token: no row touches a V that lies behind it.
  const int64_t step = all_full ? num_rows : group;
  for (int64_t row = 0; row < num_rows; row += step) {
    const int64_t count = keys_in_segment(args.positions[row / group], begin);
    if (count == 0) continue;
    for (int64_t chunk = row; chunk < row + step; chunk += 64) {
      const int64_t rows = row + step - chunk < 64 ? row + step - chunk : 64;
      for (int64_t r = 0; r < rows; ++r) softmax(s.scores + (chunk + r) * kSegment, count, scale, maximum + r, sum + r);
      weigh_values(s, chunk, rows, count);
      for (int64_t r = 0; r < rows; ++r) merge(s, chunk + r, maximum[r], sum[r], begin == 0);
    }
  }
}

void attention(const AttentionArgs& args) {
  const int64_t group = args.group_size;
  const int64_t head_dim = args.head_dim;
  const AttentionScratch s = carve(args.scratch, args.num_tokens * group, head_dim);
  int32_t last = 0;
  for (int64_t token = 0; token < args.num_tokens; ++token) {
    std::memcpy(s.q + token * group * head_dim, args.q + token * args.q_stride, group * head_dim * sizeof(float));
    if (args.positions[token] > last) last = args.positions[token];
  }
  for (int64_t begin = 0; begin <= last; begin += kSegment) attend_segment(args, s, begin, keys_in_segment(last, begin));
  for (int64_t row = 0; row < args.num_tokens * group; ++row) {
    float* out = args.out + row / group * args.out_stride + row % group * head_dim;
    const float* sums = s.sums + row * s.value_dim;
    const float weight = 1.0f / s.weights[row];
    for (int64_t d = 0; d < head_dim; ++d) out[d] = sums[d] * weight;
  }
}

}  // namespace
}  // namespace vllm_pd::cpu
