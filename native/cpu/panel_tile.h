// Rows of floats times a panel of floats: the products of attention. Every sum runs over k in order, one accumulator
// each, whatever the number of rows.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

// A tile of sums is held in registers: kTileRows rows by kTileVecs * 16 columns.
#if defined(VLLM_PD_AVX512)
constexpr int kTileRows = 12;
constexpr int kTileVecs = 2;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
constexpr int kTileVecs = 1;
#elif defined(__aarch64__)
constexpr int kTileRows = 6;
constexpr int kTileVecs = 1;
#else
constexpr int kTileRows = 2;
constexpr int kTileVecs = 1;
#endif
constexpr int kTileColumns = kTileVecs * kLanes;

struct TileArgs {
  const float* a;  // (rows, k), `a_stride` apart
  int64_t a_stride;
  int64_t k;
  const float* panel;  // (k, kPanel)
  const float* init;   // null = zeros, else (rows, kTileColumns), `init_stride` apart
  int64_t init_stride;
  float* out;  // (rows, kTileColumns), `out_stride` apart
  int64_t out_stride;
};

/** Nothing is done beside a tile's products. */
struct Nothing {
  static constexpr int64_t kEvery = 0;
  void operator()() const {}
};

/** Calls `beside` at every kEvery-th k, unless that is 0. */
template <int kRows, typename Beside>
void tile(const TileArgs& args, Beside& beside) {
  V16 sums[kRows][kTileVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) {
      sums[r][v] = args.init ? load(args.init + r * args.init_stride + v * kLanes) : splat(0.0f);
    }
  }
  const float* a = args.a;
  const float* panel = args.panel;
  for (int64_t i = 0; i < args.k; ++i, ++a, panel += kPanel) {
    if constexpr (Beside::kEvery > 0) {
      if (i % Beside::kEvery == 0) beside();
    }
    V16 columns[kTileVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) columns[v] = load(panel + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const V16 x = splat(a[r * args.a_stride]);
#pragma GCC unroll 2
      for (int v = 0; v < kTileVecs; ++v) sums[r][v] = fma(x, columns[v], sums[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) store(args.out + r * args.out_stride + v * kLanes, sums[r][v]);
  }
}

template <int kRows, typename Beside>
VLLM_PD_INLINE void tile_of(int64_t rows, const TileArgs& args, Beside& beside) {
  if (rows == kRows) {
    tile<kRows>(args, beside);
  } else if constexpr (kRows > 1) {
    tile_of<kRows - 1>(rows, args, beside);
  }
}

/** All columns of one panel for all rows; init and out as in TileArgs, but kPanel wide. */
template <typename Beside>
VLLM_PD_INLINE void matmul_panel(const TileArgs& all, int64_t num_rows, Beside& beside) {
  for (int64_t row = 0; row < num_rows; row += kTileRows) {
    const int64_t rows = num_rows - row < kTileRows ? num_rows - row : kTileRows;
    for (int64_t column = 0; column < kPanel; column += kTileColumns) {
      TileArgs args = all;
      args.a += row * all.a_stride;
      args.panel += column;
      args.out += row * all.out_stride + column;
      if (args.init) args.init += row * all.init_stride + column;
      tile_of<kTileRows>(rows, args, beside);
    }
  }
}

VLLM_PD_INLINE void matmul_panel(const TileArgs& all, int64_t num_rows) {
  Nothing nothing;
  matmul_panel(all, num_rows, nothing);
}

}  // namespace
}  // namespace vllm_pd::cpu
