// How much of a block one block of threads copies at a time.
#pragma once

#include "cuda/args.h"

namespace vllm_pd::cuda {

constexpr int kCopyThreads = 256;
constexpr int kCopyVectors = 4;
constexpr int64_t kCopyBytes = int64_t{16} * kCopyVectors * kCopyThreads;

}  // namespace vllm_pd::cuda
