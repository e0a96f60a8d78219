// How one step of a packed panel (packed_matrix.h) is multiplied with rows, by what the instruction set has
// for it: for each weight type a Format with its row's elements, its sums, and the step itself.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace vllm_pd::cpu {
namespace {

VLLM_PD_INLINE NativeInt load_ints(const void* from) {
  NativeInt v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

VLLM_PD_INLINE NativeInt splat_int(int32_t x) { return x - NativeInt{}; }

VLLM_PD_INLINE int32_t read_int(const void* from) {
  int32_t x;
  std::memcpy(&x, from, sizeof(x));
  return x;
}

/** Sixteen columns' integer sums. */
struct I16 {
  NativeInt part[kParts];
};

VLLM_PD_INLINE V16 to_floats(const I16& sums) {
  V16 r;
  VLLM_PD_EACH_PART r.part[i] = __builtin_convertvector(sums.part[i], Native);
  return r;
}

VLLM_PD_INLINE I16 operator+(const I16& a, const I16& b) {
  I16 r;
  VLLM_PD_EACH_PART r.part[i] = a.part[i] + b.part[i];
  return r;
}

VLLM_PD_INLINE I16 operator-(const I16& a, const I16& b) {
  I16 r;
  VLLM_PD_EACH_PART r.part[i] = a.part[i] - b.part[i];
  return r;
}

VLLM_PD_INLINE I16 load_i16(const int32_t* from) {
  I16 r;
  VLLM_PD_EACH_PART r.part[i] = load_ints(from + i * kWidth);
  return r;
}

struct FloatFormat {
  using Sums = V16;
  using Element = float;
  static constexpr int64_t kStepK = 1;
  struct Columns {
    V16 floats;
  };
  VLLM_PD_INLINE static Columns load_columns(const uint8_t* from) { return {load(reinterpret_cast<const float*>(from))}; }
  VLLM_PD_INLINE static Sums step(const Sums& sums, const uint8_t* row, const Columns& columns) {
    float x;
    std::memcpy(&x, row, sizeof(x));
    return fma(splat(x), columns.floats, sums);
  }
};

#if defined(VLLM_PD_AVX512_BF16)

/** Rows are rounded to bf16; pairs are multiplied and added by vdpbf16ps. */
struct Bf16Format {
  using Sums = V16;
  using Element = uint16_t;
  static constexpr int64_t kStepK = 2;
  struct Columns {
    __m512bh pairs;
  };
  VLLM_PD_INLINE static Sums zero() { return splat(0.0f); }
  VLLM_PD_INLINE static Columns load_columns(const uint8_t* from) {
    return {(__m512bh)_mm512_loadu_si512(from)};
  }
  VLLM_PD_INLINE static Sums step(const Sums& sums, const uint8_t* row, const Columns& columns) {
    const auto x = (__m512bh)_mm512_set1_epi32(read_int(row));
    return {{(Native)_mm512_dpbf16_ps((__m512)sums.part[0], x, columns.pairs)}};
  }
};

#else

/** Rows stay float32, weights are widened to it. */
struct Bf16Format {
  using Sums = V16;
  using Element = float;
  static constexpr int64_t kStepK = 2;
  struct Columns {
    V16 even;
    V16 odd;
  };
  VLLM_PD_INLINE static Sums zero() { return splat(0.0f); }
  VLLM_PD_INLINE static Columns load_columns(const uint8_t* from) {
    Columns columns;
    VLLM_PD_EACH_PART {
      const NativeInt pairs = load_ints(from + i * kWidth * 4);
      columns.even.part[i] = (Native)(pairs << 16);
      columns.odd.part[i] = (Native)(pairs & splat_int(static_cast<int32_t>(0xffff0000)));
    }
    return columns;
  }
  VLLM_PD_INLINE static Sums step(const Sums& sums, const uint8_t* row, const Columns& columns) {
    float pair[2];
    std::memcpy(pair, row, sizeof(pair));
    return fma(splat(pair[1]), columns.odd, fma(splat(pair[0]), columns.even, sums));
  }
};

#endif

#if defined(VLLM_PD_AVX512_VNNI)

/** vpdpbusd multiplies unsigned rows with signed weights: rows are shifted up by 128, which `finish` takes
 * back. */
struct Int8Format {
  using Sums = I16;
  using Element = uint8_t;
  static constexpr int64_t kStepK = 4;
  static constexpr int32_t kRowOffset = 128;
  struct Columns {
    __m512i quads;
  };
  VLLM_PD_INLINE static Columns load_columns(const uint8_t* from) { return {_mm512_loadu_si512(from)}; }
  VLLM_PD_INLINE static Sums step(const Sums& sums, const uint8_t* row, const Columns& columns) {
    const __m512i x = _mm512_set1_epi32(read_int(row));
    return {{(NativeInt)_mm512_dpbusd_epi32((__m512i)sums.part[0], x, columns.quads)}};
  }
};

#elif defined(__AVX2__)

/**
 * Weights are widened to 16 bits where they lie, bytes 0 and 2 of each four, then 1 and 3; a row's four
 * follow in that order.
 */
struct Int8Format {
  using Sums = I16;
  using Element = int16_t;
  static constexpr int64_t kStepK = 4;
  static constexpr int32_t kRowOffset = 0;
  struct Columns {
    I16 even;
    I16 odd;
  };
#if defined(VLLM_PD_AVX512)
  VLLM_PD_INLINE static NativeInt widen_low(NativeInt v) {
    return (NativeInt)_mm512_srai_epi16(_mm512_slli_epi16((__m512i)v, 8), 8);
  }
  VLLM_PD_INLINE static NativeInt widen_high(NativeInt v) {
    return (NativeInt)_mm512_srai_epi16((__m512i)v, 8);
  }
  VLLM_PD_INLINE static NativeInt add_products(NativeInt sum, NativeInt a, NativeInt b) {
    return sum + (NativeInt)_mm512_madd_epi16((__m512i)a, (__m512i)b);
  }
#else
  VLLM_PD_INLINE static NativeInt widen_low(NativeInt v) {
    return (NativeInt)_mm256_srai_epi16(_mm256_slli_epi16((__m256i)v, 8), 8);
  }
  VLLM_PD_INLINE static NativeInt widen_high(NativeInt v) {
    return (NativeInt)_mm256_srai_epi16((__m256i)v, 8);
  }
  VLLM_PD_INLINE static NativeInt add_products(NativeInt sum, NativeInt a, NativeInt b) {
    return sum + (NativeInt)_mm256_madd_epi16((__m256i)a, (__m256i)b);
  }
#endif
  VLLM_PD_INLINE static Columns load_columns(const uint8_t* from) {
    Columns columns;
    VLLM_PD_EACH_PART {
      const NativeInt quads = load_ints(from + i * kWidth * 4);
      columns.even.part[i] = widen_low(quads);
      columns.odd.part[i] = widen_high(quads);
    }
    return columns;
  }
  VLLM_PD_INLINE static Sums step(const Sums& sums, const uint8_t* row, const Columns& columns) {
    const NativeInt even = splat_int(read_int(row));
    const NativeInt odd = splat_int(read_int(row + 4));
    Sums r;
    VLLM_PD_EACH_PART {
      r.part[i] =
          add_products(add_products(sums.part[i], even, columns.even.part[i]), odd, columns.odd.part[i]);
    }
    return r;
  }
};

#else

struct Int8Format {
  using Sums = I16;
  using Element = int16_t;
  static constexpr int64_t kStepK = 4;
  static constexpr int32_t kRowOffset = 0;
  /** The four k of each column, widened. */
  struct Columns {
    I16 byte[4];
  };
  VLLM_PD_INLINE static Columns load_columns(const uint8_t* from) {
    Columns columns;
    VLLM_PD_EACH_PART {
      const NativeInt quads = load_ints(from + i * kWidth * 4);
      columns.byte[0].part[i] = quads << 24 >> 24;
      columns.byte[1].part[i] = quads << 16 >> 24;
      columns.byte[2].part[i] = quads << 8 >> 24;
      columns.byte[3].part[i] = quads >> 24;
    }
    return columns;
  }
  VLLM_PD_INLINE static Sums step(const Sums& sums, const uint8_t* row, const Columns& columns) {
    int16_t x[4];
    std::memcpy(x, row, sizeof(x));
    Sums r;
    VLLM_PD_EACH_PART {
      r.part[i] = sums.part[i] + columns.byte[0].part[i] * splat_int(x[0]) +
                  columns.byte[2].part[i] * splat_int(x[1]) + columns.byte[1].part[i] * splat_int(x[2]) +
                  columns.byte[3].part[i] * splat_int(x[3]);
    }
    return r;
  }
};

#endif

}  // namespace
}  // namespace vllm_pd::cpu
