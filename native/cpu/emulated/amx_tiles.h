// What AMX's tile instructions do, on machines without AMX: for amx_tiles.h in builds for tests.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cpu/emulated/avx512.h"

namespace vllm_pd::cpu {
namespace {

struct Tiles {
  bool configured = false;
  TileConfig config;
  uint8_t bytes[8][16][64];
};
// Each thread has its own.
thread_local Tiles tiles;

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
  Tiles& t = tiles;
  expect(t.configured, "no configuration");
  std::memset(t.bytes[kTile], 0, sizeof(t.bytes[kTile]));
}

template <int kTile>
inline void load_tile(const void* from, int64_t stride) {
  zero_tile<kTile>();
  Tiles& t = tiles;
  for (int row = 0; row < t.config.num_rows[kTile]; ++row) {
    std::memcpy(t.bytes[kTile][row], static_cast<const uint8_t*>(from) + row * stride, t.config.row_bytes[kTile]);
  }
}

template <int kTile>
inline void load_tile_once(const void* from, int64_t stride) {
  load_tile<kTile>(from, stride);
}

template <int kTile>
inline void store_tile_to(void* to, int64_t stride) {
  Tiles& t = tiles;
  expect(t.configured, "no configuration");
  for (int row = 0; row < t.config.num_rows[kTile]; ++row) {
    std::memcpy(static_cast<uint8_t*>(to) + row * stride, t.bytes[kTile][row], t.config.row_bytes[kTile]);
  }
}

/** The sizes of one product of tiles: sums += rows times columns. */
struct Product {
  int num_rows;
  /** Of four bytes of a row and as many of each column. */
  int num_steps;
};

template <int kSums, int kRows, int kColumns>
inline Product product_of(const Tiles& t) {
  expect(t.configured, "no configuration");
  const TileConfig& config = t.config;
  expect(config.num_rows[kSums] == config.num_rows[kRows], "rows of sums and rows differ");
  expect(config.row_bytes[kSums] == config.row_bytes[kColumns], "columns of sums and columns differ");
  expect(config.row_bytes[kRows] / 4 == config.num_rows[kColumns], "steps of rows and columns differ");
  return {config.num_rows[kSums], config.row_bytes[kRows] / 4};
}

VLLM_PD_EMULATED_INLINE __m512i step_of_row(const Tiles& t, int tile, int row, int step) {
  int32_t element;
  std::memcpy(&element, t.bytes[tile][row] + 4 * step, sizeof(element));
  return _mm512_set1_epi32(element);
}

/** While it lives, denormal numbers count as zeros and become zeros, as in tiles. */
struct WithoutDenormals {
  const unsigned before = _mm_getcsr();
  WithoutDenormals() { _mm_setcsr(before | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON); }
  ~WithoutDenormals() { _mm_setcsr(before); }
};

/** A tile's products in two chains, over even and over odd k, then their sum to what was there: as the processor adds. */
template <int kSums, int kRows, int kColumns>
inline void multiply_bf16() {
  Tiles& t = tiles;
  const Product product = product_of<kSums, kRows, kColumns>(t);
  const WithoutDenormals without_denormals;
  __m512 even_columns[16];
  __m512 odd_columns[16];
  const auto even = [](const __m512i& pairs) VLLM_PD_ALWAYS { return (__m512)_mm512_maskz_slli_epi32(0xffff, pairs, 16); };
  const auto odd = [](const __m512i& pairs) VLLM_PD_ALWAYS { return (__m512)(pairs & _mm512_set1_epi32(static_cast<int32_t>(0xffff0000))); };
  for (int step = 0; step < product.num_steps; ++step) {
    const __m512i pairs = _mm512_loadu_si512(t.bytes[kColumns][step]);
    even_columns[step] = even(pairs);
    odd_columns[step] = odd(pairs);
  }
  for (int row = 0; row < product.num_rows; ++row) {
    __m512 even_sums = {};
    __m512 odd_sums = {};
    for (int step = 0; step < product.num_steps; ++step) {
      const __m512i pair = step_of_row(t, kRows, row, step);
      even_sums = _mm512_fmadd_ps(even(pair), even_columns[step], even_sums);
      odd_sums = _mm512_fmadd_ps(odd(pair), odd_columns[step], odd_sums);
    }
    uint8_t* const sums = t.bytes[kSums][row];
    _mm512_storeu_si512(sums, (__m512i)((__m512)_mm512_loadu_si512(sums) + (even_sums + odd_sums)));
  }
}

template <int kSums, int kRows, int kColumns>
inline void multiply_int8() {
  Tiles& t = tiles;
  const Product product = product_of<kSums, kRows, kColumns>(t);
  // Bytes 1 and 3 of each four, then 0 and 2, widened.
  const auto odd = [](const __m512i& quads) VLLM_PD_ALWAYS { return _mm512_srai_epi16(quads, 8); };
  const auto even = [](const __m512i& quads) VLLM_PD_ALWAYS { return _mm512_srai_epi16(_mm512_slli_epi16(quads, 8), 8); };
  for (int row = 0; row < product.num_rows; ++row) {
    uint8_t* const at = t.bytes[kSums][row];
    __m512i sums = _mm512_loadu_si512(at);
    for (int step = 0; step < product.num_steps; ++step) {
      const __m512i a = step_of_row(t, kRows, row, step);
      const __m512i b = _mm512_loadu_si512(t.bytes[kColumns][step]);
      sums = _mm512_add_epi32(sums, _mm512_madd_epi16(odd(a), odd(b)));
      sums = _mm512_add_epi32(sums, _mm512_madd_epi16(even(a), even(b)));
    }
    _mm512_storeu_si512(at, sums);
  }
}

}  // namespace
}  // namespace vllm_pd::cpu
