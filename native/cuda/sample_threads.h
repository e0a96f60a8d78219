// Size of a block of threads that draws one row's token.
#pragma once

#include <cstdint>

namespace vllm_pd::cuda {

constexpr int kSampleThreads = 256;
constexpr int64_t kSampleSharedBytes = 8192;

}  // namespace vllm_pd::cuda
