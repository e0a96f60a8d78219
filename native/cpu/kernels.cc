// The CPU kernels, compiled once for each instruction set. Includes nothing that could leave code behind for
// another build: all functions here have internal linkage.
#include "cpu/kernels.h"

#include "cpu/attention.h"
#include "cpu/matmul.h"
#include "cpu/probe_loops.h"
#include "cpu/rows.h"
#include "cpu/simd.h"
#if defined(VLLM_PD_AMX)
#include "cpu/matmul_amx.h"
#endif

namespace vllm_pd::cpu {
namespace {

void rms_norm(const float* x, int64_t dim, const float* weight, float eps, float* out) {
  V16 squares = splat(0.0f);
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    const V16 v = load(x + i);
    squares = fma(v, v, squares);
  }
  if (i < dim) {
    const V16 v = load_some(x + i, dim - i);
    squares = fma(v, v, squares);
  }
  const V16 factor = splat(1.0f / __builtin_sqrtf(reduce_add(squares) / static_cast<float>(dim) + eps));
  for (i = 0; i + kLanes <= dim; i += kLanes) store(out + i, load(x + i) * factor * load(weight + i));
  if (i < dim)
    store_some(out + i, load_some(x + i, dim - i) * factor * load_some(weight + i, dim - i), dim - i);
}

VLLM_PD_INLINE void rotate_lanes(const V16& low, const V16& high, const V16& cos, const V16& sin,
                                 V16* out_low, V16* out_high) {
  *out_low = low * cos - high * sin;
  *out_high = high * cos + low * sin;
}

void rotate(float* x, int64_t head_dim, const float* cos, const float* sin) {
  const int64_t half = head_dim / 2;
  float* high = x + half;
  V16 a;
  V16 b;
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    rotate_lanes(load(x + i), load(high + i), load(cos + i), load(sin + i), &a, &b);
    store(x + i, a);
    store(high + i, b);
  }
  if (i < half) {
    const int64_t rest = half - i;
    rotate_lanes(load_some(x + i, rest), load_some(high + i, rest), load_some(cos + i, rest),
                 load_some(sin + i, rest), &a, &b);
    store_some(x + i, a, rest);
    store_some(high + i, b, rest);
  }
}

void round_to_bfloat16(const float* x, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = vllm_pd::to_bfloat16(x[i]);
}

void swiglu(const float* gate_up, int64_t size, float* out) {
  for (int64_t i = 0; i < size; i += kLanes, gate_up += 2 * kLanes) {
    const V16 gated = silu(load(gate_up)) * load(gate_up + kLanes);
    if (i + kLanes <= size) {
      store(out + i, gated);
    } else {
      store_some(out + i, gated, size - i);
    }
  }
}

#if defined(VLLM_PD_AMX)
constexpr auto matmul_bf16 = matmul_amx<AmxBf16>;
constexpr auto matmul_int8 = matmul_amx<AmxInt8>;
constexpr int64_t kNarrowTileRows = kAmxPassRows;
constexpr int64_t kRowBlock = kAmxRows;
constexpr bool kGates = true;
/** Chips with AMX have 2 MiB. */
constexpr int64_t kTaskBytes = 768 * 1024;
using Bf16Element = uint16_t;
using Int8Element = int8_t;
constexpr int32_t kInt8Offset = 0;
#else
constexpr auto matmul_bf16 = matmul<Bf16Format>;
constexpr auto matmul_int8 = matmul<Int8Format>;
constexpr int64_t kNarrowTileRows = kNarrowShape.rows;
constexpr int64_t kRowBlock = 1;
constexpr bool kGates = false;
constexpr int64_t kTaskBytes = 384 * 1024;
using Bf16Element = Bf16Format::Element;
using Int8Element = Int8Format::Element;
constexpr int32_t kInt8Offset = Int8Format::kRowOffset;
#endif

}  // namespace

extern const Kernels VLLM_PD_KERNELS;
const Kernels VLLM_PD_KERNELS = {VLLM_PD_ISA_NAME,
                                 matmul<FloatFormat>,
                                 matmul_bf16,
                                 matmul_int8,
                                 kFloatShape.rows,
                                 kNarrowTileRows,
                                 kTaskBytes,
                                 kRowBlock,
                                 kGates,
                                 sizeof(Bf16Element),
                                 sizeof(Int8Element),
                                 round_row<Bf16Element>,
                                 quantize_row<Int8Element, kInt8Offset>,
                                 attention,
                                 attention_span,
                                 attention_join,
                                 rms_norm,
                                 round_to_bfloat16,
                                 rotate,
                                 swiglu,
                                 fma_loop,
                                 bf16_loop,
                                 int8_loop,
                                 attention_span_reads,
                                 read_loop};

}  // namespace vllm_pd::cpu
