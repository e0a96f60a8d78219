// What AMX tiles hold of bf16 and int8 products, and how large they are.
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
constexpr int64_t kAmxTileSums = kAmxRows * 16;
constexpr int64_t kAmxTileBytes = kAmxRows * kAmxRowBytes;

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

}  // namespace
}  // namespace vllm_pd::cpu
