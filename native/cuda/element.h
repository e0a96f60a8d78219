// Element types of weights, activations and KV: bf16, f16 and, for KV, fp8 (e4m3). Sums are always float32.
#pragma once

#include "cuda/dialect.h"
#if !defined(__CUDACC__)
#include "float16.h"
#endif

namespace vllm_pd::cuda {

struct BF16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};
/** 1 sign, 4 exponent, 3 fraction bits; the largest number is 448, there is no infinity. */
struct E4M3 {
  uint8_t bits;
};

VLLM_PD_DEVICE float to_float(float x) { return x; }
VLLM_PD_DEVICE float to_float(BF16 x) { return as_float(static_cast<uint32_t>(x.bits) << 16); }

#if defined(__CUDACC__)
VLLM_PD_DEVICE float to_float(F16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
/** Two elements in one register, `low` in its lower half; rounded to nearest even. */
template <typename T>
VLLM_PD_DEVICE uint32_t pack(float low, float high);
template <>
VLLM_PD_DEVICE uint32_t pack<BF16>(float low, float high) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
template <>
VLLM_PD_DEVICE uint32_t pack<F16>(float low, float high) {
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
#else
inline float to_float(F16 x) { return from_float16(x.bits); }
inline uint16_t round_to(BF16, float x) {
  const uint32_t bits = as_bits(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline uint16_t round_to(F16, float x) { return to_float16(x); }
template <typename T>
uint32_t pack(float low, float high) {
  return round_to(T{}, low) | static_cast<uint32_t>(round_to(T{}, high)) << 16;
}
#endif

/** e4m3 through float's own bits: exact, since every e4m3 number is a float. */
VLLM_PD_DEVICE float to_float(E4M3 x) {
  const uint32_t magnitude = x.bits & 0x7fu;
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x80u) << 24;
  if (magnitude == 0x7f) return as_float(sign | 0x7fc00000u);
  // Shifted into float's exponent field the number is 2^120 too small, subnormal ones included.
  return as_float(sign | as_bits(as_float(magnitude << 20) * as_float(0x7b800000u)));
}

template <typename T>
VLLM_PD_DEVICE T from_float(float x) {
  return {static_cast<uint16_t>(pack<T>(x, 0.0f))};
}
template <>
VLLM_PD_DEVICE float from_float<float>(float x) {
  return x;
}
/** Rounds to nearest even; what lies beyond 448 becomes 448, as vLLM saves it. */
template <>
VLLM_PD_DEVICE E4M3 from_float<E4M3>(float x) {
  const uint32_t bits = as_bits(x);
  const uint32_t sign = bits >> 24 & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint8_t>(sign | 0x7fu)};
  if (magnitude >= 0x43e00000u) return {static_cast<uint8_t>(sign | 0x7eu)};
  if (magnitude < 0x3c800000u) {
    // Below 2^-6 the unit is 2^-9: adding 2^14 leaves such units in the last place.
    return {static_cast<uint8_t>(sign | (as_bits(as_float(magnitude) + 16384.0f) - 0x46800000u))};
  }
  return {static_cast<uint8_t>(sign | ((magnitude - 0x3c000000u + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20))};
}

/** Rounds once to T and comes back: what a value is after it was stored. */
template <typename T>
VLLM_PD_DEVICE float rounded(float x) {
  return to_float(from_float<T>(x));
}

}  // namespace vllm_pd::cuda
