// Which way of copying blocks from afar is taken on this machine.
#pragma once

#include "stream_copy.h"

namespace vllm_pd {

/** The one of `long_copies` that was found to be the fastest, the first until then. */
Copy long_copy();

/** Finds it, once a process, in a few milliseconds on as many threads as reads use. From any thread. */
void find_long_copy(int num_threads);

}  // namespace vllm_pd
