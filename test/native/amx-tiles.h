// What AMX's tile instructions do, in plain C++: stands in for native/cpu/amx_tiles.h where there is no AMX.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace vllm_pd::cpu {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t num_rows[16] = {};
};

struct Tiles {
  bool configured = false;
  TileConfig config;
  uint8_t bytes[8][16][64];
};
Tiles tiles;

/** The processor faults; so does this. */
inline void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "AMX would fault: %s\n", what);
  std::exit(2);
}

inline void configure_tiles(const TileConfig& config) {
  static_assert(sizeof(TileConfig) == 64);
  expect(config.palette == 1 && config.start_row == 0, "palette");
  for (const uint8_t byte : config.reserved) expect(byte == 0, "reserved bytes of the configuration");
  for (int i = 0; i < 16; ++i) {
    expect(i < 8 || (config.num_rows[i] == 0 && config.row_bytes[i] == 0), "a tile beyond the eighth");
    expect(config.num_rows[i] <= 16 && config.row_bytes[i] <= 64, "a tile too large");
    expect((config.num_rows[i] == 0) == (config.row_bytes[i] == 0), "a tile of rows without columns");
  }
  tiles.config = config;
  tiles.configured = true;
  std::memset(tiles.bytes, 0, sizeof(tiles.bytes));
}

inline void release_tiles() { tiles.configured = false; }

template <int kTile>
inline void zero_tile() {
  expect(tiles.configured, "no configuration");
  std::memset(tiles.bytes[kTile], 0, sizeof(tiles.bytes[kTile]));
}

template <int kTile>
inline void load_tile(const void* from, int64_t stride) {
  zero_tile<kTile>();
  for (int row = 0; row < tiles.config.num_rows[kTile]; ++row) {
    std::memcpy(tiles.bytes[kTile][row], static_cast<const uint8_t*>(from) + row * stride,
                tiles.config.row_bytes[kTile]);
  }
}

template <int kTile>
inline void load_tile_once(const void* from, int64_t stride) {
  load_tile<kTile>(from, stride);
}

template <int kTile>
inline void store_tile_to(void* to, int64_t stride) {
  expect(tiles.configured, "no configuration");
  for (int row = 0; row < tiles.config.num_rows[kTile]; ++row) {
    std::memcpy(static_cast<uint8_t*>(to) + row * stride, tiles.bytes[kTile][row],
                tiles.config.row_bytes[kTile]);
  }
}

/** sums (rows, columns) += rows (rows, steps) times columns (steps, columns); a step is four bytes of each.
 */
template <typename Sum, int kSums, int kRows, int kColumns, typename Dot>
inline void multiply_tiles(Dot dot) {
  expect(tiles.configured, "no configuration");
  const TileConfig& config = tiles.config;
  expect(config.num_rows[kSums] == config.num_rows[kRows], "rows of sums and rows differ");
  expect(config.row_bytes[kSums] == config.row_bytes[kColumns], "columns of sums and columns differ");
  expect(config.row_bytes[kRows] / 4 == config.num_rows[kColumns], "steps of rows and columns differ");
  for (int row = 0; row < config.num_rows[kSums]; ++row) {
    for (int step = 0; step < config.row_bytes[kRows] / 4; ++step) {
      for (int column = 0; column < config.row_bytes[kSums] / 4; ++column) {
        Sum sum;
        uint8_t* const at = tiles.bytes[kSums][row] + 4 * column;
        std::memcpy(&sum, at, sizeof(sum));
        sum = dot(sum, tiles.bytes[kRows][row] + 4 * step, tiles.bytes[kColumns][step] + 4 * column);
        std::memcpy(at, &sum, sizeof(sum));
      }
    }
  }
}

inline float bf16_at(const uint8_t* bytes) {
  uint16_t bits;
  std::memcpy(&bits, bytes, sizeof(bits));
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

/** A tile's products in two chains, over even and over odd k, then their sum to what was there: as the processor adds. */
template <int kSums, int kRows, int kColumns>
inline void multiply_bf16() {
  uint8_t before[16][64];
  std::memcpy(before, tiles.bytes[kSums], sizeof(before));
  uint8_t chains[2][16][64];
  for (int odd = 0; odd < 2; ++odd) {
    std::memset(tiles.bytes[kSums], 0, sizeof(before));
    multiply_tiles<float, kSums, kRows, kColumns>([odd](float sum, const uint8_t* a, const uint8_t* b) {
      return std::fmaf(bf16_at(a + 2 * odd), bf16_at(b + 2 * odd), sum);
    });
    std::memcpy(chains[odd], tiles.bytes[kSums], sizeof(before));
  }
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 64; column += 4) {
      float sum[3];
      std::memcpy(&sum[0], before[row] + column, sizeof(float));
      std::memcpy(&sum[1], chains[0][row] + column, sizeof(float));
      std::memcpy(&sum[2], chains[1][row] + column, sizeof(float));
      const float total = sum[0] + (sum[1] + sum[2]);
      std::memcpy(tiles.bytes[kSums][row] + column, &total, sizeof(float));
    }
  }
}

template <int kSums, int kRows, int kColumns>
inline void multiply_int8() {
  multiply_tiles<int32_t, kSums, kRows, kColumns>([](int32_t sum, const uint8_t* a, const uint8_t* b) {
    for (int i = 0; i < 4; ++i) sum += static_cast<int8_t>(a[i]) * static_cast<int8_t>(b[i]);
    return sum;
  });
}

}  // namespace
}  // namespace vllm_pd::cpu
