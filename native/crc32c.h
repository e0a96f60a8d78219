// CRC-32C (Castagnoli, reflected 0x1EDC6F41; RFC 3720): tells bytes that were damaged on their way.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vllm_pd {

/** Of these bytes behind those whose checksum is `crc`; 0 = behind none. As fast as the chip can. */
uint32_t crc32c(uint32_t crc, const void* data, size_t num_bytes);

/** The same by tables: what the others are checked against. */
uint32_t crc32c_portable(uint32_t crc, const void* data, size_t num_bytes);

/** The same by the chip's instruction alone, as on chips that cannot fold; by tables where there is none. */
uint32_t crc32c_by_instruction(uint32_t crc, const void* data, size_t num_bytes);

}  // namespace vllm_pd
