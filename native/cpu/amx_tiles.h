// AMX's tile registers as functions.
#pragma once

#include <cstdint>

namespace vllm_pd::cpu {
namespace {

/** Sizes of the eight tiles, as the processor reads them: palette 1. */
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t num_rows[16] = {};
};

}  // namespace
}  // namespace vllm_pd::cpu

#if defined(VLLM_PD_EMULATED)
#include "cpu/emulated/amx_tiles.h"
#else

namespace vllm_pd::cpu {
namespace {

// In assembly: GCC 12's intrinsics paste the tile's number into it as written, so a template's argument will
// not do.
inline void configure_tiles(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
inline void release_tiles() { asm volatile("tilerelease" : : : "memory"); }
template <int kTile>
inline void zero_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
template <int kTile>
inline void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}
/** The same, but what is loaded need not stay in the nearest cache. */
template <int kTile>
inline void load_tile_once(const void* from, int64_t stride) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void store_tile_to(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
}
/** float32 sums += bf16 rows times bf16 columns, two k a step. */
template <int kSums, int kRows, int kColumns>
inline void multiply_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kRows), "i"(kColumns));
}
/** int32 sums += int8 rows times int8 columns, four k a step. */
template <int kSums, int kRows, int kColumns>
inline void multiply_int8() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kRows), "i"(kColumns));
}

}  // namespace
}  // namespace vllm_pd::cpu
#endif
