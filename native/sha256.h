// SHA-256 of messages that are already padded; with the chip's SHA instructions where it has them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vllm_pd {

constexpr size_t kSha256Bytes = 32;
/** The unit in which messages are digested. */
constexpr size_t kSha256ChunkBytes = 64;

/** Bytes of a message of `num_bytes` with its padding: a multiple of kSha256ChunkBytes. */
constexpr size_t sha256_padded_bytes(size_t num_bytes) {
  return (num_bytes + 9 + kSha256ChunkBytes - 1) / kSha256ChunkBytes * kSha256ChunkBytes;
}

/** Pads the message in place (`message` has room for sha256_padded_bytes(num_bytes)) and digests it. */
void sha256_in_place(uint8_t* message, size_t num_bytes, uint8_t* digest);

/** The same without them, for comparison. */
void sha256_in_place_portable(uint8_t* message, size_t num_bytes, uint8_t* digest);

/** HMAC-SHA256 of a message under a key of at most kSha256ChunkBytes. */
void hmac_sha256(const uint8_t* key, size_t num_key_bytes, const uint8_t* message, size_t num_bytes, uint8_t* digest);

}  // namespace vllm_pd
