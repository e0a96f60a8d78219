// Rows of activations in the form that narrow weights are multiplied with.
#pragma once

#include "bfloat16.h"
#include "cpu/formats.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

/** Sixteen floats as elements of a row. */
VLLM_PD_INLINE void write_elements(const V16& x, float* out) { store(out, x); }

VLLM_PD_INLINE void write_elements(const V16& x, uint16_t* out) {
#if defined(VLLM_PD_AVX512_BF16)
  // Takes denormal floats for zeros, as whatever multiplies bf16 here does with denormal ones.
  const __m256bh halves = _mm512_cvtneps_pbh((__m512)x.part[0]);
  std::memcpy(out, &halves, sizeof(halves));
#else
  float floats[kLanes];
  store(floats, x);
  for (int i = 0; i < kLanes; ++i) out[i] = to_bfloat16(floats[i]);
#endif
}

/** Elements [i, i + 16) of (k) floats, zeros behind them. */
VLLM_PD_INLINE V16 load_padded(const float* x, int64_t i, int64_t k) {
  return i + kLanes <= k ? load(x + i) : i < k ? load_some(x + i, k - i) : splat(0.0f);
}

/** Where element `i` of a row lies. */
template <typename Element>
VLLM_PD_INLINE Element* element_of(void* row, int64_t i, int64_t piece_stride) {
  constexpr int64_t kElements = kRowPiece / sizeof(Element);
  return reinterpret_cast<Element*>(static_cast<uint8_t*>(row) + i / kElements * piece_stride) + i % kElements;
}

template <typename Element>
void round_row(const float* x, int64_t k, int64_t padded_k, int64_t piece_stride, void* out) {
  for (int64_t i = 0; i < padded_k; i += kLanes) {
    write_elements(load_padded(x, i, k), element_of<Element>(out, i, piece_stride));
  }
}

VLLM_PD_INLINE float largest_magnitude(const float* x, int64_t k) {
  V16 largest = splat(0.0f);
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) largest = max(largest, max(load(x + i), splat(0.0f) - load(x + i)));
  if (i < k) {
    const V16 rest = load_some(x + i, k - i);
    largest = max(largest, max(rest, splat(0.0f) - rest));
  }
  return reduce_max(largest);
}

/** Where element `i` of a row goes: 16-bit rows have each four as 0, 2, 1, 3. */
template <typename Element>
VLLM_PD_INLINE int64_t place_of(int64_t i) {
  if constexpr (sizeof(Element) == 1) return i;
  return (i & ~int64_t{3}) | (i & 1) << 1 | (i >> 1 & 1);
}

template <typename Element, int32_t kOffset>
VLLM_PD_INLINE void write_quantized(const V16& shifted, Element* out) {
  int32_t bits[kLanes];
  std::memcpy(bits, &shifted, sizeof(bits));
#if defined(VLLM_PD_AVX512)
  if constexpr (sizeof(Element) == 1) {
    const __m512i lanes = _mm512_add_epi32(_mm512_loadu_si512(bits), _mm512_set1_epi32(kOffset));
    return _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_maskz_cvtepi32_epi8(0xffff, lanes));
  }
#endif
  for (int64_t j = 0; j < kLanes; ++j) {
    out[place_of<Element>(j)] = static_cast<Element>(static_cast<int8_t>(bits[j]) + kOffset);
  }
}

template <typename Element, int32_t kOffset>
float quantize_row(const float* x, int64_t k, int64_t padded_k, int64_t piece_stride, void* out) {
  const float largest = largest_magnitude(x, k);
  const V16 factor = splat(largest > 0.0f ? 127.0f / largest : 0.0f);
  // Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the low bits.
  const V16 shifter = splat(12582912.0f);
  for (int64_t i = 0; i < padded_k; i += kLanes) {
    const V16 shifted = load_padded(x, i, k) * factor + shifter;
    write_quantized<Element, kOffset>(shifted, element_of<Element>(out, i, piece_stride));
  }
  return largest / 127.0f;
}

}  // namespace
}  // namespace vllm_pd::cpu
