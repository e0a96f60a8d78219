// What the emulated libraries have in common: work in the order of its stream, kept while a capture runs.
#pragma once

#include <functional>

#include "cuda/driver_api.h"

namespace vllm_pd::cuda::emulated {

/** Does `work` at once, or puts it into the graph that `stream` is capturing. */
void submit(CUstream stream, std::function<void()> work);

}  // namespace vllm_pd::cuda::emulated
