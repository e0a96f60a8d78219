// What the machine could do at most, in the registers and instructions that the kernels use.
#pragma once

#include "cpu/matmul.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

/** As many sums at once as a tile of the matmul holds in registers. */
constexpr int kLoopSums = kTileRows * kTileVecs * kParts;

float fma_loop(int64_t count) {
  Native sums[kLoopSums];
#pragma GCC unroll 32
  for (int i = 0; i < kLoopSums; ++i) sums[i] = static_cast<float>(i) - Native{};
  // Sums go to 1: neither denormal nor infinite.
  const Native factor = 0.5f - Native{};
  for (int64_t done = 0; done < count; done += kLoopSums * kWidth) {
#pragma GCC unroll 32
    for (int i = 0; i < kLoopSums; ++i) sums[i] = native_fma(sums[i], factor, factor);
  }
  Native total{};
#pragma GCC unroll 32
  for (int i = 0; i < kLoopSums; ++i) total = total + sums[i];
  return total[0];
}

float read_loop(const float* x, int64_t count) {
  constexpr int kSums = 8;
  Native sums[kSums] = {};
  for (int64_t i = 0; i + kSums * kWidth <= count; i += kSums * kWidth) {
#pragma GCC unroll 8
    for (int s = 0; s < kSums; ++s) {
      sums[s] = sums[s] + *reinterpret_cast<const Unaligned*>(x + i + s * kWidth);
    }
  }
  Native total{};
#pragma GCC unroll 8
  for (int s = 0; s < kSums; ++s) total = total + sums[s];
  return total[0];
}

}  // namespace
}  // namespace vllm_pd::cpu
