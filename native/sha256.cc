// SHA-256 (FIPS 180-4), portable and with the SHA extensions of x86.
#include "sha256.h"

#include <algorithm>
#include <cstring>
#include <vector>

#if defined(VLLM_PD_X86)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace vllm_pd {
namespace {

alignas(16) constexpr uint32_t kRoundConstants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr uint32_t kInitialState[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

uint32_t load_big_endian(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

/** A whole word at once: from single bytes the compiler makes vectors of bytes, a fifth of a short message's time. */
void store_big_endian(uint32_t value, uint8_t* bytes) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  value = __builtin_bswap32(value);
#endif
  std::memcpy(bytes, &value, sizeof(value));
}

uint32_t rotate_right(uint32_t value, int count) { return value >> count | value << (32 - count); }

using Digest = void (*)(uint32_t state[8], const uint8_t* chunks, size_t num_chunks);

void digest_portable(uint32_t state[8], const uint8_t* chunks, size_t num_chunks) {
  for (; num_chunks > 0; --num_chunks, chunks += kSha256ChunkBytes) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) w[i] = load_big_endian(chunks + 4 * i);
    for (int i = 16; i < 64; ++i) {
      const uint32_t s0 = rotate_right(w[i - 15], 7) ^ rotate_right(w[i - 15], 18) ^ w[i - 15] >> 3;
      const uint32_t s1 = rotate_right(w[i - 2], 17) ^ rotate_right(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; ++i) {
      const uint32_t s1 = rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25);
      const uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kRoundConstants[i] + w[i];
      const uint32_t s0 = rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22);
      const uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1;
      d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
  }
}

#if defined(VLLM_PD_X86)

/** The instructions keep the state as (a, b, e, f) and (c, d, g, h), from high to low. */
__attribute__((target("sha,sse4.1,ssse3"))) void digest_sha_ni(uint32_t state[8], const uint8_t* chunks,
                                                               size_t num_chunks) {
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  const __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<__m128i*>(state)), 0xb1);
  const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<__m128i*>(state + 4)), 0x1b);
  __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
  __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
  for (; num_chunks > 0; --num_chunks, chunks += kSha256ChunkBytes) {
    const __m128i old_abef = abef;
    const __m128i old_cdgh = cdgh;
    __m128i w[4];  // the message schedule's latest 16 words
    for (int i = 0; i < 4; ++i) {
      const auto* words = reinterpret_cast<const __m128i*>(chunks + 16 * i);
      w[i] = _mm_shuffle_epi8(_mm_loadu_si128(words), big_endian);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const auto* constants = reinterpret_cast<const __m128i*>(kRoundConstants + 4 * i);
      const __m128i wk = _mm_add_epi32(w[i % 4], _mm_load_si128(constants));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));
      if (i >= 12) continue;
      const __m128i s0 = _mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]);
      const __m128i middle = _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4);
      w[i % 4] = _mm_sha256msg2_epu32(_mm_add_epi32(s0, middle), w[(i + 3) % 4]);
    }
    abef = _mm_add_epi32(abef, old_abef);
    cdgh = _mm_add_epi32(cdgh, old_cdgh);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
  const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

bool has_sha_ni() {
  constexpr unsigned kSha = 1u << 29, kSse41 = 1u << 19, kSsse3 = 1u << 9;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kSse41) == 0 || (c & kSsse3) == 0) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & kSha) != 0;
}

#endif

Digest choose_digest() {
#if defined(VLLM_PD_X86)
  if (has_sha_ni()) return digest_sha_ni;
#endif
  return digest_portable;
}

const Digest kDigest = choose_digest();

void pad_and_digest(Digest digest_chunks, uint8_t* message, size_t num_bytes, uint8_t* digest) {
  const size_t num_padded = sha256_padded_bytes(num_bytes);
  std::memset(message + num_bytes, 0, num_padded - num_bytes);
  message[num_bytes] = 0x80;
  const uint64_t num_bits = uint64_t{num_bytes} * 8;
  store_big_endian(static_cast<uint32_t>(num_bits >> 32), message + num_padded - 8);
  store_big_endian(static_cast<uint32_t>(num_bits), message + num_padded - 4);
  uint32_t state[8];
  std::memcpy(state, kInitialState, sizeof(state));
  digest_chunks(state, message, num_padded / kSha256ChunkBytes);
  for (int i = 0; i < 8; ++i) store_big_endian(state[i], digest + 4 * i);
}

}  // namespace

void sha256_in_place(uint8_t* message, size_t num_bytes, uint8_t* digest) {
  pad_and_digest(kDigest, message, num_bytes, digest);
}

void sha256_in_place_portable(uint8_t* message, size_t num_bytes, uint8_t* digest) {
  pad_and_digest(digest_portable, message, num_bytes, digest);
}

void hmac_sha256(const uint8_t* key, size_t num_key_bytes, const uint8_t* message, size_t num_bytes, uint8_t* digest) {
  std::vector<uint8_t> inner(sha256_padded_bytes(kSha256ChunkBytes + num_bytes));
  uint8_t outer[sha256_padded_bytes(kSha256ChunkBytes + kSha256Bytes)];
  for (size_t i = 0; i < kSha256ChunkBytes; ++i) {
    const uint8_t byte = i < num_key_bytes ? key[i] : 0;
    inner[i] = byte ^ 0x36;
    outer[i] = byte ^ 0x5c;
  }
  std::copy_n(message, num_bytes, &inner[kSha256ChunkBytes]);
  sha256_in_place(inner.data(), kSha256ChunkBytes + num_bytes, &outer[kSha256ChunkBytes]);
  sha256_in_place(outer, kSha256ChunkBytes + kSha256Bytes, digest);
}

}  // namespace vllm_pd
