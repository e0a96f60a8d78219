// Non-temporal stores, 64 bytes at a time, four pages side by side.
#include "stream_copy.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#if defined(VLLM_PD_X86)
#include <immintrin.h>
#endif

namespace vllm_pd {
namespace {

constexpr size_t kLineBytes = 64;

#if defined(VLLM_PD_X86)

/**
 * Where line `i` of `num_lines` is. What a core reads ahead it reads ahead within a page, so it waits less for memory when
 * it goes through four pages in turns; the lines behind the last four pages follow in order.
 */
inline size_t offset_of_line(size_t i, size_t num_lines) {
  constexpr size_t kGroup = 4 * 64;
  if (i >= num_lines / kGroup * kGroup) return i * kLineBytes;
  const size_t page = i % 4;
  const size_t line_of_page = i % kGroup / 4;
  return (i / kGroup * kGroup + page * 64 + line_of_page) * kLineBytes;
}

__attribute__((target("avx512f"))) void stream_lines_avx512(uint8_t* to, const uint8_t* from, size_t num_lines) {
  for (size_t i = 0; i < num_lines; ++i) {
    const size_t at = offset_of_line(i, num_lines);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at), _mm512_loadu_si512(from + at));
  }
  _mm_sfence();
}

__attribute__((target("avx2"))) void stream_lines_avx2(uint8_t* to, const uint8_t* from, size_t num_lines) {
  for (size_t i = 0; i < num_lines; ++i) {
    const size_t at = offset_of_line(i, num_lines);
    const auto* source = reinterpret_cast<const __m256i*>(from + at);
    const __m256i low = _mm256_loadu_si256(source);
    const __m256i high = _mm256_loadu_si256(source + 1);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + at), low);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + at + 32), high);
  }
  _mm_sfence();
}

#endif

using StreamLines = void (*)(uint8_t* to, const uint8_t* from, size_t num_lines);

StreamLines choose_stream_lines() {
#if defined(VLLM_PD_X86)
  if (__builtin_cpu_supports("avx512f")) return stream_lines_avx512;
  if (__builtin_cpu_supports("avx2")) return stream_lines_avx2;
#endif
  return nullptr;
}

}  // namespace

void stream_copy(uint8_t* to, const uint8_t* from, size_t num_bytes) {
  static const StreamLines stream_lines = choose_stream_lines();
  if (stream_lines == nullptr) {
    std::memcpy(to, from, num_bytes);
    return;
  }
  const size_t misaligned = reinterpret_cast<uintptr_t>(to) % kLineBytes;
  const size_t head = misaligned == 0 ? 0 : std::min(num_bytes, kLineBytes - misaligned);
  const size_t num_lines = (num_bytes - head) / kLineBytes;
  const size_t body = num_lines * kLineBytes;
  std::memcpy(to, from, head);
  stream_lines(to + head, from + head, num_lines);
  std::memcpy(to + head + body, from + head + body, num_bytes - head - body);
}

size_t stream_copy_min_bytes() {
  // Half of a core's own cache: source and destination are both in the way.
  static const long own_level = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return own_level > 0 ? static_cast<size_t>(own_level) / 2 : size_t{1} << 20;
}

}  // namespace vllm_pd
