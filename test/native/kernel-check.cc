// Compares the matrix products of one instruction set, VLLM_PD_ISA's, with plain ones, bf16 within rounding, int8 exactly,
// and its attention over bfloat16 likewise. Prints the first that differs and ends with 1. Run by kernel-check.test.ts.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "bfloat16.h"
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/packed_matrix.h"
#include "float_buffer.h"

using namespace vllm_pd;
using namespace vllm_pd::cpu;

namespace {

/** Ends with 3 where this machine does not have what was asked for. */
const Kernels& kernels_or_exit() {
  try {
    return chosen_kernels();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::exit(3);
  }
}
const Kernels& kernels = kernels_or_exit();

uint32_t state = 1;
float random_float() {
  state = state * 1664525u + 1013904223u;
  return static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

struct Problem {
  int64_t num_rows;
  int64_t k;
  int64_t n;
  std::vector<float> a;        // (num_rows, k)
  std::vector<float> weights;  // (n, k)
  std::vector<float> init;     // (num_rows, n)
};

void copy_row(const void* context, int64_t n, float* out) {
  const auto& problem = *static_cast<const Problem*>(context);
  std::copy_n(problem.weights.data() + n * problem.k, problem.k, out);
}

struct Multiplier {
  Multiplier(const Problem& problem, WeightType type)
      : problem(problem), shape{problem.n, problem.k, type}, packed(packed_bytes(shape) + 64) {
    bytes = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(packed.data()) + 63) & ~uintptr_t{63});
    std::vector<float> row(problem.k);
    for (int64_t p = 0; p < num_panels(problem.n); ++p)
      pack_panel(shape, p, copy_row, &problem, row.data(), bytes);
    matrix = std::make_unique<PanelMatrix>(shape, bytes, nullptr);
  }

  /**
   * Rows [begin, end) at once, added to `init`; with `gated_size`, which the matrix's columns are the gates of and what these
   * gate, silu(gate) * up of them, added to the first row of `init`.
   */
  std::vector<float> multiply(int64_t begin, int64_t end, int64_t gated_size = 0, uint8_t* gated_rows = nullptr,
                              int64_t gated_stride = 0) {
    const bool int8 = shape.type == WeightType::kInt8;
    const bool float32 = shape.type == WeightType::kFloat32;
    const int64_t element = int8 ? kernels.int8_row_element : float32 ? sizeof(float) : kernels.bf16_row_element;
    MatmulArgs args{};
    const int64_t block = float32 ? 1 : kernels.row_block;
    args.a_stride = matrix->padded_k() * element + (block == 1 ? 64 : 0);
    args.num_rows = end - begin;
    std::vector<uint8_t> rows((args.num_rows + block) * args.a_stride, 0xff);
    FloatBuffer scratch;
    args.scratch = scratch.sized(matmul_scratch_floats(args.num_rows));
    std::vector<float> scales(args.num_rows);
    for (int64_t r = 0; r < args.num_rows; ++r) {
      const float* const from = problem.a.data() + (begin + r) * problem.k;
      uint8_t* const to = rows.data() + r / block * block * args.a_stride + r % block * kRowPiece;
      if (float32) {
        std::memcpy(to, from, problem.k * sizeof(float));
      } else if (int8) {
        scales[r] = kernels.quantize_row(from, problem.k, matrix->padded_k(), block * kRowPiece, to);
      } else {
        kernels.round_row(from, problem.k, matrix->padded_k(), block * kRowPiece, to);
      }
    }
    const int64_t out_size = gated_size > 0 ? gated_size : problem.n;
    // Whole lines are streamed.
    FloatBuffer buffer;
    float* const out = buffer.sized(args.num_rows * out_size + 16);
    std::fill_n(out, args.num_rows * out_size + 16, 7.0f);
    args.a = rows.data();
    args.k = matrix->padded_k();
    args.panels = matrix->panels();
    args.panel_end = num_panels(problem.n);
    args.n = problem.n;
    args.gated_size = gated_size;
    args.stream = gated_size > 0 && gated_size % 16 == 0;
    args.gated_rows = gated_rows;
    args.gated_stride = gated_stride;
    args.init = problem.init.data() + (gated_size > 0 ? 0 : begin * problem.n);
    args.init_stride = gated_size > 0 ? 0 : problem.n;
    args.out = out;
    args.row_scales = scales.data();
    args.column_scales = matrix->scales();
    args.column_sums = matrix->sums();
    (int8 ? kernels.matmul_int8 : float32 ? kernels.matmul_f32 : kernels.matmul_bf16)(args);
    for (int64_t i = 0; i < 16; ++i) {
      if (out[args.num_rows * out_size + i] != 7.0f) fail("wrote beyond the product");
    }
    return std::vector<float>(out, out + args.num_rows * out_size);
  }

  const Problem& problem;
  MatrixShape shape;
  std::vector<uint8_t> packed;
  uint8_t* bytes;
  std::unique_ptr<PanelMatrix> matrix;
};

/** What element (row, column) should be; `tolerance` how far off it may be. */
double expected(const Multiplier& m, int64_t row, int64_t column, double* tolerance) {
  const Problem& p = m.problem;
  std::vector<float> weights(p.k);
  m.matrix->read_row(column, weights.data());
  const float* const a = p.a.data() + row * p.k;
  const double init = p.init[row * p.n + column];
  double sum = 0;
  double magnitude = std::fabs(init);
  float largest = 0;
  for (int64_t i = 0; i < p.k; ++i) largest = std::max(largest, std::fabs(a[i]));
  const bool rounds = m.shape.type == WeightType::kBFloat16 && kernels.bf16_row_element == sizeof(uint16_t);
  for (int64_t i = 0; i < p.k; ++i) {
    const double rounded = m.shape.type == WeightType::kInt8
                               ? std::nearbyint(a[i] * (127.0f / largest)) * (largest / 127.0)
                           : rounds ? from_bfloat16(to_bfloat16(a[i]))
                                    : a[i];
    sum += rounded * weights[i];
    magnitude += std::fabs(rounded * weights[i]);
  }
  *tolerance = 1e-5 * magnitude;
  return sum + init;
}

bool check(WeightType type, int64_t num_rows, int64_t k, int64_t n) {
  Problem problem{num_rows, k, n, {}, {}, {}};
  for (auto [floats, count] : {std::pair(&problem.a, num_rows * k), std::pair(&problem.weights, n * k),
                               std::pair(&problem.init, num_rows * n)}) {
    for (int64_t i = 0; i < count; ++i) floats->push_back(random_float());
  }
  Multiplier multiplier(problem, type);
  const std::vector<float> all = multiplier.multiply(0, num_rows);
  for (int64_t row = 0; row < num_rows; ++row) {
    const std::vector<float> alone = multiplier.multiply(row, row + 1);
    for (int64_t column = 0; column < n; ++column) {
      double tolerance;
      const double wanted = expected(multiplier, row, column, &tolerance);
      const float received = all[row * n + column];
      if (std::fabs(received - wanted) <= tolerance && alone[column] == received) continue;
      std::fprintf(
          stderr,
          "type %d, %ld x %ld x %ld, row %ld, column %ld: expected %.9g, among others %.9g, alone %.9g\n",
          static_cast<int>(type), num_rows, k, n, row, column, wanted, received, alone[column]);
      return false;
    }
  }
  return true;
}

/** Gated products against the gates of plain ones, to the bit. */
bool check_gated(WeightType type, int64_t num_rows, int64_t k, int64_t size) {
  const GatedRows rows{size};
  const int64_t n = rows.num_rows();
  Problem problem{num_rows, k, n, {}, {}, {}};
  for (int64_t i = 0; i < num_rows * k; ++i) problem.a.push_back(random_float());
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t i = 0; i < k; ++i) problem.weights.push_back(rows.index(row) < size ? random_float() : 0.0f);
  }
  for (int64_t row = 0; row < n; ++row) problem.init.push_back(rows.index(row) < size ? random_float() : 0.0f);
  // The bias is one row for all.
  for (int64_t row = 1; row < num_rows; ++row) {
    for (int64_t i = 0; i < n; ++i) problem.init.push_back(problem.init[i]);
  }
  Multiplier multiplier(problem, type);
  const std::vector<float> plain = multiplier.multiply(0, num_rows);
  const std::vector<float> gated = multiplier.multiply(0, num_rows, size);
  std::vector<float> wanted(size);
  for (int64_t row = 0; row < num_rows; ++row) {
    kernels.swiglu(plain.data() + row * n, size, wanted.data());
    for (int64_t i = 0; i < size; ++i) {
      if (gated[row * size + i] == wanted[i]) continue;
      std::fprintf(stderr, "gated, type %d, %ld x %ld x %ld, row %ld, element %ld: expected %.9g but received %.9g\n",
                   static_cast<int>(type), num_rows, k, size, row, i, wanted[i], gated[row * size + i]);
      return false;
    }
  }
  // The same as rows of the next product.
  const int64_t stride = rows.padded_size() * kernels.bf16_row_element;
  const int64_t block = kernels.row_block;
  const size_t num_bytes = (num_rows + block - 1) / block * block * stride;
  std::vector<uint8_t> received(num_bytes, 0xff);
  std::vector<uint8_t> expected(num_bytes, 0xff);
  multiplier.multiply(0, num_rows, size, received.data(), stride);
  for (int64_t row = 0; row < num_rows; ++row) {
    uint8_t* const to = expected.data() + row / block * block * stride + row % block * kRowPiece;
    kernels.round_row(gated.data() + row * size, size, rows.padded_size(), block * kRowPiece, to);
  }
  if (received != expected) fail("gated rows are not the gated products, rounded");
  return true;
}

/** Paged K and V, NaN where no token was: queries of some tokens over all those before them. */
struct AttentionProblem {
  static constexpr int64_t kBlockSize = 16;
  static constexpr int64_t kGroup = 3;
  bool is_bfloat16;  // of K and V; else the same numbers in float32
  int64_t head_dim;
  int64_t num_heads;  // of K and V
  int64_t num_keys;
  int64_t num_tokens;          // the last ones
  std::vector<float> q;        // (num_tokens, num_heads, kGroup, head_dim)
  std::vector<uint16_t> pool;  // (num_blocks, 2, num_heads, kBlockSize, head_dim)
  std::vector<float> wide;     // likewise
  std::vector<int32_t> table;

  int64_t q_stride() const { return num_heads * kGroup * head_dim; }
  int64_t kv_size() const { return num_heads * kBlockSize * head_dim; }
  int64_t place(bool value, int64_t head, int64_t key) const {
    return (table[key / kBlockSize] * 2 + value) * kv_size() + (head * kBlockSize + key % kBlockSize) * head_dim;
  }

  /** Attention of tokens [begin, end) at once. */
  std::vector<float> attend(int64_t begin, int64_t end) const {
    std::vector<int32_t> positions;
    for (int64_t token = begin; token < end; ++token) {
      positions.push_back(static_cast<int32_t>(num_keys - num_tokens + token));
    }
    std::vector<float> out((end - begin) * q_stride(), 7.0f);
    std::vector<float> scratch(attention_scratch_floats((end - begin) * kGroup, num_heads, head_dim));
    AttentionArgs args{};
    args.q = q.data() + begin * q_stride();
    args.q_stride = args.out_stride = q_stride();
    args.positions = positions.data();
    args.num_tokens = end - begin;
    args.num_kv_heads = num_heads;
    args.group_size = kGroup;
    args.head_dim = head_dim;
    args.block_table = table.data();
    args.is_bfloat16 = is_bfloat16;
    const int64_t element = is_bfloat16 ? sizeof(uint16_t) : sizeof(float);
    args.keys = is_bfloat16 ? reinterpret_cast<const uint8_t*>(pool.data()) : reinterpret_cast<const uint8_t*>(wide.data());
    args.values = args.keys + kv_size() * element;
    args.block_stride = 2 * kv_size() * element;
    args.block_size = kBlockSize;
    args.out = out.data();
    args.scratch = scratch.data();
    kernels.attention(args);
    return out;
  }

  /** One row's weighted values, (head_dim). */
  std::vector<double> expected(int64_t token, int64_t head, int64_t member) const {
    const float* const query = q.data() + token * q_stride() + (head * kGroup + member) * head_dim;
    std::vector<double> sums(head_dim);
    double total = 0;
    for (int64_t key = 0; key <= num_keys - num_tokens + token; ++key) {
      double score = 0;
      for (int64_t d = 0; d < head_dim; ++d) score += query[d] * from_bfloat16(pool[place(false, head, key) + d]);
      const double p = std::exp(score / std::sqrt(head_dim));
      total += p;
      for (int64_t d = 0; d < head_dim; ++d) sums[d] += p * from_bfloat16(pool[place(true, head, key) + d]);
    }
    for (double& sum : sums) sum /= total;
    return sums;
  }
};

AttentionProblem attention_problem(bool is_bfloat16, int64_t head_dim, int64_t num_keys, int64_t num_tokens) {
  AttentionProblem p{is_bfloat16, head_dim, 2, num_keys, num_tokens, {}, {}, {}, {}};
  const int64_t num_blocks = (num_keys + p.kBlockSize - 1) / p.kBlockSize;
  for (int64_t i = 0; i < num_blocks; ++i) p.table.push_back(static_cast<int32_t>(num_blocks - 1 - i));
  for (int64_t i = 0; i < num_tokens * p.q_stride(); ++i) p.q.push_back(2 * random_float());
  p.pool.assign(num_blocks * 2 * p.kv_size(), 0xffff);
  for (int64_t key = 0; key < num_keys; ++key) {
    for (int64_t i = 0; i < 2 * p.num_heads * head_dim; ++i) {
      const bool value = i % 2 != 0;
      p.pool[p.place(value, i / 2 / head_dim, key) + i / 2 % head_dim] = to_bfloat16(random_float());
    }
  }
  for (const uint16_t half : p.pool) p.wide.push_back(from_bfloat16(half));
  return p;
}

bool check_attention(const AttentionProblem& p) {
  // Whoever multiplies pairs of bfloat16 rounds queries and probabilities to eight bits.
  const double tolerance = p.is_bfloat16 ? 1e-2 : 1e-5;
  const std::vector<float> all = p.attend(0, p.num_tokens);
  for (int64_t token = 0; token < p.num_tokens; ++token) {
    const std::vector<float> alone = p.attend(token, token + 1);
    std::vector<double> expected;
    for (int64_t i = 0; i < p.q_stride(); ++i) {
      const int64_t row = i / p.head_dim;
      if (i % p.head_dim == 0) expected = p.expected(token, row / p.kGroup, row % p.kGroup);
      const double wanted = expected[i % p.head_dim];
      const float received = all[token * p.q_stride() + i];
      if (std::fabs(received - wanted) <= tolerance && alone[i] == received) continue;
      std::fprintf(stderr, "attention over %s, head size %ld, token %ld, element %ld: expected %.9g, among others %.9g, alone %.9g\n",
                   p.is_bfloat16 ? "bfloat16" : "float32", p.head_dim, token, i, wanted, received, alone[i]);
      return false;
    }
  }
  return true;
}

}  // namespace

int main() {
  int num_checked = 0;
  for (const WeightType type : {WeightType::kFloat32, WeightType::kBFloat16, WeightType::kInt8}) {
    for (const int64_t num_rows : {1, 2, 15, 16, 17, 31, 32, 33, 47, 70}) {
      for (const auto& [k, n] : {std::pair<int64_t, int64_t>{64, 32}, {37, 51}, {130, 16}, {200, 65}, {1100, 40}}) {
        if (!check(type, num_rows, k, n)) return 1;
        ++num_checked;
      }
    }
  }
  int num_gated = 0;
  for (const WeightType type : {WeightType::kBFloat16, WeightType::kInt8}) {
    for (const auto& [num_rows, size] : {std::pair<int64_t, int64_t>{1, 32}, {33, 40}, {50, 7}, {3, 48}}) {
      if (!kernels.gates) continue;
      if (!check_gated(type, num_rows, 70, size)) return 1;
      ++num_gated;
    }
  }
  int num_attended = 0;
  for (const bool is_bfloat16 : {true, false}) {
    for (const int64_t head_dim : {16, 20, 64, 128}) {
      for (const auto& [num_keys, num_tokens] : {std::pair<int64_t, int64_t>{30, 30}, {150, 41}, {600, 3}}) {
        if (!check_attention(attention_problem(is_bfloat16, head_dim, num_keys, num_tokens))) return 1;
        ++num_attended;
      }
    }
  }
  std::printf("%s: %d products, %d gated, %d times attention\n", kernels.isa, num_checked, num_gated, num_attended);
  return 0;
}
