// Non-temporal stores, 64 bytes at a time.
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

__attribute__((target("avx512f"))) void stream_lines_avx512(uint8_t* to, const uint8_t* from, size_t num_lines) {
  for (size_t i = 0; i < num_lines; ++i) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i * kLineBytes), _mm512_loadu_si512(from + i * kLineBytes));
  }
  _mm_sfence();
}

__attribute__((target("avx2"))) void stream_lines_avx2(uint8_t* to, const uint8_t* from, size_t num_lines) {
  for (size_t i = 0; i < num_lines; ++i) {
    const auto* source = reinterpret_cast<const __m256i*>(from + i * kLineBytes);
    const __m256i low = _mm256_loadu_si256(source);
    const __m256i high = _mm256_loadu_si256(source + 1);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i * kLineBytes), low);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i * kLineBytes + 32), high);
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
  // Half of the last level: source and destination are both in the way.
  static const long last_level = std::max(sysconf(_SC_LEVEL3_CACHE_SIZE), sysconf(_SC_LEVEL2_CACHE_SIZE));
  return last_level > 0 ? static_cast<size_t>(last_level) / 2 : size_t{8} << 20;
}

}  // namespace vllm_pd
