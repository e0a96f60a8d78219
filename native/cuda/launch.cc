// Grids, threads and shared memory of each kernel.
#include "cuda/launch.h"

#include <algorithm>

#include "cuda/copy_pieces.h"
#include "cuda/matmul_tiles.h"
#include "cuda/sample_threads.h"
#include "error.h"

namespace vllm_pd::cuda {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/** Head dimension as compiled. */
int64_t padded_head_dim(const HeadsArgs& heads) { return heads.head_dim <= 64 ? 64 : kMaxHeadDim; }

std::string dim_suffix(const HeadsArgs& heads) { return "_" + std::to_string(padded_head_dim(heads)); }

int64_t attention_shared_bytes(const HeadsArgs& heads, int64_t rows) {
  return 2 * padded_head_dim(heads) * (rows + int64_t{kAttentionStages} * 2 * kTileKeys);
}

void fill_in_shift(KvLayerArgs& kv) {
  kv.block_shift = -1;
  for (int32_t shift = 0; shift < 31; ++shift) {
    if (kv.block_size == int32_t{1} << shift) kv.block_shift = shift;
  }
}

void need_multiple(const char* what, int64_t value) {
  if (value > 0 && value % kElementsOf16Bytes == 0) return;
  throw Error("NOT_SUPPORTED", std::string("On CUDA, expected ") + what + " to be a multiple of 8 but received " +
                                   std::to_string(value) + ".");
}

}  // namespace

void check_shape(const HeadsArgs& heads, int64_t hidden_size, int64_t intermediate_size) {
  need_multiple("hidden_size", hidden_size);
  need_multiple("intermediate_size", intermediate_size);
  need_multiple("head_dim", heads.head_dim);
  if (heads.head_dim > kMaxHeadDim) {
    throw Error("NOT_SUPPORTED", "On CUDA, expected a head_dim of at most " + std::to_string(kMaxHeadDim) +
                                     " but received " + std::to_string(heads.head_dim) + ".");
  }
  if (heads.num_heads / heads.num_kv_heads > kPrefillRows) {
    throw Error("NOT_SUPPORTED", "On CUDA, expected at most " + std::to_string(kPrefillRows) +
                                     " query heads to share a KV head but received " +
                                     std::to_string(heads.num_heads / heads.num_kv_heads) + ".");
  }
}

int64_t tokens_per_tile(const HeadsArgs& heads) { return kPrefillRows / (heads.num_heads / heads.num_kv_heads); }

int64_t prefill_scratch_floats(const HeadsArgs& heads, int64_t num_tiles) {
  return num_tiles * heads.num_kv_heads * kPrefillRows * padded_head_dim(heads);
}

int64_t num_segments(int64_t max_context_tokens) { return divide_up(max_context_tokens, kSegmentKeys); }

Kernels::Kernels(std::shared_ptr<Device> device, ElementType element, KvType kv)
    : device_(std::move(device)), element_(element == ElementType::kBF16 ? "bf16" : "f16"), kv_(element_) {
  if (kv == KvType::kE4M3) {
    kv_ += "_e4m3";
  } else if ((kv == KvType::kBF16) != (element == ElementType::kBF16)) {
    throw Error("NOT_SUPPORTED", "On CUDA, expected KV in fp8 or in the type of the weights, " + element_ + ".");
  }
}

void Kernels::launch(const std::string& kernel, int64_t grid_x, int64_t grid_y, int64_t grid_z, int num_threads,
                     int64_t shared_bytes, const void* args, CUstream stream) {
  device_->launch({kernel.c_str(), static_cast<uint32_t>(grid_x), static_cast<uint32_t>(grid_y),
                   static_cast<uint32_t>(grid_z), static_cast<uint32_t>(num_threads), shared_bytes, args},
                  stream);
}

void Kernels::embed(const EmbedArgs& args, int64_t num_rows, CUstream stream) {
  need_multiple("hidden_size", args.dim);
  launch("embed_" + element_, num_rows, 1, 1, 128, 0, &args, stream);
}

void Kernels::rms_norm(const RmsNormArgs& args, int64_t num_rows, CUstream stream) {
  need_multiple("hidden_size", args.dim);
  launch("rms_norm_" + element_, num_rows, 1, 1, 256, 32 * sizeof(float), &args, stream);
}

void Kernels::gather_rows(const GatherRowsArgs& args, int64_t num_rows, CUstream stream) {
  launch("gather_rows", num_rows, 1, 1, 256, 0, &args, stream);
}

void Kernels::swiglu(const SwigluArgs& args, int64_t num_rows, CUstream stream) {
  need_multiple("intermediate_size", args.dim);
  launch("swiglu_" + element_, num_rows, divide_up(args.dim, 256 * kElementsOf16Bytes), 1, 256, 0, &args, stream);
}

void Kernels::matmul(const MatmulArgs& args, CUstream stream) {
  need_multiple("the inner dimension", args.k);
  const auto with = [&](auto tiles, const char* name) {
    using Tiles = decltype(tiles);
    launch("matmul_" + std::string(name) + "_" + element_, divide_up(args.n, Tiles::kColumns),
           divide_up(args.num_rows, Tiles::kRows), 1, Tiles::kThreads, Tiles::kSharedBytes, &args, stream);
  };
  if (args.num_rows <= FewRows::kRows) {
    with(FewRows{}, "few");
  } else if (args.num_rows <= SomeRows::kRows) {
    with(SomeRows{}, "some");
  } else {
    with(ManyRows{}, "many");
  }
}

void Kernels::rotate_and_cache(RotateAndCacheArgs args, int64_t num_tokens, CUstream stream) {
  fill_in_shift(args.kv);
  constexpr int kWarps = 4;
  launch("rotate_and_cache_" + kv_, num_tokens,
         divide_up(args.heads.num_heads + 2 * args.heads.num_kv_heads, kWarps), 1, 32 * kWarps, 0, &args, stream);
}

void Kernels::paged_attention_prefill(AttentionArgs args, int64_t num_tiles, CUstream stream) {
  fill_in_shift(args.kv);
  launch("paged_attention_prefill_" + kv_ + dim_suffix(args.heads), num_tiles, args.heads.num_kv_heads, 1,
         kPrefillThreads, attention_shared_bytes(args.heads, kPrefillRows), &args, stream);
}

void Kernels::paged_attention_decode(AttentionArgs args, int64_t num_requests, CUstream stream) {
  fill_in_shift(args.kv);
  const HeadsArgs& heads = args.heads;
  const int64_t row_tiles = divide_up(heads.num_heads / heads.num_kv_heads, kDecodeRows);
  launch("paged_attention_decode_" + kv_ + dim_suffix(heads), args.num_segments, heads.num_kv_heads * row_tiles,
         num_requests, kDecodeThreads, attention_shared_bytes(heads, kDecodeRows), &args, stream);
  launch("paged_attention_reduce_" + element_, num_requests, heads.num_heads, 1, kMaxHeadDim, 0, &args, stream);
}

void Kernels::sample(const SampleArgs& args, int64_t num_rows, CUstream stream) {
  launch("sample", num_rows, 1, 1, kSampleThreads, kSampleSharedBytes, &args, stream);
}

void Kernels::copy_blocks(const CopyBlocksArgs& args, CUstream stream) {
  if (args.block_bytes % 16 != 0) {
    throw Error("NOT_SUPPORTED", "On CUDA, expected blocks of a multiple of 16 bytes but received " +
                                     std::to_string(args.block_bytes) + ".");
  }
  const int64_t pieces = args.num_blocks * divide_up(args.block_bytes, kCopyBytes);
  // Enough to fill the device several times over; each block of threads takes further pieces.
  const int64_t grid = std::min<int64_t>(pieces, 32 * int64_t{device_->info().num_multiprocessors});
  launch("copy_blocks", grid, 1, 1, kCopyThreads, 0, &args, stream);
}

void Kernels::convert(const ConvertArgs& args, const char* from, const char* to, CUstream stream) {
  const int64_t grid = std::min<int64_t>(divide_up(args.count, 256), 32 * int64_t{device_->info().num_multiprocessors});
  launch(std::string("convert_") + from + "_to_" + to, grid, 1, 1, 256, 0, &args, stream);
}

}  // namespace vllm_pd::cuda
