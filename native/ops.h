// The kernels of the CPU, one virtual method each. Activations are float32, row-major; shapes stand at each argument.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kv_cache.h"

namespace vllm_pd {

/** Writes row `n` of a weight matrix, `k` floats, to `out`. Called from several threads. */
using RowSource = void (*)(const void* context, int64_t n, float* out);

/**
 * What a weight is kept as. kInt8 has one scale for each row n of the matrix (symmetric, largest magnitude =
 * 127); the activations that it is multiplied with are quantised likewise, each row by itself.
 */
enum class WeightType { kFloat32, kBFloat16, kInt8 };

struct MatrixShape {
  int64_t n;
  int64_t k;
  WeightType type;
};

/** A weight matrix (n, k) in the order in which its backend reads it. */
class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;
  int64_t n() const { return shape_.n; }
  int64_t k() const { return shape_.k; }
  WeightType type() const { return shape_.type; }

 protected:
  explicit PackedMatrix(const MatrixShape& shape) : shape_(shape) {}

 private:
  MatrixShape shape_;
};

/** One step's tokens, all requests flattened. */
struct Batch {
  std::vector<int32_t> token_ids;       // (num_tokens)
  std::vector<int32_t> positions;       // (num_tokens)
  std::vector<int32_t> cu_seqlens_q;    // (num_requests + 1)
  std::vector<int32_t> block_tables;    // all requests' tables, one after the other
  std::vector<int32_t> cu_blocks;       // (num_requests + 1)
  std::vector<int32_t> logits_indices;  // (num_logits_rows)

  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t num_requests() const { return static_cast<int64_t>(cu_seqlens_q.size()) - 1; }
};

struct AttentionShape {
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_dim;
  /** Keys that a query sees at most, its own included; 0 = all before it. */
  int64_t sliding_window;

  int64_t q_dim() const { return num_heads * head_dim; }
  int64_t kv_dim() const { return num_kv_heads * head_dim; }
  int64_t qkv_dim() const { return q_dim() + 2 * kv_dim(); }
};

/** RMS norm of a row: x / sqrt(mean(x²) + eps) * weight. */
struct RmsNorm {
  const float* weight;  // (row length)
  float eps;
};

/**
 * Rows of a matrix of gates and of what they gate, `size` of each: sixteen gates, then the sixteen that they gate, and
 * so on, so that a kernel has both at hand. Rows of zeros make both a multiple of 32.
 */
struct GatedRows {
  static constexpr int64_t kRun = 16;
  int64_t size;

  int64_t padded_size() const { return (size + 31) / 32 * 32; }
  int64_t num_rows() const { return 2 * padded_size(); }
  bool is_gate(int64_t row) const { return row / kRun % 2 == 0; }
  /** Number of the gate, or of what is gated; a row of zeros from `size` on. */
  int64_t index(int64_t row) const { return row / (2 * kRun) * kRun + row % kRun; }
};

struct FeedForward {
  RmsNorm norm;
  const PackedMatrix* gate_up;  // (GatedRows, k)
  const float* gate_up_bias;    // (GatedRows), or null
  const PackedMatrix* down;     // (k, size)
};

/** What turns a projected row into queries, keys and values. */
struct RotaryArgs {
  const float* cos;     // (num_tokens, rotary_dim / 2), or null in a layer without positions
  const float* sin;     // (num_tokens, rotary_dim / 2)
  const float* q_norm;  // (head_dim), or null
  const float* k_norm;  // (head_dim), or null
  float norm_eps;
  int64_t rotary_dim;  // the first so many of a head's dimensions are rotated
};

/**
 * All kernels are batch-invariant: what a row comes out as depends on that row alone (for attention: on its
 * query, its position and the K and V before it), bit for bit, not on the other rows, their number, or the
 * number of threads.
 */
class Ops {
 public:
  virtual ~Ops() = default;

  /** Names the packed form: two Ops that say the same read each other's bytes. */
  virtual std::string packed_layout() const = 0;

  /** Bytes of the packed form in host memory. */
  virtual int64_t packed_bytes(const MatrixShape& shape) const = 0;

  /** Writes the packed form to `out`, which is aligned to 64 bytes. */
  virtual void pack(const MatrixShape& shape, RowSource source, const void* context, uint8_t* out) = 0;

  /**
   * A matrix of what `pack` wrote. `owner` keeps `packed` where it is; a backend that copies it to a device
   * lets go of it.
   */
  virtual std::unique_ptr<PackedMatrix> open(const MatrixShape& shape, const uint8_t* packed,
                                             std::shared_ptr<const void> owner) = 0;

  /** out (num_rows, k) = rows `ids` of `table` (n, k). */
  virtual void embed(const int32_t* ids, int64_t num_rows, const PackedMatrix& table, float* out) = 0;

  /** out (num_rows, n) = a (num_rows, k) · wᵀ + bias (n): a normed, unless norm is null, and 0 where bias is null. */
  virtual void matmul(const float* a, int64_t num_rows, const RmsNorm* norm, const PackedMatrix& w,
                      const float* bias, float* out) = 0;

  /** out (num_rows, n) += a (num_rows, k) · wᵀ */
  virtual void matmul_add(const float* a, int64_t num_rows, const PackedMatrix& w, float* out) = 0;

  /**
   * qkv (num_tokens, q_dim + 2 kv_dim): q and k are normed where asked and rotated in place, k and v are
   * written to `layer` of the pool, rounded to its dtype (ties to even), each at
   * block_table[position / block_size], slot position % block_size.
   */
  virtual void rotate_and_cache(float* qkv, const AttentionShape& shape, const RotaryArgs& rotary,
                                const Batch& batch, const KvRegion& pool, int64_t layer) = 0;

  /**
   * out (num_tokens, q_dim): causal attention of the queries in qkv over `layer` of the pool. With a sliding
   * window, the query at position p sees the keys at positions above p - sliding_window only.
   */
  virtual void paged_attention(const float* qkv, const AttentionShape& shape, const Batch& batch,
                               const KvRegion& pool, int64_t layer, float* out) = 0;

  /** x (num_rows, k) += (silu(gate) * up) · downᵀ, gate and up being norm(x) · gate_upᵀ + bias. */
  virtual void feed_forward(float* x, int64_t num_rows, const FeedForward& layer) = 0;
};

}  // namespace vllm_pd
