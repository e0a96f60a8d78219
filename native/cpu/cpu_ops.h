// The CPU backend: splits each op over threads.
#pragma once

#include <memory>

#include "ops.h"

namespace vllm_pd::cpu {

/** With the kernels that isa.h chooses. Throws INVALID_ARGUMENT as it does. */
std::unique_ptr<Ops> make_ops(int num_threads);

}  // namespace vllm_pd::cpu
