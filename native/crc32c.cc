// CRC-32C by tables of eight bytes, by SSE4.2 over three streams at once, and by folding.
#include "crc32c.h"

#include <array>
#include <cstring>

#include "crc32c_fold.h"

#ifdef VLLM_PD_X86
#include <nmmintrin.h>
#endif

namespace vllm_pd {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;

using ByteTable = std::array<uint32_t, 256>;

/** [k][b]: what byte b leaves in the register once k more bytes of zeros have gone through. */
std::array<ByteTable, 8> slicing_tables() {
  std::array<ByteTable, 8> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? kPolynomial : 0);
    tables[0][byte] = crc;
  }
  for (size_t k = 1; k < tables.size(); ++k) {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 255];
    }
  }
  return tables;
}

/** On the register itself, which is the checksum inverted. */
uint32_t run_portable(uint32_t crc, const uint8_t* at, size_t num_bytes) {
  static const std::array<ByteTable, 8> tables = slicing_tables();
  for (; num_bytes >= 8; num_bytes -= 8, at += 8) {
    uint32_t next = 0;
    for (int k = 0; k < 4; ++k) next ^= tables[7 - k][((crc >> (8 * k)) & 255) ^ at[k]];
    for (int k = 4; k < 8; ++k) next ^= tables[7 - k][at[k]];
    crc = next;
  }
  for (; num_bytes > 0; --num_bytes, ++at) crc = (crc >> 8) ^ tables[0][(crc ^ *at) & 255];
  return crc;
}

#ifdef VLLM_PD_X86

/** The instruction takes one cycle to start and three to end, so three streams keep it busy. */
constexpr int kNumStreams = 3;
constexpr size_t kLongBytes = 4096;
constexpr size_t kShortBytes = 256;

/** Takes a register past a stream's length of zeros: linear, so one table for each of its four bytes. */
class Shift {
 public:
  explicit Shift(size_t num_bytes) {
    std::array<uint32_t, 32> of_bit{};
    const std::array<uint8_t, 64> zeros{};
    for (int bit = 0; bit < 32; ++bit) {
      of_bit[bit] = 1u << bit;
      for (size_t at = 0; at < num_bytes; at += zeros.size()) {
        of_bit[bit] = run_portable(of_bit[bit], zeros.data(), zeros.size());
      }
    }
    for (int k = 0; k < 4; ++k) {
      for (uint32_t byte = 0; byte < 256; ++byte) {
        for (int bit = 0; bit < 8; ++bit) {
          if (byte >> bit & 1) tables_[k][byte] ^= of_bit[8 * k + bit];
        }
      }
    }
  }

  uint32_t operator()(uint32_t crc) const {
    return tables_[0][crc & 255] ^ tables_[1][crc >> 8 & 255] ^ tables_[2][crc >> 16 & 255] ^ tables_[3][crc >> 24];
  }

 private:
  std::array<ByteTable, 4> tables_{};
};

uint64_t word_at(const uint8_t* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

/** As many times three streams of `kBytes`, which lie one behind the other, as there are. */
template <size_t kBytes>
__attribute__((target("sse4.2"))) uint32_t run_streams(uint32_t crc, const uint8_t*& at, size_t& num_bytes) {
  static const Shift shift(kBytes);
  while (num_bytes >= kNumStreams * kBytes) {
    uint64_t a = crc;
    uint64_t b = 0;
    uint64_t c = 0;
    for (size_t i = 0; i < kBytes; i += 8) {
      a = _mm_crc32_u64(a, word_at(at + i));
      b = _mm_crc32_u64(b, word_at(at + kBytes + i));
      c = _mm_crc32_u64(c, word_at(at + 2 * kBytes + i));
    }
    crc = shift(shift(static_cast<uint32_t>(a)) ^ static_cast<uint32_t>(b)) ^ static_cast<uint32_t>(c);
    at += kNumStreams * kBytes;
    num_bytes -= kNumStreams * kBytes;
  }
  return crc;
}

__attribute__((target("sse4.2"))) uint32_t run_sse42(uint32_t crc, const uint8_t* at, size_t num_bytes) {
  crc = run_streams<kLongBytes>(crc, at, num_bytes);
  crc = run_streams<kShortBytes>(crc, at, num_bytes);
  uint64_t wide = crc;
  for (; num_bytes >= 8; num_bytes -= 8, at += 8) wide = _mm_crc32_u64(wide, word_at(at));
  crc = static_cast<uint32_t>(wide);
  for (; num_bytes > 0; --num_bytes, ++at) crc = _mm_crc32_u8(crc, *at);
  return crc;
}

uint32_t run_folded(uint32_t crc, const uint8_t* at, size_t num_bytes) {
  crc = fold_crc32c(crc, at, num_bytes);
  return run_sse42(crc, at, num_bytes);
}

#endif

using Run = uint32_t (*)(uint32_t, const uint8_t*, size_t);

Run choose_instruction() {
#ifdef VLLM_PD_X86
  if (__builtin_cpu_supports("sse4.2")) return run_sse42;
#endif
  return run_portable;
}

Run choose() {
#ifdef VLLM_PD_X86
  if (can_fold_crc32c()) return run_folded;
#endif
  return choose_instruction();
}

}  // namespace

uint32_t crc32c(uint32_t crc, const void* data, size_t num_bytes) {
  static const Run run = choose();
  return ~run(~crc, static_cast<const uint8_t*>(data), num_bytes);
}

uint32_t crc32c_by_instruction(uint32_t crc, const void* data, size_t num_bytes) {
  return ~choose_instruction()(~crc, static_cast<const uint8_t*>(data), num_bytes);
}

uint32_t crc32c_portable(uint32_t crc, const void* data, size_t num_bytes) {
  return ~run_portable(~crc, static_cast<const uint8_t*>(data), num_bytes);
}

}  // namespace vllm_pd
