// Rows times packed bf16 or int8 panels, in the registers of one thread. Every sum runs over k in order, one
// accumulator each, whatever the number of rows.
#pragma once

#include "cpu/formats.h"
#include "cpu/kernels.h"
#include "cpu/matmul.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

/** Bytes from one step of a panel to the next. */
constexpr int64_t kStepBytes = 4 * kPanel;

// A tile of sums: widening takes two registers for each that holds weights.
#if defined(__AVX512F__)
constexpr int kNarrowRows = 12;
constexpr int kNarrowVecs = 2;
#else
constexpr int kNarrowRows = kTileRows > 4 ? 4 : kTileRows;
constexpr int kNarrowVecs = 1;
#endif
constexpr int kNarrowColumns = kNarrowVecs * kLanes;

VLLM_PD_INLINE V16 finish_sums(const V16& sums, const MatmulArgs&, int64_t, int64_t) { return sums; }

/** Columns of the matrix from `column`, which is a whole vector within the padded ones. */
VLLM_PD_INLINE V16 finish_sums(const I16& sums, const MatmulArgs& args, int64_t row, int64_t column) {
  I16 offset = load_i16(args.column_sums + column);
  VLLM_PD_EACH_PART offset.part[i] = offset.part[i] * splat_int(Int8Format::kRowOffset);
  return to_floats(sums - offset) * (splat(args.row_scales[row]) * load(args.column_scales + column));
}

/** Writes a tile's sums where it lies in the product; only `num_columns` of them exist. */
template <typename Sums, int kRows>
VLLM_PD_INLINE void store_tile(const MatmulArgs& args, int64_t row, int64_t column,
                               const Sums sums[kRows][kNarrowVecs]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kNarrowVecs; ++v) {
      const int64_t at = column + v * kLanes;
      const int64_t count = args.n - at;
      if (count <= 0) continue;
      V16 product = finish_sums(sums[r][v], args, row + r, at);
      float* const out = args.out + (row + r) * args.n + at;
      const float* const init = args.init ? args.init + (row + r) * args.init_stride + at : nullptr;
      if (count >= kLanes) {
        store(out, init ? product + load(init) : product);
      } else {
        store_some(out, init ? product + load_some(init, count) : product, count);
      }
    }
  }
}

/** `ahead`: what the next columns will read; one line of it is asked for at each step. */
template <typename Format, int kRows>
void narrow_tile(const MatmulArgs& args, int64_t row, int64_t column, const uint8_t* ahead) {
  typename Format::Sums sums[kRows][kNarrowVecs] = {};
  constexpr int64_t kRowStep = Format::kStepK * sizeof(typename Format::Element);
  const uint8_t* a = static_cast<const uint8_t*>(args.a) + row * args.a_stride;
  const int64_t num_steps = args.k / Format::kStepK;
  const uint8_t* panel = static_cast<const uint8_t*>(args.panels) + column / kPanel * num_steps * kStepBytes +
                         column % kPanel * 4;
  for (int64_t i = 0; i < num_steps; ++i, a += kRowStep, panel += kStepBytes, ahead += kStepBytes) {
    __builtin_prefetch(ahead, 0, 2);
    typename Format::Columns columns[kNarrowVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kNarrowVecs; ++v) columns[v] = Format::load_columns(panel + v * kLanes * 4);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kNarrowVecs; ++v) {
        sums[r][v] = Format::step(sums[r][v], a + r * args.a_stride, columns[v]);
      }
    }
  }
  store_tile<typename Format::Sums, kRows>(args, row, column, sums);
}

template <typename Format, int kRows>
VLLM_PD_INLINE void narrow_tile_of(int64_t rows, const MatmulArgs& args, int64_t row, int64_t column,
                                   const uint8_t* ahead) {
  if (rows == kRows) {
    narrow_tile<Format, kRows>(args, row, column, ahead);
  } else if constexpr (kRows > 1) {
    narrow_tile_of<Format, kRows - 1>(rows, args, row, column, ahead);
  }
}

template <typename Format>
void matmul_narrow(const MatmulArgs& args) {
  const int64_t panel_bytes = args.k / Format::kStepK * kStepBytes;
  for (int64_t column = args.panel_begin * kPanel; column < args.panel_end * kPanel;
       column += kNarrowColumns) {
    const uint8_t* const panel = static_cast<const uint8_t*>(args.panels) + column / kPanel * panel_bytes;
    for (int64_t row = 0; row < args.num_rows; row += kNarrowRows) {
      const int64_t rows = args.num_rows - row < kNarrowRows ? args.num_rows - row : kNarrowRows;
      // The next panel comes from afar, and no prefetcher sees it coming while rows are gone through: the
      // first two tiles ask for the two lines of each of its steps.
      const int64_t line = row / kNarrowRows * 64;
      const bool more =
          column / kPanel + 1 < args.panel_end && line < kStepBytes && args.num_rows > kNarrowRows;
      narrow_tile_of<Format, kNarrowRows>(rows, args, row, column, more ? panel + panel_bytes + line : panel);
    }
  }
}

}  // namespace
}  // namespace vllm_pd::cpu
