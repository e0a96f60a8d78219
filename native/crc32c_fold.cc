// CRC-32C by folding: what lies n bits before the end counts as its product with x^n, so a register full of bytes is
// multiplied and added to the one that comes that much later. After V. Gopal et al., "Fast CRC Computation for Generic
// Polynomials Using PCLMULQDQ Instruction" (Intel, 2009), with four 512-bit registers.
#include "crc32c_fold.h"

#include <cstring>

#ifdef VLLM_PD_X86
#include <immintrin.h>
#endif

namespace vllm_pd {

#ifdef VLLM_PD_X86

namespace {

constexpr size_t kRoundBytes = 256;
/** Below, three streams of the CRC instruction are as fast. */
constexpr size_t kMinBytes = 4 * kRoundBytes;

/** x^n modulo the polynomial, reflected and in its place beside 64 bits of reflected data. */
constexpr uint64_t power(int n) {
  constexpr uint32_t kPolynomial = 0x1EDC6F41;
  uint32_t value = 1;
  for (; n > 0; --n) value = value << 1 ^ (value >> 31 ? kPolynomial : 0);
  uint64_t reflected = 0;
  for (int bit = 0; bit < 32; ++bit) reflected |= static_cast<uint64_t>(value >> bit & 1) << (31 - bit);
  return reflected << 1;
}

/** Factors for the first and the second half of 128 bits that move `kBits` on. */
template <int kBits>
struct Distance {
  static constexpr uint64_t kFirst = power(kBits + 32);
  static constexpr uint64_t kSecond = power(kBits - 32);
};

template <int kBits>
__attribute__((target("avx512f,vpclmulqdq"))) inline __m512i fold(__m512i from, __m512i onto) {
  const __m512i factors = _mm512_set4_epi64(Distance<kBits>::kSecond, Distance<kBits>::kFirst,
                                            Distance<kBits>::kSecond, Distance<kBits>::kFirst);
  const __m512i first = _mm512_clmulepi64_epi128(from, factors, 0x00);
  const __m512i second = _mm512_clmulepi64_epi128(from, factors, 0x11);
  // first ^ second ^ onto
  return _mm512_ternarylogic_epi64(first, second, onto, 0x96);
}

__attribute__((target("pclmul,sse4.2"))) inline __m128i fold_128(__m128i from, __m128i onto) {
  const __m128i factors = _mm_set_epi64x(Distance<128>::kSecond, Distance<128>::kFirst);
  const __m128i first = _mm_clmulepi64_si128(from, factors, 0x00);
  const __m128i second = _mm_clmulepi64_si128(from, factors, 0x11);
  return _mm_xor_si128(_mm_xor_si128(first, second), onto);
}

}  // namespace

bool can_fold_crc32c() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("pclmul") &&
         __builtin_cpu_supports("sse4.2");
}

__attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.2"))) uint32_t fold_crc32c(uint32_t crc, const uint8_t*& at,
                                                                                  size_t& num_bytes) {
  if (num_bytes < kMinBytes) return crc;
  const auto load = [](const uint8_t* from) __attribute__((target("avx512f"))) { return _mm512_loadu_si512(from); };
  // What the register holds counts as if it had been added to the first bytes.
  __m512i a = _mm512_xor_si512(load(at), _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(crc))));
  __m512i b = load(at + 64);
  __m512i c = load(at + 128);
  __m512i d = load(at + 192);
  at += kRoundBytes;
  num_bytes -= kRoundBytes;
  for (; num_bytes >= kRoundBytes; at += kRoundBytes, num_bytes -= kRoundBytes) {
    a = fold<8 * kRoundBytes>(a, load(at));
    b = fold<8 * kRoundBytes>(b, load(at + 64));
    c = fold<8 * kRoundBytes>(c, load(at + 128));
    d = fold<8 * kRoundBytes>(d, load(at + 192));
  }
  d = fold<512>(fold<512>(fold<512>(a, b), c), d);
  __m128i rest = _mm512_extracti32x4_epi32(d, 0);
  rest = fold_128(rest, _mm512_extracti32x4_epi32(d, 1));
  rest = fold_128(rest, _mm512_extracti32x4_epi32(d, 2));
  rest = fold_128(rest, _mm512_extracti32x4_epi32(d, 3));
  alignas(16) uint64_t words[2];
  _mm_store_si128(reinterpret_cast<__m128i*>(words), rest);
  return static_cast<uint32_t>(_mm_crc32_u64(_mm_crc32_u64(0, words[0]), words[1]));
}

#else

bool can_fold_crc32c() { return false; }

uint32_t fold_crc32c(uint32_t crc, const uint8_t*&, size_t&) { return crc; }

#endif

}  // namespace vllm_pd
