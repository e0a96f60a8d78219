// The CPU backend: splits each op over threads, and chooses the kernels for this machine.
#pragma once

#include <memory>

#include "cpu/kernels.h"
#include "ops.h"

namespace vllm_pd::cpu {

/**
 * The best instruction set that this CPU has: `avx512`, `avx2` or `portable`. The environment variable
 * VLLM_PD_ISA overrides the choice; throws INVALID_ARGUMENT when it names one that is unknown or not to be
 * had here.
 */
const char* chosen_isa();

/** The kernels of that instruction set. */
const Kernels& chosen_kernels();

std::unique_ptr<Ops> make_ops(int num_threads);

}  // namespace vllm_pd::cpu
