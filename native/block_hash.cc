// Canonical CBOR of blocks, one after the other in one buffer, and its hashes.
#include "block_hash.h"

#include <cstring>
#include <vector>

#include "sha256.h"

namespace vllm_pd {
namespace {

/** The upper three bits of a CBOR head. */
enum MajorType : uint8_t { kUnsigned = 0x00, kBytes = 0x40, kArray = 0x80 };
constexpr uint8_t kNull = 0xf6;

/** The shortest of the lengths that hold the value. */
uint8_t* write_head(uint8_t* out, MajorType type, uint32_t value) {
  if (value < 24) {
    out[0] = type | static_cast<uint8_t>(value);
    return out + 1;
  }
  if (value <= 0xff) {
    out[0] = type | 24;
    out[1] = static_cast<uint8_t>(value);
    return out + 2;
  }
  if (value <= 0xffff) {
    out[0] = type | 25;
    out[1] = static_cast<uint8_t>(value >> 8);
    out[2] = static_cast<uint8_t>(value);
    return out + 3;
  }
  out[0] = type | 26;
  for (int i = 1; i <= 4; ++i) out[i] = static_cast<uint8_t>(value >> (32 - 8 * i));
  return out + 5;
}

/** Computed rather than looked up, so that the compiler does many digits at once. */
char hex_digit(uint8_t value) { return static_cast<char>(value + (value < 10 ? '0' : 'a' - 10)); }

void write_hex(const uint8_t* hash, char* hex) {
  char digits[2 * kSha256Bytes];
  for (size_t i = 0; i < kSha256Bytes; ++i) {
    digits[2 * i] = hex_digit(hash[i] >> 4);
    digits[2 * i + 1] = hex_digit(hash[i] & 15);
  }
  std::memcpy(hex, digits, sizeof(digits));
}

}  // namespace

void hash_blocks(const uint8_t* parent, const uint32_t* token_ids, size_t num_blocks, size_t block_size,
                 bool portable, char* hex) {
  // Heads of at most 5 bytes each, the parent and the null; the padding on top.
  std::vector<uint8_t> message(sha256_padded_bytes(64 + 5 * block_size));
  uint8_t* const parent_at = write_head(write_head(message.data(), kArray, 3), kBytes, kSha256Bytes);
  uint8_t* const tokens_at =
      write_head(parent_at + kSha256Bytes, kArray, static_cast<uint32_t>(block_size));
  const auto digest = portable ? sha256_in_place_portable : sha256_in_place;
  std::memcpy(parent_at, parent, kSha256Bytes);
  for (size_t i = 0; i < num_blocks; ++i) {
    uint8_t* end = tokens_at;
    for (size_t j = 0; j < block_size; ++j) end = write_head(end, kUnsigned, token_ids[i * block_size + j]);
    *end++ = kNull;
    // The hash takes the parent's place: it is the next block's.
    digest(message.data(), end - message.data(), parent_at);
    write_hex(parent_at, hex + i * 2 * kSha256Bytes);
  }
}

}  // namespace vllm_pd
