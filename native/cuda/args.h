// What each kernel is launched with: one struct a kernel, the same bytes on the host and on the device. All
// pointers are device addresses (for block copies also of pinned host memory). T is the model's element type,
// bf16 or f16; KV elements are T or e4m3. launch.h says which grid goes with each.
#pragma once

#include <cstdint>

namespace vllm_pd::cuda {

struct EmbedArgs {
  const int32_t* ids;  // (num_rows)
  const void* table;   // (vocab_size, dim) T
  float* out;          // (num_rows, dim)
  int64_t dim;         // a multiple of 8
};

/** x += delta where given, then out = x / sqrt(mean(x²) + eps) * weight. */
struct RmsNormArgs {
  float* x;             // (num_rows, dim), the residual stream
  const void* delta;    // (num_rows, dim) T, or null
  const float* weight;  // (dim)
  void* out;            // (num_rows, dim) T
  int64_t dim;          // a multiple of 8
  float eps;
};

struct GatherRowsArgs {
  const float* x;       // (…, dim)
  const int32_t* rows;  // (num_rows)
  float* out;           // (num_rows, dim), not x
  int64_t dim;
};

/** `count` elements from one type to another. */
struct ConvertArgs {
  const void* from;
  void* to;
  int64_t count;
};

struct SwigluArgs {
  const void* gate_up;  // (num_rows, 2 dim) T
  void* out;            // (num_rows, dim) T
  int64_t dim;          // a multiple of 8
};

/** One layer of a pool: K of block b, head h, slot s begins at keys + b * block_stride + (h * block_size + s) *
 * head_dim, V at the same place from `values`. Counted in elements. */
struct KvLayerArgs {
  void* keys;
  void* values;
  int64_t block_stride;
  int32_t block_size;
  int32_t block_shift;  // log2(block_size), or -1 where that is no whole number; launch.cc fills it in
  float k_scale;  // what is stored is K / k_scale; 1 unless fp8
  float v_scale;
};

struct HeadsArgs {
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t head_dim;  // a multiple of 8 up to kMaxHeadDim
};

struct RotateAndCacheArgs {
  void* qkv;                    // (num_tokens, (num_heads + 2 num_kv_heads) * head_dim) T; q is rotated in place
  const float* cos;             // (max_positions, rotary_dim / 2)
  const float* sin;             // likewise
  const float* q_norm;          // (head_dim), or null
  const float* k_norm;          // (head_dim), or null
  const int32_t* positions;     // (num_tokens)
  const int64_t* slot_mapping;  // (num_tokens) block id * block_size + slot; below 0: a token of padding
  KvLayerArgs kv;
  HeadsArgs heads;
  int32_t rotary_dim;  // the first so many of a head's dimensions are rotated; 0 in a layer without positions
  float norm_eps;
};

/** Rows of one request that a block of threads attends for: queries of consecutive tokens, of all heads that
 * share a KV head. */
struct AttentionTile {
  int32_t request;
  int32_t token;       // the first, counted over the batch
  int32_t num_tokens;  // at most kPrefillRows / (num_heads / num_kv_heads), at least 1
};

struct AttentionArgs {
  const void* qkv;              // as rotate_and_cache left it
  void* out;                    // (num_tokens, num_heads * head_dim) T
  const int32_t* positions;     // (num_tokens), ascending within a request
  const int32_t* block_tables;  // all requests' tables, one after the other
  const int32_t* cu_blocks;     // (num_requests + 1)
  KvLayerArgs kv;
  HeadsArgs heads;
  float softmax_scale;
  /** A query sees the last `sliding_window` positions up to its own; 0 = all. */
  int32_t sliding_window;

  // Prefill: (num_tiles), and scratch of prefill_scratch_floats() a block of the grid.
  const AttentionTile* tiles;
  float* running;

  // Decode, one token a request, request r's being token r: partial results of each segment. A request whose
  // position is below 0 is padding.
  int32_t num_segments;  // of the longest request, or more
  float* partial_out;    // (num_requests, num_heads, num_segments, head_dim)
  float* partial_max;    // (num_requests, num_heads, num_segments)
  float* partial_sum;    // (num_requests, num_heads, num_segments)
};

enum class MatmulOutput : int32_t {
  kElements = 0,  // out (num_rows, n) T = a · wᵀ + bias
  kFloats = 1,    // out (num_rows, n) float32 = a · wᵀ + bias
  kAdd = 2,       // out (num_rows, n) float32 += a · wᵀ
};

struct MatmulArgs {
  const void* a;      // (num_rows, k) T
  const void* w;      // (n, k) T
  const float* bias;  // (n), or null
  void* out;
  int64_t num_rows;
  int64_t n;
  int64_t k;  // a multiple of 8
  MatmulOutput output;
};

/** Tokens that one row may forbid beside those that all rows do. */
constexpr int kMaxForbidden = 8;

/** How one row's token is drawn: temperature, then top-k, then top-p, as src/worker/sampler.ts does it. */
struct SamplingRow {
  double temperature;  // below 1e-5: the largest logit, of equal ones the first
  double top_p;        // 1 = all
  double share;        // in [0, 1): where in the cumulative distribution the token is taken
  int32_t top_k;       // 0 = all
  int32_t logits_row;
  int32_t num_forbidden;
  int32_t forbidden[kMaxForbidden];  // never drawn, unless nothing else is left
};

struct SampleArgs {
  const float* logits;         // (…, vocab_size)
  const SamplingRow* rows;     // (num_rows)
  const uint32_t* suppressed;  // (vocab_size / 32, rounded up) a bit a token that is never drawn; or null
  int32_t* token_ids;          // (num_rows); -1 where no logit is finite
  int64_t vocab_size;
};

/** Block i: from + from_ids[i] * block_bytes → to + to_ids[i] * block_bytes; null ids mean 0, 1, 2, … */
struct CopyBlocksArgs {
  const void* from;
  void* to;
  const int32_t* from_ids;
  const int32_t* to_ids;
  int64_t num_blocks;
  int64_t block_bytes;  // a multiple of 16
};

/** Rows are read 16 bytes at a time. */
constexpr int64_t kElementsOf16Bytes = 8;

/** Keys that one online softmax step covers, and keys that it runs over before results are merged in order.
 * Both lie on a fixed grid from position 0, in prefill and in decode: a query's sums are formed the same way
 * however its prompt was chunked. */
constexpr int kTileKeys = 32;
constexpr int kSegmentKeys = 512;
constexpr int kMaxHeadDim = 128;
/** Query rows of a block of threads in prefill. */
constexpr int kPrefillRows = 128;
constexpr int kPrefillThreads = 128;
/** Query rows of a block of threads, one warp, in decode. */
constexpr int kDecodeRows = 16;
constexpr int kDecodeThreads = 32;
/** Tiles of K and V in shared memory: one in use, the others on their way. */
constexpr int kAttentionStages = 3;

}  // namespace vllm_pd::cuda
