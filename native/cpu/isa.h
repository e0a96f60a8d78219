// Which of the compiled kernels this CPU runs.
#pragma once

#include "cpu/kernels.h"
#include "ops.h"

namespace vllm_pd::cpu {

/**
 * The kernels of the best instruction set that this CPU has: `amx`, `avx512_bf16`, `avx512_vnni`, `avx512`,
 * `avx2` or `portable`. The environment variable VLLM_PD_ISA overrides the choice; throws INVALID_ARGUMENT
 * when it names one that is unknown or not to be had here.
 */
const Kernels& chosen_kernels();

/** What weights are kept as unless somebody says otherwise: bfloat16 where AVX-512 or AMX multiply it. */
WeightType default_weight_type();

}  // namespace vllm_pd::cpu
