// copy_blocks: KV blocks between pools, a peer's included, and between a pool and a run of staged blocks, on the
// device or in pinned host memory. Grid (pieces of kCopyBytes of all blocks), kCopyThreads threads.
#include "cuda/copy_pieces.h"
#include "cuda/dialect.h"

namespace vllm_pd::cuda {

/** All of a thread's loads are under way before its first store: they hide each other's latency. */
VLLM_PD_DEVICE void copy_piece(const uint4* from, uint4* to, int64_t num_vectors) {
  uint4 vectors[kCopyVectors];
#pragma unroll
  for (int i = 0; i < kCopyVectors; ++i) {
    const int64_t at = threadIdx.x + i * kCopyThreads;
    if (at < num_vectors) vectors[i] = from[at];
  }
#pragma unroll
  for (int i = 0; i < kCopyVectors; ++i) {
    const int64_t at = threadIdx.x + i * kCopyThreads;
    if (at < num_vectors) to[at] = vectors[i];
  }
}

VLLM_PD_KERNEL(copy_blocks, CopyBlocksArgs, kCopyThreads) {
  const int64_t pieces = (args.block_bytes + kCopyBytes - 1) / kCopyBytes;
  for (int64_t piece = blockIdx.x; piece < args.num_blocks * pieces; piece += gridDim.x) {
    const int64_t block = piece / pieces;
    const int64_t offset = piece % pieces * kCopyBytes;
    const int64_t left = args.block_bytes - offset;
    const int64_t from_id = args.from_ids ? args.from_ids[block] : block;
    const int64_t to_id = args.to_ids ? args.to_ids[block] : block;
    copy_piece(reinterpret_cast<const uint4*>(static_cast<const char*>(args.from) + from_id * args.block_bytes + offset),
               reinterpret_cast<uint4*>(static_cast<char*>(args.to) + to_id * args.block_bytes + offset),
               (left < kCopyBytes ? left : kCopyBytes) / 16);
  }
}

}  // namespace vllm_pd::cuda
