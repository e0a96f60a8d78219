// How the kernels are launched: each function chooses variant, grid, threads and shared memory for its args (args.h,
// which gives every shape) and puts the launch into a stream. Nothing here waits; all can be captured into a graph.
// Sizes that no kernel takes throw NOT_SUPPORTED.
#pragma once

#include <string>

#include "cuda/args.h"
#include "cuda/device.h"

namespace vllm_pd::cuda {

/** What weights and activations are, T in args.h. */
enum class ElementType { kBF16, kF16 };
/** What a pool holds. */
enum class KvType { kBF16, kF16, kE4M3 };

/** Bytes of one KV element. */
constexpr int64_t kv_element_bytes(KvType type) { return type == KvType::kE4M3 ? 1 : 2; }

/** What this family of kernels needs of a model; throws NOT_SUPPORTED with the dimension at fault. */
void check_shape(const HeadsArgs& heads, int64_t hidden_size, int64_t intermediate_size);

class Kernels {
 public:
  /** `kv` is E4M3 or the same type as `element`. */
  Kernels(std::shared_ptr<Device> device, ElementType element, KvType kv);

  const std::shared_ptr<Device>& device() const { return device_; }

  void embed(const EmbedArgs& args, int64_t num_rows, CUstream stream);
  void rms_norm(const RmsNormArgs& args, int64_t num_rows, CUstream stream);
  void gather_rows(const GatherRowsArgs& args, int64_t num_rows, CUstream stream);
  void swiglu(const SwigluArgs& args, int64_t num_rows, CUstream stream);
  void matmul(const MatmulArgs& args, CUstream stream);
  void rotate_and_cache(RotateAndCacheArgs args, int64_t num_tokens, CUstream stream);
  /** `args.tiles` has `num_tiles` rows; longest contexts first spreads the work best. */
  void paged_attention_prefill(AttentionArgs args, int64_t num_tiles, CUstream stream);
  /** One token a request, both kernels. `args.num_segments` fixes the grid, so a captured launch serves all
   * contexts up to num_segments * kSegmentKeys tokens. */
  void paged_attention_decode(AttentionArgs args, int64_t num_requests, CUstream stream);
  void sample(const SampleArgs& args, int64_t num_rows, CUstream stream);
  void copy_blocks(const CopyBlocksArgs& args, CUstream stream);
  /** `from` and `to`: f32, bf16, f16, e4m3; one of them f32. */
  void convert(const ConvertArgs& args, const char* from, const char* to, CUstream stream);

 private:
  void launch(const std::string& kernel, int64_t grid_x, int64_t grid_y, int64_t grid_z, int num_threads,
              int64_t shared_bytes, const void* args, CUstream stream);

  std::shared_ptr<Device> device_;
  std::string element_;  // as in kernels' names
  std::string kv_;       // likewise: bf16, bf16_e4m3, …
};

/** Tokens of one request that fit a prefill tile. */
int64_t tokens_per_tile(const HeadsArgs& heads);
/** Floats that `running` needs for a launch of `num_tiles`. */
int64_t prefill_scratch_floats(const HeadsArgs& heads, int64_t num_tiles);
int64_t num_segments(int64_t max_context_tokens);

}  // namespace vllm_pd::cuda
