// Few rows, where they lie, times packed bf16 panels in AMX tiles: up to 32 rows by one panel at a time, in four tiles
// of sums. Every sum runs over k in order, one tile multiplication after the other, whatever the number of rows.
#pragma once

#include "cpu/amx_tiles.h"
#include "cpu/formats.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

constexpr int64_t kAmxRows = 16;      // of one tile
constexpr int64_t kAmxRowBytes = 64;  // 16 columns, or one tile's k of a row
constexpr int64_t kAmxSteps = 16;     // of a panel in one tile
constexpr int64_t kPanelStride = 4 * kPanel;

struct AmxBf16 {
  using Sum = float;
  static constexpr int64_t kTileK = 32;
  template <int kSums, int kRows, int kColumns>
  static void multiply() {
    multiply_bf16<kSums, kRows, kColumns>();
  }
  static V16 finish(const float* sums, const MatmulArgs&, int64_t, int64_t) { return load(sums); }
};

struct AmxInt8 {
  using Sum = int32_t;
  static constexpr int64_t kTileK = 64;
  template <int kSums, int kRows, int kColumns>
  static void multiply() {
    multiply_int8<kSums, kRows, kColumns>();
  }
  static V16 finish(const int32_t* sums, const MatmulArgs& args, int64_t row, int64_t column) {
    return to_floats(load_i16(sums)) * (splat(args.row_scales[row]) * load(args.column_scales + column));
  }
};

// Tiles 0 to 3: sums of (first rows, left), (first, right), (second rows, left), (second, right); 4 and 5:
// rows; 6 and 7: the panel's left and right 16 columns.
inline TileConfig tiles_for(int64_t first_rows, int64_t second_rows) {
  TileConfig config;
  const int64_t num_rows[8] = {first_rows, first_rows,  second_rows, second_rows,
                               first_rows, second_rows, kAmxSteps,   kAmxSteps};
  for (int i = 0; i < 8; ++i) {
    // A tile of no rows may not be configured as such; it stays unused.
    config.num_rows[i] = static_cast<uint8_t>(num_rows[i] == 0 ? 1 : num_rows[i]);
    config.row_bytes[i] = kAmxRowBytes;
  }
  return config;
}

template <typename Format, bool kBoth>
void sum_panel(const MatmulArgs& args, int64_t row, int64_t panel_index, typename Format::Sum* sums) {
  const int64_t num_tiles = args.k / Format::kTileK;
  const auto* first = static_cast<const uint8_t*>(args.a) + row * args.a_stride;
  const auto* second = first + kAmxRows * args.a_stride;
  const auto* panel =
      static_cast<const uint8_t*>(args.panels) + panel_index * num_tiles * kAmxSteps * kPanelStride;
  zero_tile<0>();
  zero_tile<1>();
  if constexpr (kBoth) {
    zero_tile<2>();
    zero_tile<3>();
  }
  for (int64_t i = 0; i < num_tiles; ++i) {
    load_tile<6>(panel, kPanelStride);
    load_tile<4>(first, args.a_stride);
    load_tile<7>(panel + kAmxRowBytes, kPanelStride);
    Format::template multiply<0, 4, 6>();
    Format::template multiply<1, 4, 7>();
    if constexpr (kBoth) {
      load_tile<5>(second, args.a_stride);
      Format::template multiply<2, 5, 6>();
      Format::template multiply<3, 5, 7>();
    }
    first += kAmxRowBytes;
    second += kAmxRowBytes;
    panel += kAmxSteps * kPanelStride;
  }
  constexpr int64_t kStride = kPanel * sizeof(typename Format::Sum);
  store_tile_to<0>(sums, kStride);
  store_tile_to<1>(sums + kPanel / 2, kStride);
  if constexpr (kBoth) {
    store_tile_to<2>(sums + kAmxRows * kPanel, kStride);
    store_tile_to<3>(sums + kAmxRows * kPanel + kPanel / 2, kStride);
  }
}

/** Sixteen columns of a row of products, as far as there are so many, onto what they are added to. */
VLLM_PD_INLINE void finish_columns(const MatmulArgs& args, int64_t row, int64_t column, const V16& product) {
  const int64_t count = args.n - column;
  if (count <= 0) return;
  float* const out = args.out + row * args.n + column;
  const float* const init = args.init ? args.init + row * args.init_stride + column : nullptr;
  if (count < kLanes) return store_some(out, init ? product + load_some(init, count) : product, count);
  const V16 sum = init ? product + load(init) : product;
  if (args.stream) {
    stream(out, sum);
  } else {
    store(out, sum);
  }
}

/** `sums`: (num_rows, kPanel). */
template <typename Format>
void finish_panel(const MatmulArgs& args, int64_t row, int64_t num_rows, int64_t panel,
                  const typename Format::Sum* sums) {
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t column = panel * kPanel; column < (panel + 1) * kPanel; column += kLanes, sums += kLanes) {
      finish_columns(args, row + r, column, Format::finish(sums, args, row + r, column));
    }
  }
}

template <typename Format>
void matmul_amx(const MatmulArgs& args) {
  alignas(64) typename Format::Sum sums[2 * kAmxRows * kPanel];
  int64_t configured = 0;
  for (int64_t panel = args.panel_begin; panel < args.panel_end; ++panel) {
    for (int64_t row = 0; row < args.num_rows; row += 2 * kAmxRows) {
      const int64_t rows = args.num_rows - row < 2 * kAmxRows ? args.num_rows - row : 2 * kAmxRows;
      const int64_t first = rows < kAmxRows ? rows : kAmxRows;
      if (configured != rows) configure_tiles(tiles_for(first, rows - first));
      configured = rows;
      if (rows > first) {
        sum_panel<Format, true>(args, row, panel, sums);
      } else {
        sum_panel<Format, false>(args, row, panel, sums);
      }
      finish_panel<Format>(args, row, rows, panel, sums);
    }
  }
  release_tiles();
}

}  // namespace
}  // namespace vllm_pd::cpu
