// Rows times packed panels, in the registers of one thread. Every sum runs over k in order, one accumulator each,
// whatever the number of rows.
#pragma once

#include "cpu/formats.h"
#include "cpu/kernels.h"
#include "cpu/panel_tile.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

/** Bytes from one step of a panel to the next. */
constexpr int64_t kStepBytes = 4 * kPanel;

/** Rows and vectors of columns whose sums are held in registers. */
struct TileShape {
  int rows;
  int vecs;
};

constexpr TileShape kFloatShape{kTileRows, kTileVecs};
#if defined(VLLM_PD_AVX512)
constexpr TileShape kNarrowShape = kFloatShape;
#else
/** Widening takes two registers for each that holds weights. */
constexpr TileShape kNarrowShape{kTileRows > 4 ? 4 : kTileRows, kTileVecs};
#endif
/**
 * Of as few rows, a panel is gone through once, line by line as it lies in memory, which is what they wait for: on an AVX2
 * chip (Zen 3) 1.25 to 1.4 times as fast as with half of its columns at a time.
 */
#if defined(__AVX2__) && !defined(VLLM_PD_AVX512)
constexpr TileShape kFewRowsShape{2, 2};
#else
constexpr TileShape kFewRowsShape{0, 0};
#endif

template <typename Format>
constexpr TileShape shape_of() {
  return Format::kStepK == 1 ? kFloatShape : kNarrowShape;
}
/**
 * How far ahead a panel is asked for that one tile of rows goes through, and into which cache what is asked for comes (3 =
 * the nearest): of few rows of narrow weights later and nearer than else. With float32 they lose by it.
 */
template <typename Format, int kVecs>
constexpr bool kAsksLate = Format::kStepK > 1 && kVecs == kFewRowsShape.vecs;
template <typename Format, int kVecs>
constexpr int64_t kPanelAhead = kAsksLate<Format, kVecs> ? 2 * 1024 : 8 * 1024;
template <typename Format, int kVecs>
constexpr int kCacheAhead = kAsksLate<Format, kVecs> ? 3 : 2;
static_assert(kFewRowsShape.vecs == 0 || (kFewRowsShape.vecs != kFloatShape.vecs && kFewRowsShape.vecs != kNarrowShape.vecs));

VLLM_PD_INLINE V16 finish_sums(const V16& sums, const MatmulArgs&, int64_t, int64_t) { return sums; }

/** Columns of the matrix from `column`, which is a whole vector within the padded ones. */
VLLM_PD_INLINE V16 finish_sums(const I16& sums, const MatmulArgs& args, int64_t row, int64_t column) {
  I16 offset = load_i16(args.column_sums + column);
  VLLM_PD_EACH_PART offset.part[i] = offset.part[i] * splat_int(Int8Format::kRowOffset);
  return to_floats(sums - offset) * (splat(args.row_scales[row]) * load(args.column_scales + column));
}

/** Writes a tile's sums where it lies in the product; only `num_columns` of them exist. */
template <typename Sums, int kRows, int kVecs>
VLLM_PD_INLINE void store_sums(const MatmulArgs& args, int64_t row, int64_t column, const Sums sums[kRows][kVecs]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
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

/** What will be read later, from `begin` on: so many bytes are asked for at each step, two lines at most. */
struct PanelAhead {
  const uint8_t* begin;
  int64_t bytes_a_step;
};

template <typename Format, int kRows, int kVecs>
void matmul_tile(const MatmulArgs& args, int64_t row, int64_t column, const PanelAhead& panel_ahead) {
  typename Format::Sums sums[kRows][kVecs] = {};
  constexpr int64_t kRowStep = Format::kStepK * sizeof(typename Format::Element);
  const uint8_t* a = static_cast<const uint8_t*>(args.a) + row * args.a_stride;
  const int64_t num_steps = args.k / Format::kStepK;
  const uint8_t* panel = static_cast<const uint8_t*>(args.panels) + column / kPanel * num_steps * kStepBytes +
                         column % kPanel * 4;
  const uint8_t* ahead = panel_ahead.begin;
  const int64_t ahead_step = panel_ahead.bytes_a_step;
  for (int64_t i = 0; i < num_steps; ++i, a += kRowStep, panel += kStepBytes, ahead += ahead_step) {
    __builtin_prefetch(ahead, 0, kCacheAhead<Format, kVecs>);
    __builtin_prefetch(ahead + ahead_step / 2, 0, kCacheAhead<Format, kVecs>);
    typename Format::Columns columns[kVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) columns[v] = Format::load_columns(panel + v * kLanes * 4);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) {
        sums[r][v] = Format::step(sums[r][v], a + r * args.a_stride, columns[v]);
      }
    }
  }
  store_sums<typename Format::Sums, kRows, kVecs>(args, row, column, sums);
}

template <typename Format, int kRows, int kVecs>
VLLM_PD_INLINE void matmul_tile_of(int64_t rows, const MatmulArgs& args, int64_t row, int64_t column, const PanelAhead& ahead) {
  if (rows == kRows) {
    matmul_tile<Format, kRows, kVecs>(args, row, column, ahead);
  } else if constexpr (kRows > 1) {
    matmul_tile_of<Format, kRows - 1, kVecs>(rows, args, row, column, ahead);
  }
}

template <typename Format, int kMaxRows, int kVecs>
VLLM_PD_INLINE void matmul_in_tiles(const MatmulArgs& args) {
  const int64_t panel_bytes = args.k / Format::kStepK * kStepBytes;
  // Tiles of about as many rows each: in one of few rows, sums wait for themselves.
  const int64_t num_tiles = (args.num_rows + kMaxRows - 1) / kMaxRows;
  const int64_t tile_rows = (args.num_rows + num_tiles - 1) / num_tiles;
  for (int64_t column = args.panel_begin * kPanel; column < args.panel_end * kPanel; column += kVecs * kLanes) {
    const uint8_t* const panel = static_cast<const uint8_t*>(args.panels) + column / kPanel * panel_bytes;
    for (int64_t row = 0; row < args.num_rows; row += tile_rows) {
      const int64_t rows = args.num_rows - row < tile_rows ? args.num_rows - row : tile_rows;
      // Multiplying hides how long memory takes to answer only if it was asked long before. Where tiles go through a
      // panel one after the other, each of the first two asks for half of the next panel. What lies behind the last one
      // is mostly read next, by whichever thread.
      PanelAhead ahead{panel, 0};
      if (num_tiles == 1) {
        ahead = {panel + kPanelAhead<Format, kVecs>, kStepBytes};
      } else if (row < 2 * tile_rows) {
        ahead = {panel + panel_bytes + row / tile_rows * (panel_bytes / 2), kStepBytes / 2};
      }
      matmul_tile_of<Format, kMaxRows, kVecs>(rows, args, row, column, ahead);
    }
  }
}

template <typename Format>
void matmul(const MatmulArgs& args) {
  if constexpr (kFewRowsShape.rows > 0) {
    if (args.num_rows <= kFewRowsShape.rows) return matmul_in_tiles<Format, kFewRowsShape.rows, kFewRowsShape.vecs>(args);
  }
  constexpr TileShape kShape = shape_of<Format>();
  matmul_in_tiles<Format, kShape.rows, kShape.vecs>(args);
}

}  // namespace
}  // namespace vllm_pd::cpu
