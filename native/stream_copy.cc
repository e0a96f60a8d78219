// Non-temporal stores of whole lines: in address order, or four pages side by side.
#include "stream_copy.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#if defined(VLLM_PD_X86)
#include <immintrin.h>
#endif

namespace vllm_pd {
namespace {

#if defined(VLLM_PD_X86)

constexpr size_t kLineBytes = 64;
constexpr size_t kLinesAPage = 64;
constexpr size_t kPageBytes = kLinesAPage * kLineBytes;

/** Lines from `from` on: a page behind those that are being copied, since what a core reads ahead ends with its page. */
inline void ask_for_four(const uint8_t* from) {
  for (size_t k = 0; k < 4; ++k) _mm_prefetch(from + k * kLineBytes, _MM_HINT_T0);
}

// All loads before all stores: one behind the other takes a fifth longer.

__attribute__((target("avx512f"))) inline void copy_four_avx512(uint8_t* to, const uint8_t* from) {
  const __m512i a = _mm512_loadu_si512(from);
  const __m512i b = _mm512_loadu_si512(from + 64);
  const __m512i c = _mm512_loadu_si512(from + 128);
  const __m512i d = _mm512_loadu_si512(from + 192);
  auto* const lines = reinterpret_cast<__m512i*>(to);
  _mm512_stream_si512(lines, a);
  _mm512_stream_si512(lines + 1, b);
  _mm512_stream_si512(lines + 2, c);
  _mm512_stream_si512(lines + 3, d);
}

__attribute__((target("avx2"))) inline void copy_four_avx2(uint8_t* to, const uint8_t* from) {
  for (size_t at = 0; at < 4 * kLineBytes; at += 2 * kLineBytes) {
    const auto* const source = reinterpret_cast<const __m256i*>(from + at);
    const __m256i a = _mm256_loadu_si256(source);
    const __m256i b = _mm256_loadu_si256(source + 1);
    const __m256i c = _mm256_loadu_si256(source + 2);
    const __m256i d = _mm256_loadu_si256(source + 3);
    auto* const halves = reinterpret_cast<__m256i*>(to + at);
    _mm256_stream_si256(halves, a);
    _mm256_stream_si256(halves + 1, b);
    _mm256_stream_si256(halves + 2, c);
    _mm256_stream_si256(halves + 3, d);
  }
}

// `num_bytes` is a multiple of four lines. Written out for each instruction set: what a template calls for another set
// than its own is not inlined.

__attribute__((target("avx512f"))) void in_order_avx512(uint8_t* to, const uint8_t* from, size_t num_bytes,
                                                        const uint8_t* next) {
  size_t at = 0;
  for (; at + kPageBytes < num_bytes; at += 4 * kLineBytes) {
    ask_for_four(from + at + kPageBytes);
    copy_four_avx512(to + at, from + at);
  }
  for (size_t ahead = 0; at < num_bytes; at += 4 * kLineBytes, ahead += 4 * kLineBytes) {
    if (next != nullptr) ask_for_four(next + ahead);
    copy_four_avx512(to + at, from + at);
  }
}

__attribute__((target("avx2"))) void in_order_avx2(uint8_t* to, const uint8_t* from, size_t num_bytes, const uint8_t* next) {
  size_t at = 0;
  for (; at + kPageBytes < num_bytes; at += 4 * kLineBytes) {
    ask_for_four(from + at + kPageBytes);
    copy_four_avx2(to + at, from + at);
  }
  for (size_t ahead = 0; at < num_bytes; at += 4 * kLineBytes, ahead += 4 * kLineBytes) {
    if (next != nullptr) ask_for_four(next + ahead);
    copy_four_avx2(to + at, from + at);
  }
}

/** Four pages in turns: each is read ahead by the core itself. What is behind the last four follows in order. */
__attribute__((target("avx512f"))) void by_pages_avx512(uint8_t* to, const uint8_t* from, size_t num_bytes,
                                                        const uint8_t* next) {
  const size_t in_turns = num_bytes / (4 * kPageBytes) * (4 * kPageBytes);
  for (size_t group = 0; group < in_turns; group += 4 * kPageBytes) {
    for (size_t line = 0; line < kPageBytes; line += kLineBytes) {
      for (size_t page = 0; page < 4 * kPageBytes; page += kPageBytes) {
        const size_t at = group + page + line;
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at), _mm512_loadu_si512(from + at));
      }
    }
  }
  in_order_avx512(to + in_turns, from + in_turns, num_bytes - in_turns, next);
}

using CopyBody = void (*)(uint8_t* to, const uint8_t* from, size_t num_bytes, const uint8_t* next);

/** From the destination's first whole line on, by `copy_body`. */
template <CopyBody copy_body>
void stream_copy(uint8_t* to, const uint8_t* from, size_t num_bytes, const uint8_t* next) {
  const size_t misaligned = reinterpret_cast<uintptr_t>(to) % kLineBytes;
  const size_t head = misaligned == 0 ? 0 : std::min(num_bytes, kLineBytes - misaligned);
  const size_t body = (num_bytes - head) / (4 * kLineBytes) * (4 * kLineBytes);
  std::memcpy(to, from, head);
  copy_body(to + head, from + head, body, next);
  std::memcpy(to + head + body, from + head + body, num_bytes - head - body);
}

#endif

std::vector<Copy> find_copies() {
#if defined(VLLM_PD_X86)
  if (__builtin_cpu_supports("avx512f")) return {stream_copy<in_order_avx512>, stream_copy<by_pages_avx512>, plain_copy};
  if (__builtin_cpu_supports("avx2")) return {stream_copy<in_order_avx2>, plain_copy};
#endif
  return {plain_copy};
}

}  // namespace

void plain_copy(uint8_t* to, const uint8_t* from, size_t num_bytes, const uint8_t*) { std::memcpy(to, from, num_bytes); }

const std::vector<Copy>& long_copies() {
  static const std::vector<Copy> copies = find_copies();
  return copies;
}

void end_copies() {
#if defined(VLLM_PD_X86)
  _mm_sfence();
#endif
}

size_t long_copy_min_bytes() {
  // Half of a core's own cache: source and destination are both in the way.
  static const long own_level = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return own_level > 0 ? static_cast<size_t>(own_level) / 2 : size_t{1} << 20;
}

}  // namespace vllm_pd
