// The AVX-512 instructions that the kernels use, done with AVX2: for simd.h in builds that are checked on machines without
// AVX-512. Every lane as the manual has it (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2), but
// that NaNs may have other bits.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

// The compiler declares functions of these names that it refuses to call without AVX-512, and two macros.
#undef _mm512_setr_epi32
#undef _mm512_setr_epi64
#define _mm512_add_epi32 emulated_add_epi32
#define _mm512_and_si512 emulated_and_si512
#define _mm512_cmpge_epi16_mask emulated_cmpge_epi16_mask
#define _mm512_cvtne2ps_pbh emulated_cvtne2ps_pbh
#define _mm512_cvtneps_pbh emulated_cvtneps_pbh
#define _mm512_dpbf16_ps emulated_dpbf16_ps
#define _mm512_dpbusd_epi32 emulated_dpbusd_epi32
#define _mm512_fmadd_ps emulated_fmadd_ps
#define _mm512_loadu_si512 emulated_loadu_si512
#define _mm512_madd_epi16 emulated_madd_epi16
#define _mm512_mask_broadcast_f32x4 emulated_mask_broadcast_f32x4
#define _mm512_mask_broadcast_f64x4 emulated_mask_broadcast_f64x4
#define _mm512_mask_storeu_ps emulated_mask_storeu_ps
#define _mm512_maskz_broadcast_f32x4 emulated_maskz_broadcast_f32x4
#define _mm512_maskz_broadcast_f64x4 emulated_maskz_broadcast_f64x4
#define _mm512_maskz_cvtepi32_epi8 emulated_maskz_cvtepi32_epi8
#define _mm512_maskz_cvtepu16_epi32 emulated_maskz_cvtepu16_epi32
#define _mm512_maskz_loadu_epi16 emulated_maskz_loadu_epi16
#define _mm512_maskz_loadu_ps emulated_maskz_loadu_ps
#define _mm512_maskz_max_ps emulated_maskz_max_ps
#define _mm512_maskz_min_ps emulated_maskz_min_ps
#define _mm512_maskz_shuffle_f32x4 emulated_maskz_shuffle_f32x4
#define _mm512_maskz_shuffle_ps emulated_maskz_shuffle_ps
#define _mm512_maskz_slli_epi32 emulated_maskz_slli_epi32
#define _mm512_maskz_unpackhi_pd emulated_maskz_unpackhi_pd
#define _mm512_maskz_unpackhi_ps emulated_maskz_unpackhi_ps
#define _mm512_maskz_unpacklo_pd emulated_maskz_unpacklo_pd
#define _mm512_maskz_unpacklo_ps emulated_maskz_unpacklo_ps
#define _mm512_max_epi16 emulated_max_epi16
#define _mm512_permutex2var_epi64 emulated_permutex2var_epi64
#define _mm512_permutex2var_pd emulated_permutex2var_pd
#define _mm512_permutex2var_ps emulated_permutex2var_ps
#define _mm512_set1_epi16 emulated_set1_epi16
#define _mm512_set1_epi32 emulated_set1_epi32
#define _mm512_setr_epi32 emulated_setr_epi32
#define _mm512_setr_epi64 emulated_setr_epi64
#define _mm512_setzero_si512 emulated_setzero_si512
#define _mm512_slli_epi16 emulated_slli_epi16
#define _mm512_srai_epi16 emulated_srai_epi16
#define _mm512_store_ps emulated_store_ps
#define _mm512_storeu_si512 emulated_storeu_si512
#define _mm512_stream_ps emulated_stream_ps
#define _mm512_unpackhi_epi16 emulated_unpackhi_epi16
#define _mm512_unpacklo_epi16 emulated_unpacklo_epi16

// For builds that optimise little.
#define VLLM_PD_ALWAYS __attribute__((always_inline))
#define VLLM_PD_EMULATED_INLINE inline VLLM_PD_ALWAYS

namespace vllm_pd::cpu {
namespace {

/** Half `i` of a register, which is one of AVX2's. */
template <typename Half, typename Whole>
VLLM_PD_EMULATED_INLINE Half& half_of(Whole& whole, int i) {
  return reinterpret_cast<Half*>(&whole)[i];
}
template <typename Half, typename Whole>
VLLM_PD_EMULATED_INLINE const Half& half_of(const Whole& whole, int i) {
  return reinterpret_cast<const Half*>(&whole)[i];
}

/** `f` of each half: what instructions do that know no lanes but their own, or their own 128 bits. */
template <typename Half, typename Whole, typename F, typename... Others>
VLLM_PD_EMULATED_INLINE Whole by_halves(F f, const Whole& first, const Others&... others) {
  Whole result;
  half_of<Half>(result, 0) = f(half_of<Half>(first, 0), half_of<Half>(others, 0)...);
  half_of<Half>(result, 1) = f(half_of<Half>(first, 1), half_of<Half>(others, 1)...);
  return result;
}

template <typename Whole, typename Half>
VLLM_PD_EMULATED_INLINE Whole join_halves(const Half& low, const Half& high) {
  Whole result;
  half_of<Half>(result, 0) = low;
  half_of<Half>(result, 1) = high;
  return result;
}

/** Lanes whose bit is set from `x`, the others from `other`. */
template <typename Element, typename Vector>
VLLM_PD_EMULATED_INLINE Vector select(uint64_t mask, const Vector& x, const Vector& other) {
  constexpr int kLanesOf = sizeof(Vector) / sizeof(Element);
  if (mask == (kLanesOf == 64 ? ~uint64_t{0} : (uint64_t{1} << kLanesOf) - 1)) return x;
  Element lanes[kLanesOf];
  Element others[kLanesOf];
  std::memcpy(lanes, &x, sizeof(lanes));
  std::memcpy(others, &other, sizeof(others));
  for (int i = 0; i < kLanesOf; ++i) lanes[i] = mask >> i & 1 ? lanes[i] : others[i];
  Vector result;
  std::memcpy(&result, lanes, sizeof(result));
  return result;
}

template <typename Element, typename Vector>
VLLM_PD_EMULATED_INLINE Vector zero_unless(uint64_t mask, const Vector& x) {
  return select<Element>(mask, x, Vector{});
}

/** Lane i of the result is lane index[i] of a and b, one behind the other. */
template <typename Element, typename Vector>
VLLM_PD_EMULATED_INLINE Vector permute_two(const Vector& a, const __m512i& index, const Vector& b) {
  constexpr int kLanesOf = sizeof(Vector) / sizeof(Element);
  Element lanes[2 * kLanesOf];
  Element indices[kLanesOf];
  std::memcpy(lanes, &a, sizeof(a));
  std::memcpy(lanes + kLanesOf, &b, sizeof(b));
  std::memcpy(indices, &index, sizeof(indices));
  Element out[kLanesOf];
  for (int i = 0; i < kLanesOf; ++i) out[i] = lanes[indices[i] % (2 * kLanesOf)];
  Vector result;
  std::memcpy(&result, out, sizeof(result));
  return result;
}

// Moves.

VLLM_PD_EMULATED_INLINE __m512i _mm512_setzero_si512() { return __m512i{}; }
VLLM_PD_EMULATED_INLINE __m512i _mm512_set1_epi16(int16_t x) { return join_halves<__m512i>(_mm256_set1_epi16(x), _mm256_set1_epi16(x)); }
VLLM_PD_EMULATED_INLINE __m512i _mm512_set1_epi32(int32_t x) { return join_halves<__m512i>(_mm256_set1_epi32(x), _mm256_set1_epi32(x)); }

template <typename... Lanes>
VLLM_PD_EMULATED_INLINE __m512i _mm512_setr_epi32(Lanes... lanes) {
  const int32_t all[16] = {lanes...};
  __m512i result;
  std::memcpy(&result, all, sizeof(result));
  return result;
}

template <typename... Lanes>
VLLM_PD_EMULATED_INLINE __m512i _mm512_setr_epi64(Lanes... lanes) {
  const int64_t all[8] = {lanes...};
  __m512i result;
  std::memcpy(&result, all, sizeof(result));
  return result;
}

VLLM_PD_EMULATED_INLINE __m512i _mm512_loadu_si512(const void* from) {
  __m512i result;
  std::memcpy(&result, from, sizeof(result));
  return result;
}
VLLM_PD_EMULATED_INLINE void _mm512_storeu_si512(void* to, const __m512i& x) { std::memcpy(to, &x, sizeof(x)); }
VLLM_PD_EMULATED_INLINE void _mm512_store_ps(float* to, const __m512& x) {
  _mm256_store_ps(to, half_of<__m256>(x, 0));
  _mm256_store_ps(to + 8, half_of<__m256>(x, 1));
}
VLLM_PD_EMULATED_INLINE void _mm512_stream_ps(float* to, const __m512& x) {
  // Faults unless it is a whole line.
  if (reinterpret_cast<uintptr_t>(to) % sizeof(x) != 0) __builtin_trap();
  _mm512_store_ps(to, x);
}

// Lanes that are masked are not touched: what lies there may not be mapped.
VLLM_PD_EMULATED_INLINE __m512 _mm512_maskz_loadu_ps(uint64_t mask, const float* from) {
  float lanes[16] = {};
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) lanes[i] = from[i];
  }
  __m512 result;
  std::memcpy(&result, lanes, sizeof(result));
  return result;
}
VLLM_PD_EMULATED_INLINE void _mm512_mask_storeu_ps(float* to, uint64_t mask, const __m512& x) {
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) to[i] = x[i];
  }
}
VLLM_PD_EMULATED_INLINE __m512i _mm512_maskz_loadu_epi16(uint64_t mask, const void* from) {
  uint16_t lanes[32] = {};
  for (int i = 0; i < 32; ++i) {
    if (mask >> i & 1) std::memcpy(lanes + i, static_cast<const uint16_t*>(from) + i, sizeof(uint16_t));
  }
  return _mm512_loadu_si512(lanes);
}

VLLM_PD_EMULATED_INLINE __m512 _mm512_mask_broadcast_f32x4(const __m512& other, uint64_t mask, const __m128& x) {
  const __m256 twice = _mm256_broadcast_ps(&x);
  return select<float>(mask, join_halves<__m512>(twice, twice), other);
}
VLLM_PD_EMULATED_INLINE __m512 _mm512_maskz_broadcast_f32x4(uint64_t mask, const __m128& x) {
  return _mm512_mask_broadcast_f32x4(__m512{}, mask, x);
}
VLLM_PD_EMULATED_INLINE __m512d _mm512_mask_broadcast_f64x4(const __m512d& other, uint64_t mask, const __m256d& x) {
  return select<double>(mask, join_halves<__m512d>(x, x), other);
}
VLLM_PD_EMULATED_INLINE __m512d _mm512_maskz_broadcast_f64x4(uint64_t mask, const __m256d& x) {
  return _mm512_mask_broadcast_f64x4(__m512d{}, mask, x);
}

// Shuffles.

VLLM_PD_EMULATED_INLINE __m512 _mm512_maskz_unpacklo_ps(uint64_t mask, const __m512& a, const __m512& b) {
  const auto half = [](const __m256& x, const __m256& y) VLLM_PD_ALWAYS { return _mm256_unpacklo_ps(x, y); };
  return zero_unless<float>(mask, by_halves<__m256>(half, a, b));
}
VLLM_PD_EMULATED_INLINE __m512 _mm512_maskz_unpackhi_ps(uint64_t mask, const __m512& a, const __m512& b) {
  const auto half = [](const __m256& x, const __m256& y) VLLM_PD_ALWAYS { return _mm256_unpackhi_ps(x, y); };
  return zero_unless<float>(mask, by_halves<__m256>(half, a, b));
}
VLLM_PD_EMULATED_INLINE __m512d _mm512_maskz_unpacklo_pd(uint64_t mask, const __m512d& a, const __m512d& b) {
  const auto half = [](const __m256d& x, const __m256d& y) VLLM_PD_ALWAYS { return _mm256_unpacklo_pd(x, y); };
  return zero_unless<double>(mask, by_halves<__m256d>(half, a, b));
}
VLLM_PD_EMULATED_INLINE __m512d _mm512_maskz_unpackhi_pd(uint64_t mask, const __m512d& a, const __m512d& b) {
  const auto half = [](const __m256d& x, const __m256d& y) VLLM_PD_ALWAYS { return _mm256_unpackhi_pd(x, y); };
  return zero_unless<double>(mask, by_halves<__m256d>(half, a, b));
}
VLLM_PD_EMULATED_INLINE __m512i _mm512_unpacklo_epi16(const __m512i& a, const __m512i& b) {
  const auto half = [](const __m256i& x, const __m256i& y) VLLM_PD_ALWAYS { return _mm256_unpacklo_epi16(x, y); };
  return by_halves<__m256i>(half, a, b);
}
VLLM_PD_EMULATED_INLINE __m512i _mm512_unpackhi_epi16(const __m512i& a, const __m512i& b) {
  const auto half = [](const __m256i& x, const __m256i& y) VLLM_PD_ALWAYS { return _mm256_unpackhi_epi16(x, y); };
  return by_halves<__m256i>(half, a, b);
}

/** In each 128 bits two lanes of a, then two of b. */
VLLM_PD_EMULATED_INLINE __m512 _mm512_maskz_shuffle_ps(uint64_t mask, const __m512& a, const __m512& b, int order) {
  __m512 result;
  for (int lane = 0; lane < 16; ++lane) {
    const int from = lane / 4 * 4 + (order >> lane % 4 * 2 & 3);
    result[lane] = lane % 4 < 2 ? a[from] : b[from];
  }
  return zero_unless<float>(mask, result);
}
/** Two quarters of a, then two of b. */
VLLM_PD_EMULATED_INLINE __m512 _mm512_maskz_shuffle_f32x4(uint64_t mask, const __m512& a, const __m512& b, int order) {
  __m128 of_a[4];
  __m128 of_b[4];
  std::memcpy(of_a, &a, sizeof(a));
  std::memcpy(of_b, &b, sizeof(b));
  const __m128 quarters[4] = {of_a[order & 3], of_a[order >> 2 & 3], of_b[order >> 4 & 3], of_b[order >> 6 & 3]};
  __m512 result;
  std::memcpy(&result, quarters, sizeof(result));
  return zero_unless<float>(mask, result);
}
VLLM_PD_EMULATED_INLINE __m512 _mm512_permutex2var_ps(const __m512& a, const __m512i& index, const __m512& b) {
  return (__m512)permute_two<uint32_t>((__m512i)a, index, (__m512i)b);
}
VLLM_PD_EMULATED_INLINE __m512d _mm512_permutex2var_pd(const __m512d& a, const __m512i& index, const __m512d& b) {
  return (__m512d)permute_two<uint64_t>((__m512i)a, index, (__m512i)b);
}
VLLM_PD_EMULATED_INLINE __m512i _mm512_permutex2var_epi64(const __m512i& a, const __m512i& index, const __m512i& b) {
  return permute_two<uint64_t>(a, index, b);
}

// Arithmetic.

VLLM_PD_EMULATED_INLINE __m512 _mm512_fmadd_ps(const __m512& a, const __m512& b, const __m512& c) {
  const auto half = [](const __m256& x, const __m256& y, const __m256& z) VLLM_PD_ALWAYS { return _mm256_fmadd_ps(x, y, z); };
  return by_halves<__m256>(half, a, b, c);
}
VLLM_PD_EMULATED_INLINE __m512 _mm512_maskz_max_ps(uint64_t mask, const __m512& a, const __m512& b) {
  const auto half = [](const __m256& x, const __m256& y) VLLM_PD_ALWAYS { return _mm256_max_ps(x, y); };
  return zero_unless<float>(mask, by_halves<__m256>(half, a, b));
}
VLLM_PD_EMULATED_INLINE __m512 _mm512_maskz_min_ps(uint64_t mask, const __m512& a, const __m512& b) {
  const auto half = [](const __m256& x, const __m256& y) VLLM_PD_ALWAYS { return _mm256_min_ps(x, y); };
  return zero_unless<float>(mask, by_halves<__m256>(half, a, b));
}
VLLM_PD_EMULATED_INLINE __m512i _mm512_add_epi32(const __m512i& a, const __m512i& b) {
  const auto half = [](const __m256i& x, const __m256i& y) VLLM_PD_ALWAYS { return _mm256_add_epi32(x, y); };
  return by_halves<__m256i>(half, a, b);
}
VLLM_PD_EMULATED_INLINE __m512i _mm512_and_si512(const __m512i& a, const __m512i& b) { return a & b; }
VLLM_PD_EMULATED_INLINE __m512i _mm512_max_epi16(const __m512i& a, const __m512i& b) {
  const auto half = [](const __m256i& x, const __m256i& y) VLLM_PD_ALWAYS { return _mm256_max_epi16(x, y); };
  return by_halves<__m256i>(half, a, b);
}
VLLM_PD_EMULATED_INLINE __m512i _mm512_madd_epi16(const __m512i& a, const __m512i& b) {
  const auto half = [](const __m256i& x, const __m256i& y) VLLM_PD_ALWAYS { return _mm256_madd_epi16(x, y); };
  return by_halves<__m256i>(half, a, b);
}
VLLM_PD_EMULATED_INLINE __m512i _mm512_slli_epi16(const __m512i& x, int count) {
  return by_halves<__m256i>([count](const __m256i& half) VLLM_PD_ALWAYS { return _mm256_slli_epi16(half, count); }, x);
}
VLLM_PD_EMULATED_INLINE __m512i _mm512_srai_epi16(const __m512i& x, int count) {
  return by_halves<__m256i>([count](const __m256i& half) VLLM_PD_ALWAYS { return _mm256_srai_epi16(half, count); }, x);
}
VLLM_PD_EMULATED_INLINE __m512i _mm512_maskz_slli_epi32(uint64_t mask, const __m512i& x, int count) {
  const auto half = [count](const __m256i& y) VLLM_PD_ALWAYS { return _mm256_slli_epi32(y, count); };
  return zero_unless<int32_t>(mask, by_halves<__m256i>(half, x));
}
VLLM_PD_EMULATED_INLINE uint32_t _mm512_cmpge_epi16_mask(const __m512i& a, const __m512i& b) {
  int16_t of_a[32];
  int16_t of_b[32];
  std::memcpy(of_a, &a, sizeof(a));
  std::memcpy(of_b, &b, sizeof(b));
  uint32_t mask = 0;
  for (int i = 0; i < 32; ++i) mask |= static_cast<uint32_t>(of_a[i] >= of_b[i]) << i;
  return mask;
}

VLLM_PD_EMULATED_INLINE __m512i _mm512_maskz_cvtepu16_epi32(uint64_t mask, const __m256i& x) {
  const __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(x));
  const __m256i high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1));
  return zero_unless<int32_t>(mask, join_halves<__m512i>(low, high));
}
/** The low byte of each lane. */
VLLM_PD_EMULATED_INLINE __m128i _mm512_maskz_cvtepi32_epi8(uint64_t mask, const __m512i& x) {
  int32_t lanes[16];
  std::memcpy(lanes, &x, sizeof(lanes));
  uint8_t bytes[16];
  for (int i = 0; i < 16; ++i) bytes[i] = mask >> i & 1 ? static_cast<uint8_t>(lanes[i]) : 0;
  __m128i result;
  std::memcpy(&result, bytes, sizeof(result));
  return result;
}

/** Four unsigned bytes of a times four signed ones of b, added to each sum without saturation. */
VLLM_PD_EMULATED_INLINE __m512i _mm512_dpbusd_epi32(const __m512i& sums, const __m512i& a, const __m512i& b) {
  const auto half = [](const __m256i& sum, const __m256i& x, const __m256i& y) VLLM_PD_ALWAYS {
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srai_epi16(_mm256_slli_epi16(y, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(y, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
  };
  return by_halves<__m256i>(half, sums, a, b);
}

// Pairs of bfloat16: denormal numbers count as zeros and come out as zeros, whatever the mode of rounding; ties to even.

VLLM_PD_EMULATED_INLINE __m256 without_denormals(const __m256& x) {
  const __m256i exponent = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7f800000));
  const __m256i is_small = _mm256_cmpeq_epi32(exponent, _mm256_setzero_si256());
  const __m256 sign = _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(INT32_MIN)));
  return _mm256_blendv_ps(x, sign, _mm256_castsi256_ps(is_small));
}

/** The odd elements' product is added first, then the even ones', each in one rounding. */
VLLM_PD_EMULATED_INLINE __m512 _mm512_dpbf16_ps(const __m512& sums, const __m512bh& a, const __m512bh& b) {
  const auto half = [](const __m256i& sum, const __m256i& x, const __m256i& y) VLLM_PD_ALWAYS {
    const auto odd = [](const __m256i& pairs) VLLM_PD_ALWAYS {
      return without_denormals(_mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000)))));
    };
    const auto even = [](const __m256i& pairs) VLLM_PD_ALWAYS { return without_denormals(_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16))); };
    const __m256 once = without_denormals(_mm256_fmadd_ps(odd(x), odd(y), without_denormals(_mm256_castsi256_ps(sum))));
    return _mm256_castps_si256(without_denormals(_mm256_fmadd_ps(even(x), even(y), once)));
  };
  return (__m512)by_halves<__m256i>(half, (__m512i)sums, (__m512i)a, (__m512i)b);
}

VLLM_PD_EMULATED_INLINE uint16_t to_bfloat16_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  if (magnitude < 0x00800000) return static_cast<uint16_t>(bits >> 16 & 0x8000);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

VLLM_PD_EMULATED_INLINE __m256bh _mm512_cvtneps_pbh(const __m512& x) {
  uint16_t halves[16];
  for (int i = 0; i < 16; ++i) halves[i] = to_bfloat16_bits(x[i]);
  __m256bh result;
  std::memcpy(&result, halves, sizeof(result));
  return result;
}
/** b's in the lower half, a's in the upper one. */
VLLM_PD_EMULATED_INLINE __m512bh _mm512_cvtne2ps_pbh(const __m512& a, const __m512& b) {
  uint16_t halves[32];
  for (int i = 0; i < 16; ++i) halves[i] = to_bfloat16_bits(b[i]);
  for (int i = 0; i < 16; ++i) halves[16 + i] = to_bfloat16_bits(a[i]);
  __m512bh result;
  std::memcpy(&result, halves, sizeof(result));
  return result;
}

}  // namespace
}  // namespace vllm_pd::cpu
