// What one thread does at a time on a CPU; one table of these for each instruction set.
#pragma once

#include <cstdint>

namespace vllm_pd::cpu {

/** Columns of a packed weight panel: a panel is (k, kPanel), the last one padded with zeros. */
constexpr int64_t kPanel = 32;
/**
 * Keys that one softmax covers. Segments lie on a fixed grid from position 0 and are merged in order, so a
 * token's sums are formed the same way however its prompt was chunked.
 */
constexpr int64_t kSegment = 64;
/**
 * Keys that one thread takes at a time of a long sequence, whole segments. Spans, too, lie on a fixed grid: the
 * segments of each are merged on their own, then the spans in order, whoever computed them.
 */
constexpr int64_t kSpan = 8 * kSegment;

struct MatmulArgs {
  /** (num_rows, k) as the kernel takes them: float32, or what `round_row` or `quantize_row` made of them. */
  const void* a;
  /** Bytes of a row and what lies behind it; of narrow rows as `Kernels::row_block` says. */
  int64_t a_stride;
  int64_t num_rows;
  /** Padded as in packed_matrix.h. */
  int64_t k;
  const void* panels;  // (panel_end, k, kPanel)
  int64_t panel_begin;
  int64_t panel_end;
  int64_t n;
  /** What is added to the products: null = zeros, else rows of n floats, `init_stride` apart (0 = one row for
   * all). */
  const float* init;
  int64_t init_stride;
  float* out;  // (num_rows, n)
  /** The product is larger than caches are, and its rows are whole cache lines: it may be written past them. */
  bool stream;
  /** matmul_scratch_floats(), aligned to 64 bytes. */
  float* scratch;
  /** Elements of a row of gated products, where a panel's columns are gates and what they gate (GatedRows); 0 elsewhere. */
  int64_t gated_size;
  /** Where rows of gated products go, as `round_row` places them, `gated_stride` apart; null = to `out` (num_rows, gated_size). */
  void* gated_rows;
  int64_t gated_stride;
  // For int8 weights alone:
  const float* row_scales;     // (num_rows)
  const float* column_scales;  // (num_panels * kPanel)
  const int32_t* column_sums;  // (num_panels * kPanel): of the int8 weights
};

/** Consecutive tokens of one request, and consecutive KV heads with the query heads that share them. */
struct AttentionArgs {
  const float* q;  // (num_tokens, num_kv_heads, group_size, head_dim), tokens `q_stride` apart
  int64_t q_stride;
  const int32_t* positions;  // (num_tokens)
  int64_t num_tokens;
  int64_t num_kv_heads;
  int64_t group_size;
  int64_t head_dim;
  const int32_t* block_table;
  bool is_bfloat16;       // of keys and values; else float
  const uint8_t* keys;    // (num_kv_heads, block_size, head_dim) in block 0, blocks `block_stride` bytes apart
  const uint8_t* values;  // likewise
  int64_t block_stride;
  int64_t block_size;
  int64_t sliding_window;  // keys that a query sees at most, its own included; 0 = all
  float* out;              // (num_tokens, num_kv_heads, group_size, head_dim), tokens `out_stride` apart
  int64_t out_stride;
  float* scratch;  // attention_scratch_floats()
};

/** Keys, spans or the like: [begin, end). */
struct KeyRange {
  int64_t begin;
  int64_t end;
};

/** Positions that any query of the tile sees, from the beginning of a segment. */
static inline KeyRange keys_of(const AttentionArgs& args) {
  int64_t first = args.positions[0];
  int64_t last = args.positions[0];
  for (int64_t token = 1; token < args.num_tokens; ++token) {
    const int64_t position = args.positions[token];
    first = position < first ? position : first;
    last = position > last ? position : last;
  }
  first = args.sliding_window > 0 ? first + 1 - args.sliding_window : 0;
  return {first < 0 ? 0 : first / kSegment * kSegment, last + 1};
}

/** Numbers of the spans in which these keys lie. */
static inline KeyRange spans_of(const KeyRange& keys) {
  return {keys.begin / kSpan, (keys.end + kSpan - 1) / kSpan};
}

/** head_dim, padded to whole panels. */
static inline int64_t value_dim_of(int64_t head_dim) { return (head_dim + kPanel - 1) / kPanel * kPanel; }

/** Rows of queries that one KV head has in a tile. */
static inline int64_t rows_of(const AttentionArgs& args) { return args.num_tokens * args.group_size; }

/** Floats of what `attention_span` leaves behind of `num_rows` queries of one KV head: whole cache lines. */
static inline int64_t attention_state_floats(int64_t num_rows, int64_t head_dim) {
  return num_rows * value_dim_of(head_dim) + 2 * ((num_rows + 15) / 16 * 16);
}

/** Rows of queries whose scores are kept at once. */
constexpr int64_t kScoreRows = 64;

/** Floats for the queries of one KV head, at least sixteen rows. */
static inline int64_t head_q_floats(int64_t num_rows, int64_t head_dim) {
  return (num_rows < 16 ? 16 : num_rows) * value_dim_of(head_dim);
}

/** Floats that the attention kernels need for a tile of `num_rows` queries of each of its KV heads. */
static inline int64_t attention_scratch_floats(int64_t num_rows, int64_t num_kv_heads, int64_t head_dim) {
  const int64_t value_dim = value_dim_of(head_dim);
  const int64_t packed = 2 * kSegment * value_dim;
  const int64_t to_line_begin = 16;
  const int64_t behind_scores = 16;
  return packed + kScoreRows * kSegment + behind_scores + num_kv_heads * head_q_floats(num_rows, head_dim) + to_line_begin +
         2 * num_kv_heads * attention_state_floats(num_rows, head_dim);
}

/** Floats that keep sums of `num_rows` rows while they are not complete. */
static inline int64_t matmul_scratch_floats(int64_t num_rows) { return (num_rows + 31) / 32 * 32 * kPanel; }

/** Rows of activations are cut into pieces of so many bytes, where they do not lie in a row. */
constexpr int64_t kRowPiece = 64;

struct Kernels {
  const char* isa;
  void (*matmul_f32)(const MatmulArgs& args);
  void (*matmul_bf16)(const MatmulArgs& args);
  void (*matmul_int8)(const MatmulArgs& args);
  /** Rows that a kernel takes at a time: float32, and the other two. */
  int64_t f32_tile_rows;
  int64_t narrow_tile_rows;
  /** Bytes of rows that one task goes through for each panel of weights: what the second-level cache has room for. */
  int64_t task_bytes;
  /**
   * Narrow rows lie in blocks of so many, which hold the first piece of each row, then the second of each and so on;
   * 1 = row by row.
   */
  int64_t row_block;
  /** matmul_bf16 and matmul_int8 heed `gated_size`. */
  bool gates;
  /** Bytes of one element of a row in front of bf16 weights, and of int8 weights. */
  int64_t bf16_row_element;
  int64_t int8_row_element;
  /** (k) floats as matmul_bf16 takes them, zeros up to `padded_k`; pieces lie `piece_stride` bytes apart. */
  void (*round_row)(const float* x, int64_t k, int64_t padded_k, int64_t piece_stride, void* out);
  /** (k) floats as matmul_int8 takes them, likewise; returns the scale, the row's largest magnitude / 127. */
  float (*quantize_row)(const float* x, int64_t k, int64_t padded_k, int64_t piece_stride, void* out);
  void (*attention)(const AttentionArgs& args);
  /** The same in pieces: one span into `state`, attention_state_floats() of each KV head… */
  void (*attention_span)(const AttentionArgs& args, int64_t span, float* state);
  /** …and all spans' states, one after the other and in order, into args.out. */
  void (*attention_join)(const AttentionArgs& args, const float* states, int64_t num_states);
  /** out (dim) = x / sqrt(mean(x²) + eps) * weight; out may be x. */
  void (*rms_norm)(const float* x, int64_t dim, const float* weight, float eps, float* out);
  /** Rounds (count) floats to bfloat16, ties to even. */
  void (*round_to_bfloat16)(const float* x, int64_t count, uint16_t* out);
  /** Rotates (head_dim) by (head_dim / 2) cosines and sines, element i with element i + head_dim / 2. */
  void (*rotate)(float* x, int64_t head_dim, const float* cos, const float* sin);
  /** out (size) = silu(gate) * up, from gate_up (GatedRows). */
  void (*swiglu)(const float* gate_up, int64_t size, float* out);
  /** For probe/machine_limits.cc: about `count` multiply-adds that never leave the registers; returns something of them. */
  float (*fma_loop)(int64_t count);
  /** The same in the instructions that multiply bf16 and int8 weights. */
  float (*bf16_loop)(int64_t count);
  float (*int8_loop)(int64_t count);
  /** For probe/single_ops.cc: reads K and V as attention_span does and computes nothing; one float of `state` comes of it. */
  void (*attention_span_reads)(const AttentionArgs& args, int64_t span, float* state);
  /** For probe/machine_limits.cc: the sum of (count) floats, as fast as they can be read. */
  float (*read_loop)(const float* x, int64_t count);
};

}  // namespace vllm_pd::cpu
