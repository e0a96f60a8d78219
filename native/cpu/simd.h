// Sixteen floats, whatever the width of a register: the unit in which all kernels are written, so that every
// instruction set adds the same numbers in the same order. For kernels.cc alone: the same names mean other
// code in each of its builds.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(VLLM_PD_EMULATED)
#include "cpu/emulated/avx512.h"
#elif defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define VLLM_PD_INLINE inline __attribute__((always_inline))

namespace vllm_pd::cpu {
namespace {

constexpr int kLanes = 16;

#if defined(VLLM_PD_AVX512)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kParts = kLanes / kWidth;

typedef float Native __attribute__((vector_size(kWidth * 4)));
typedef int32_t NativeInt __attribute__((vector_size(kWidth * 4)));
typedef float Unaligned __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
/** Four floats, for transposing. */
typedef float Quad __attribute__((vector_size(16)));
typedef int32_t QuadInt __attribute__((vector_size(16)));
typedef float UnalignedQuad __attribute__((vector_size(16), aligned(4), may_alias));

VLLM_PD_INLINE Native native_fma(Native a, Native b, Native c) {
#if defined(VLLM_PD_AVX512)
  return (Native)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Native)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON) && defined(__aarch64__)
  return (Native)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// As the instructions have it: b where either is NaN or both are zeros. Compilers make a comparison and a blend of it.
VLLM_PD_INLINE Native native_max(const Native& a, const Native& b) {
#if defined(VLLM_PD_AVX512)
  return (Native)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Native)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

VLLM_PD_INLINE Native native_min(const Native& a, const Native& b) {
#if defined(VLLM_PD_AVX512)
  return (Native)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Native)_mm256_min_ps((__m256)a, (__m256)b);
#else
  return a < b ? a : b;
#endif
}

struct V16 {
  Native part[kParts];
};

#define VLLM_PD_EACH_PART _Pragma("GCC unroll 4") for (int i = 0; i < kParts; ++i)

VLLM_PD_INLINE V16 load(const float* from) {
  V16 r;
  VLLM_PD_EACH_PART r.part[i] = *reinterpret_cast<const Unaligned*>(from + i * kWidth);
  return r;
}

VLLM_PD_INLINE void store_native(float* to, const Native& v) { *reinterpret_cast<Unaligned*>(to) = v; }

VLLM_PD_INLINE void store(float* to, const V16& v) {
  VLLM_PD_EACH_PART store_native(to + i * kWidth, v.part[i]);
}

/** Past the caches, where the instruction set can; `to` is aligned to 64 bytes. Others see it behind stream_end(). */
VLLM_PD_INLINE void stream(float* to, const V16& v) {
#if defined(VLLM_PD_AVX512)
  _mm512_stream_ps(to, (__m512)v.part[0]);
#else
  store(to, v);
#endif
}

VLLM_PD_INLINE void stream_end() {
#if defined(VLLM_PD_AVX512)
  _mm_sfence();
#endif
}

VLLM_PD_INLINE V16 splat(float x) {
  V16 r;
  VLLM_PD_EACH_PART r.part[i] = x - Native{};
  return r;
}

VLLM_PD_INLINE V16 fma(const V16& a, const V16& b, const V16& c) {
  V16 r;
  VLLM_PD_EACH_PART r.part[i] = native_fma(a.part[i], b.part[i], c.part[i]);
  return r;
}

VLLM_PD_INLINE V16 operator+(const V16& a, const V16& b) {
  V16 r;
  VLLM_PD_EACH_PART r.part[i] = a.part[i] + b.part[i];
  return r;
}

VLLM_PD_INLINE V16 operator-(const V16& a, const V16& b) {
  V16 r;
  VLLM_PD_EACH_PART r.part[i] = a.part[i] - b.part[i];
  return r;
}

VLLM_PD_INLINE V16 operator*(const V16& a, const V16& b) {
  V16 r;
  VLLM_PD_EACH_PART r.part[i] = a.part[i] * b.part[i];
  return r;
}

VLLM_PD_INLINE V16 operator/(const V16& a, const V16& b) {
  V16 r;
  VLLM_PD_EACH_PART r.part[i] = a.part[i] / b.part[i];
  return r;
}

VLLM_PD_INLINE V16 max(const V16& a, const V16& b) {
  V16 r;
  VLLM_PD_EACH_PART r.part[i] = native_max(a.part[i], b.part[i]);
  return r;
}

VLLM_PD_INLINE V16 min(const V16& a, const V16& b) {
  V16 r;
  VLLM_PD_EACH_PART r.part[i] = native_min(a.part[i], b.part[i]);
  return r;
}

/** v with its lanes moved down by `distance`; what comes in from above does not matter. */
template <int distance>
VLLM_PD_INLINE Native shift_down(const Native& v) {
  NativeInt from;
  _Pragma("GCC unroll 16") for (int i = 0; i < kWidth; ++i) from[i] = (i + distance) % kWidth;
  return __builtin_shuffle(v, from);
}

/** Folds the upper half onto the lower, four times: the same sixteen lanes are joined in the same order at
 * every width. */
template <typename Join>
VLLM_PD_INLINE float reduce(const V16& v, Join join) {
  Native x;
  if constexpr (kParts == 4) {
    x = join(join(v.part[0], v.part[2]), join(v.part[1], v.part[3]));
  } else if constexpr (kParts == 2) {
    x = join(v.part[0], v.part[1]);
  } else {
    x = join(v.part[0], shift_down<8 % kWidth>(v.part[0]));
  }
  if constexpr (kParts < 4) x = join(x, shift_down<4 % kWidth>(x));
  x = join(x, shift_down<2>(x));
  x = join(x, shift_down<1>(x));
  return x[0];
}

VLLM_PD_INLINE float reduce_add(const V16& v) {
  return reduce(v, [](const Native& a, const Native& b) { return a + b; });
}

VLLM_PD_INLINE float reduce_max(const V16& v) { return reduce(v, native_max); }

/**
 * Lane r: `reduce` of rows[r], to the bit, for r < kRows. All at once, where a single row's steps would wait for one
 * another.
 */
template <int kRows, typename Join>
VLLM_PD_INLINE V16 reduce_rows(const V16 rows[kRows], Join join) {
#if defined(VLLM_PD_AVX512)
  const auto quarters = [](const Native& a, const Native& b, auto order) {
    return (Native)_mm512_maskz_shuffle_f32x4(0xffff, (__m512)a, (__m512)b, order.value);
  };
  using LowHalves = std::integral_constant<int, 0x44>;
  using HighHalves = std::integral_constant<int, 0xee>;
  using EvenQuarters = std::integral_constant<int, 0x88>;
  using OddQuarters = std::integral_constant<int, 0xdd>;
  // Sixteen rows of sixteen lanes, of eight, of four, of two: rows r, 4 + r, 8 + r and 12 + r side by side, a quarter each.
  // Rows that do not exist are others once more.
  Native fours[4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    Native eights[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Native& a = rows[(r + 8 * i) % kRows].part[0];
      const Native& b = rows[(r + 8 * i + 4) % kRows].part[0];
      eights[i] = join(quarters(a, b, LowHalves()), quarters(a, b, HighHalves()));
    }
    fours[r] = join(quarters(eights[0], eights[1], EvenQuarters()), quarters(eights[0], eights[1], OddQuarters()));
  }
  Native twos[2];
#pragma GCC unroll 2
  for (int r = 0; r < 2; ++r) {
    const auto a = (__m512d)fours[2 * r];
    const auto b = (__m512d)fours[2 * r + 1];
    twos[r] = join((Native)_mm512_maskz_unpacklo_pd(0xff, a, b), (Native)_mm512_maskz_unpackhi_pd(0xff, a, b));
  }
  const auto a = (__m512)twos[0];
  const auto b = (__m512)twos[1];
  return {{join((Native)_mm512_maskz_shuffle_ps(0xffff, a, b, 0x88), (Native)_mm512_maskz_shuffle_ps(0xffff, a, b, 0xdd))}};
#else
  float lanes[kLanes] = {};
  for (int r = 0; r < kRows; ++r) lanes[r] = reduce(rows[r], join);
  return load(lanes);
#endif
}

/** The first `count` <= 16 floats, the other lanes zero. */
VLLM_PD_INLINE V16 load_some(const float* from, int64_t count) {
#if defined(VLLM_PD_AVX512)
  V16 r;
  r.part[0] = (Native)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
  return r;
#else
  float x[kLanes] = {};
  std::memcpy(x, from, count * sizeof(float));
  return load(x);
#endif
}

VLLM_PD_INLINE void store_some(float* to, const V16& v, int64_t count) {
#if defined(VLLM_PD_AVX512)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), (__m512)v.part[0]);
#else
  float x[kLanes];
  store(x, v);
  std::memcpy(to, x, count * sizeof(float));
#endif
}

/** Lanes whose number, counted from `first`, lies in [begin, end); `other` in the rest. */
VLLM_PD_INLINE V16 within(const V16& x, int64_t first, int64_t begin, int64_t end, float other) {
  V16 r;
  VLLM_PD_EACH_PART {
    NativeInt number;
    for (int lane = 0; lane < kWidth; ++lane) number[lane] = i * kWidth + lane;
    const NativeInt low = static_cast<int32_t>(begin - first) - NativeInt{};
    const NativeInt high = static_cast<int32_t>(end - first) - NativeInt{};
    const NativeInt inside = (number >= low) & (number < high);
    r.part[i] = (Native)(((NativeInt)x.part[i] & inside) | ((NativeInt)splat(other).part[i] & ~inside));
  }
  return r;
}

/**
 * e^x to about 1 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its Taylor polynomial of degree 7
 * (remainder below 2^-26), 2^n by adding n to the exponent. Outside of [-87, 88] the argument is clamped, so
 * the result is finite and normal.
 */
VLLM_PD_INLINE V16 exp(const V16& x) {
  const V16 clamped = min(max(x, splat(-87.0f)), splat(88.0f));
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const V16 shifter = splat(12582912.0f);
  const V16 shifted = fma(clamped, splat(1.44269504088896341f), shifter);
  const V16 n = shifted - shifter;
  V16 r = fma(n, splat(-0.693359375f), clamped);
  r = fma(n, splat(2.12194440e-4f), r);
  V16 p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  V16 power;
  VLLM_PD_EACH_PART {
    const NativeInt bits = (NativeInt)shifted.part[i];
    power.part[i] = (Native)((bits + 127) << 23);
  }
  return p * power;
}

VLLM_PD_INLINE V16 silu(const V16& x) { return x / (splat(1.0f) + exp(splat(0.0f) - x)); }

/**
 * 2^x for x <= 0 to about 2 ulp: x = n + f with |f| <= 1/2, 2^f by the polynomial of degree 5 whose largest relative
 * error is least (2^-23) among those that give 1 at 0, 2^n by adding n to the exponent. Clamped at -125, so the result
 * is normal.
 */
VLLM_PD_INLINE V16 exp2(const V16& x) {
  const V16 clamped = max(x, splat(-125.0f));
  const V16 shifter = splat(12582912.0f);
  const V16 shifted = clamped + shifter;
  const V16 f = clamped - (shifted - shifter);
  V16 p = splat(0.001326472731307149f);
  p = fma(p, f, splat(0.009671512991189957f));
  p = fma(p, f, splat(0.05550733581185341f));
  p = fma(p, f, splat(0.24022242426872253f));
  p = fma(p, f, splat(0.6931470036506653f));
  p = fma(p, f, splat(1.0f));
  V16 r;
  VLLM_PD_EACH_PART r.part[i] = (Native)((NativeInt)p.part[i] + ((NativeInt)shifted.part[i] << 23));
  return r;
}

/** out[j * out_stride + i] = rows[i][j] for i, j < 4. */
VLLM_PD_INLINE void transpose_4x4(const float* const rows[4], float* out, int64_t out_stride) {
  const Quad a = *reinterpret_cast<const UnalignedQuad*>(rows[0]);
  const Quad b = *reinterpret_cast<const UnalignedQuad*>(rows[1]);
  const Quad c = *reinterpret_cast<const UnalignedQuad*>(rows[2]);
  const Quad d = *reinterpret_cast<const UnalignedQuad*>(rows[3]);
  const Quad ab_low = __builtin_shuffle(a, b, QuadInt{0, 4, 1, 5});
  const Quad ab_high = __builtin_shuffle(a, b, QuadInt{2, 6, 3, 7});
  const Quad cd_low = __builtin_shuffle(c, d, QuadInt{0, 4, 1, 5});
  const Quad cd_high = __builtin_shuffle(c, d, QuadInt{2, 6, 3, 7});
  auto* to = reinterpret_cast<UnalignedQuad*>(out);
  *to = __builtin_shuffle(ab_low, cd_low, QuadInt{0, 1, 4, 5});
  to = reinterpret_cast<UnalignedQuad*>(out + out_stride);
  *to = __builtin_shuffle(ab_low, cd_low, QuadInt{2, 3, 6, 7});
  to = reinterpret_cast<UnalignedQuad*>(out + 2 * out_stride);
  *to = __builtin_shuffle(ab_high, cd_high, QuadInt{0, 1, 4, 5});
  to = reinterpret_cast<UnalignedQuad*>(out + 3 * out_stride);
  *to = __builtin_shuffle(ab_high, cd_high, QuadInt{2, 3, 6, 7});
}

}  // namespace
}  // namespace vllm_pd::cpu
