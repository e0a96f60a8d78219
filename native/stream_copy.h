// Copies of what lies in nobody's near cache, some of them past the caches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vllm_pd {

/**
 * As memcpy. `next`, if not null, is where this thread's next copy reads, a page at least. Other threads see the copy once
 * `end_copies` has been called behind it.
 */
using Copy = void (*)(uint8_t* to, const uint8_t* from, size_t num_bytes, const uint8_t* next);

/** By plain stores, which leave the copy in the caches. */
void plain_copy(uint8_t* to, const uint8_t* from, size_t num_bytes, const uint8_t* next);

/** All that this machine can; the first is taken where none was found to be faster. */
const std::vector<Copy>& long_copies();

/** To be called on each thread behind its copies. */
void end_copies();

/** From how many bytes in one go a long copy pays, a first reading of the destination included. */
size_t long_copy_min_bytes();

}  // namespace vllm_pd
