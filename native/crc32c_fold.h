// CRC-32C of long runs by carry-less multiplication, 256 bytes a round.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vllm_pd {

/** Whether this machine has what `fold_crc32c` is made of. */
bool can_fold_crc32c();

/**
 * Takes whole rounds of 256 bytes off the front of the run, if there are a few; `crc` and what is returned are the
 * register itself, which is the checksum inverted.
 */
uint32_t fold_crc32c(uint32_t crc, const uint8_t*& at, size_t& num_bytes);

}  // namespace vllm_pd
