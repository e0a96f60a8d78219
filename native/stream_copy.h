// Copies that leave the caches alone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vllm_pd {

/**
 * memcpy of bytes that no near cache holds: the destination is written past them, which spares reading it first. Its
 * bytes are visible to other threads like those of plain stores when this returns. Falls back to memcpy.
 */
void stream_copy(uint8_t* to, const uint8_t* from, size_t num_bytes);

/** From how many bytes in one go that pays, a first reading of the destination included. */
size_t stream_copy_min_bytes();

}  // namespace vllm_pd
