// Names of many blocks at once: the chain that src/core/block-hash.ts defines, the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vllm_pd {

/**
 * hashes[i] = SHA-256(CBOR([hashes[i - 1], [token ids of block i], null])), behind `parent`. Shapes: parent (32),
 * token_ids (num_blocks, block_size), hex (num_blocks, 64) lower-case digits. `portable`: without the chip's SHA
 * instructions.
 */
void hash_blocks(const uint8_t* parent, const uint32_t* token_ids, size_t num_blocks, size_t block_size,
                 bool portable, char* hex);

}  // namespace vllm_pd
