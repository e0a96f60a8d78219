// What the machine could do at most, in the registers and instructions that the kernels use.
#pragma once

#include <type_traits>

#include "cpu/formats.h"
#include "cpu/matmul.h"
#include "cpu/simd.h"
#if defined(VLLM_PD_AMX)
#include "cpu/amx_formats.h"
#endif

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

#if defined(VLLM_PD_AMX)

/** Four tiles of sums, as the matmul has them. */
template <typename Format>
float tile_loop(int64_t count) {
  // Numbers as products have them: the chip is faster with zeros, which nobody multiplies.
  alignas(64) uint8_t numbers[4][kAmxTileBytes];
  uint32_t state = 1;
  for (auto& tile : numbers) {
    for (int64_t i = 0; i < kAmxTileBytes; ++i) {
      state = state * 1664525u + 1013904223u;
      const auto any = static_cast<uint8_t>(state >> 24);
      // The upper half of a bfloat16: 1/2 to 2 of either sign.
      const bool is_upper = Format::kTileK == AmxBf16::kTileK && i % 2 != 0;
      tile[i] = is_upper ? static_cast<uint8_t>((any & 0x80) | 0x3f) : any;
    }
  }
  configure_tiles(tiles_for(kAmxRows, kAmxRows));
  load_tile<4>(numbers[0], kAmxRowBytes);
  load_tile<5>(numbers[1], kAmxRowBytes);
  load_tile<6>(numbers[2], kAmxRowBytes);
  load_tile<7>(numbers[3], kAmxRowBytes);
  zero_tile<0>();
  zero_tile<1>();
  zero_tile<2>();
  zero_tile<3>();
  constexpr int64_t kFmas = 4 * kAmxRows * 16 * Format::kTileK;
  for (int64_t done = 0; done < count; done += kFmas) {
    Format::template multiply<0, 4, 6>();
    Format::template multiply<1, 4, 7>();
    Format::template multiply<2, 5, 6>();
    Format::template multiply<3, 5, 7>();
  }
  typename Format::Sum sums[kAmxRows * 16];
  store_tile_to<0>(sums, kAmxRowBytes);
  release_tiles();
  return static_cast<float>(sums[0]);
}

float bf16_loop(int64_t count) { return tile_loop<AmxBf16>(count); }
float int8_loop(int64_t count) { return tile_loop<AmxInt8>(count); }

#else

/** A tile's sums over weights that stay in registers; its rows are read, as the matmul has to, or products would be formed once. */
template <typename Format>
float step_loop(int64_t count) {
  constexpr int kRows = kNarrowShape.rows;
  constexpr int kVecs = kNarrowShape.vecs;
  constexpr int64_t kFmas = kRows * kVecs * kLanes * Format::kStepK;
  typename Format::Sums sums[kRows][kVecs] = {};
  // Small and normal in every format; out of the compiler's sight, or it would foresee the sums.
  alignas(64) uint8_t weights[kVecs][kLanes * 4];
  alignas(64) uint8_t rows[kRows][Format::kStepK * sizeof(typename Format::Element)];
  for (size_t i = 0; i < sizeof(weights); ++i) (&weights[0][0])[i] = i % 2 == 0 ? 0 : 0x3c;
  for (size_t i = 0; i < sizeof(rows); ++i) (&rows[0][0])[i] = i % 2 == 0 ? 0 : 0x3c;
  asm volatile("" : "+m"(weights));
  typename Format::Columns columns[kVecs];
#pragma GCC unroll 2
  for (int v = 0; v < kVecs; ++v) columns[v] = Format::load_columns(weights[v]);
  for (int64_t done = 0; done < count; done += kFmas) {
    asm volatile("" : "+m"(rows));
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) sums[r][v] = Format::step(sums[r][v], rows[r], columns[v]);
    }
  }
  // All parts of all sums are wanted.
  int32_t all[sizeof(sums) / sizeof(int32_t)];
  std::memcpy(all, sums, sizeof(sums));
  asm volatile("" : : "m"(all));
  return static_cast<float>(all[0]);
}

float bf16_loop(int64_t count) {
  // Widened weights are multiplied as float32 ones are.
  if constexpr (std::is_same_v<Bf16Format::Element, float>) return fma_loop(count);
  return step_loop<Bf16Format>(count);
}

float int8_loop(int64_t count) { return step_loop<Int8Format>(count); }

#endif

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
