// Rows of activations in the form that narrow weights are multiplied with.
#pragma once

#include "bfloat16.h"
#include "cpu/formats.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

VLLM_PD_INLINE void write_element(uint16_t* out, float x) { *out = to_bfloat16(x); }
VLLM_PD_INLINE void write_element(float* out, float x) { *out = x; }

template <typename Element>
void round_row(const float* x, int64_t k, int64_t padded_k, void* out) {
  auto* const to = static_cast<Element*>(out);
  for (int64_t i = 0; i < k; ++i) write_element(to + i, x[i]);
  std::memset(to + k, 0, (padded_k - k) * sizeof(Element));
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
float quantize_row(const float* x, int64_t k, int64_t padded_k, void* out) {
  const float largest = largest_magnitude(x, k);
  const V16 factor = splat(largest > 0.0f ? 127.0f / largest : 0.0f);
  // Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the low bits.
  const V16 shifter = splat(12582912.0f);
  auto* const to = static_cast<Element*>(out);
  for (int64_t i = 0; i < padded_k; i += kLanes) {
    const V16 from = i + kLanes <= k ? load(x + i) : i < k ? load_some(x + i, k - i) : splat(0.0f);
    const V16 shifted = from * factor + shifter;
    int32_t bits[kLanes];
    std::memcpy(bits, &shifted, sizeof(bits));
    for (int64_t j = 0; j < kLanes; ++j) {
      to[i + place_of<Element>(j)] = static_cast<Element>(static_cast<int8_t>(bits[j]) + kOffset);
    }
  }
  return largest / 127.0f;
}

}  // namespace
}  // namespace vllm_pd::cpu
