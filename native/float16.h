// float16: IEEE 754 half precision.
#pragma once

#include <cstdint>
#include <cstring>

namespace vllm_pd {

static inline float from_float16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7fff;
  uint32_t bits;
  if (magnitude < 0x400) {
    // 2^-24 is the smallest number; exact for subnormal numbers, which have no implied bit.
    const float small = static_cast<float>(magnitude) * 0x1p-24f;
    std::memcpy(&bits, &small, sizeof(bits));
  } else if (magnitude >= 0x7c00) {
    bits = 0x7f800000 | (magnitude & 0x3ff) << 13;
  } else {
    bits = (magnitude << 13) + 0x38000000;
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

/** To nearest, ties to even; what lies beyond 65504 becomes infinite, NaN stays NaN. */
static inline uint16_t to_float16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Adding 0.5 leaves units of 2^-24 in the last place, rounded to nearest even by the sum itself.
    float small;
    std::memcpy(&small, &magnitude, sizeof(small));
    small += 0.5f;
    std::memcpy(&bits, &small, sizeof(bits));
    return sign | static_cast<uint16_t>(bits - 0x3f000000);
  }
  return sign | static_cast<uint16_t>((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

}  // namespace vllm_pd
