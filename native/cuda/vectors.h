// Sixteen bytes at a time between memory and float32 registers, and sums over a warp and a block.
#pragma once

#include "cuda/element.h"
#include "cuda/tensor_core.h"

namespace vllm_pd::cuda {

constexpr float kLog2E = 1.4426950408889634f;

/** kChunk elements; `from` is aligned to their size together. */
template <typename T>
VLLM_PD_DEVICE void load_chunk(const T* from, float (&values)[kChunk]) {
  const uint4 words = *reinterpret_cast<const uint4*>(from);
  const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = to_float(T{static_cast<uint16_t>(pairs[i])});
    values[2 * i + 1] = to_float(T{static_cast<uint16_t>(pairs[i] >> 16)});
  }
}
VLLM_PD_DEVICE void load_chunk(const float* from, float (&values)[kChunk]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint4 words = reinterpret_cast<const uint4*>(from)[i];
    values[4 * i] = as_float(words.x);
    values[4 * i + 1] = as_float(words.y);
    values[4 * i + 2] = as_float(words.z);
    values[4 * i + 3] = as_float(words.w);
  }
}

template <typename T>
VLLM_PD_DEVICE void store_chunk(T* to, const float (&values)[kChunk]) {
  uint4 words;
  words.x = pack<T>(values[0], values[1]);
  words.y = pack<T>(values[2], values[3]);
  words.z = pack<T>(values[4], values[5]);
  words.w = pack<T>(values[6], values[7]);
  *reinterpret_cast<uint4*>(to) = words;
}
VLLM_PD_DEVICE void store_chunk(float* to, const float (&values)[kChunk]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    uint4 words;
    words.x = as_bits(values[4 * i]);
    words.y = as_bits(values[4 * i + 1]);
    words.z = as_bits(values[4 * i + 2]);
    words.w = as_bits(values[4 * i + 3]);
    reinterpret_cast<uint4*>(to)[i] = words;
  }
}

/** Over the warp's lanes, in one fixed order; every lane gets it. */
template <typename T>
VLLM_PD_DEVICE T warp_sum(T value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

/** Over the block's threads (whole warps), in one fixed order; every thread gets it. `scratch`: 32 of T in shared
 * memory. */
template <typename T>
VLLM_PD_DEVICE T block_sum(T value, T* scratch) {
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  barrier();
  T total{};
  for (uint32_t warp = 0; warp < blockDim.x / 32; ++warp) total += scratch[warp];
  barrier();
  return total;
}

}  // namespace vllm_pd::cuda
