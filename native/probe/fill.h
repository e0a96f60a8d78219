// Values that probes work on: they look random, and are the same in every run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace vllm_pd {

/** Floats in [-1, 1) that look random: row `seed` of a matrix. */
inline void fill(float* out, int64_t count, uint32_t seed) {
  uint32_t state = seed * 2654435761u + 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    out[i] = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
  }
}

/** The same as bfloat16, cut off. */
inline void fill_halves(uint16_t* out, int64_t count) {
  constexpr int64_t kRow = 4096;
  std::vector<float> row(kRow);
  for (int64_t i = 0; i < count; i += kRow) {
    fill(row.data(), kRow, static_cast<uint32_t>(i / kRow));
    for (int64_t j = 0; j < std::min(kRow, count - i); ++j) {
      uint32_t bits;
      std::memcpy(&bits, &row[j], sizeof(bits));
      out[i + j] = static_cast<uint16_t>(bits >> 16);
    }
  }
}

}  // namespace vllm_pd
