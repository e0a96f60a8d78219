// rotate_and_cache: q and k are normed where asked and rotated, q in place, k and v into the pool. Grid
// (num_tokens, warps of heads), 128 threads: one warp a head, of q, then k, then v.
#include "cuda/args.h"
#include "cuda/vectors.h"

namespace vllm_pd::cuda {

/** Pairs of elements that a lane holds at most. */
constexpr int kPairs = kMaxHeadDim / 2 / 32;

/**
 * How a head's elements pair up: pair i below `rotated` is elements i and i + rotated, the others are those behind the
 * rotated ones, in any order.
 */
struct Pairing {
  int half;     // head_dim / 2: all pairs
  int rotated;  // rotary_dim / 2: those that are rotated

  VLLM_PD_DEVICE int low(int i) const { return i < rotated ? i : i + rotated; }
  VLLM_PD_DEVICE int high(int i) const { return i < rotated ? i + rotated : i + half; }
};

struct RotaryHead {
  float low[kPairs];
  float high[kPairs];
};

template <typename T>
VLLM_PD_DEVICE RotaryHead load_head(const T* from, Pairing pairs, int lane) {
  RotaryHead head;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = lane + 32 * j;
    head.low[j] = i < pairs.half ? to_float(from[pairs.low(i)]) : 0.0f;
    head.high[j] = i < pairs.half ? to_float(from[pairs.high(i)]) : 0.0f;
  }
  return head;
}

template <typename T>
VLLM_PD_DEVICE void store_head(const RotaryHead& head, T* to, Pairing pairs, int lane, float factor) {
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = lane + 32 * j;
    if (i >= pairs.half) continue;
    to[pairs.low(i)] = from_float<T>(head.low[j] * factor);
    to[pairs.high(i)] = from_float<T>(head.high[j] * factor);
  }
}

VLLM_PD_DEVICE void norm_head(RotaryHead& head, const float* weight, Pairing pairs, int lane, float eps) {
  float squares = 0.0f;
#pragma unroll
  for (int j = 0; j < kPairs; ++j)
    squares = fused(head.high[j], head.high[j], fused(head.low[j], head.low[j], squares));
  const float mean = warp_sum(squares) / static_cast<float>(2 * pairs.half);
  const float factor = 1.0f / square_root(mean + eps);
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = lane + 32 * j;
    if (i >= pairs.half) continue;
    head.low[j] = head.low[j] * factor * weight[pairs.low(i)];
    head.high[j] = head.high[j] * factor * weight[pairs.high(i)];
  }
}

VLLM_PD_DEVICE void rotate_head(RotaryHead& head, const float* cos, const float* sin, int rotated, int lane) {
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = lane + 32 * j;
    if (i >= rotated) continue;
    const float low = head.low[j];
    const float high = head.high[j];
    head.low[j] = low * cos[i] - high * sin[i];
    head.high[j] = high * cos[i] + low * sin[i];
  }
}

template <typename T, typename Kv>
VLLM_PD_DEVICE void rotate_and_cache(const RotateAndCacheArgs& args) {
  const int64_t token = blockIdx.x;
  const int64_t slot = args.slot_mapping[token];
  const int head_index = static_cast<int>(blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32);
  const HeadsArgs& heads = args.heads;
  const int num_all = heads.num_heads + 2 * heads.num_kv_heads;
  if (slot < 0 || head_index >= num_all) return;
  const int lane = threadIdx.x % 32;
  const Pairing pairs{heads.head_dim / 2, args.rotary_dim / 2};
  T* const row = static_cast<T*>(args.qkv) + (token * num_all + head_index) * heads.head_dim;
  RotaryHead head = load_head(row, pairs, lane);
  const bool is_query = head_index < heads.num_heads;
  const bool is_value = head_index >= heads.num_heads + heads.num_kv_heads;
  if (!is_value) {
    const float* const norm = is_query ? args.q_norm : args.k_norm;
    const int64_t angles = static_cast<int64_t>(args.positions[token]) * pairs.rotated;
    if (norm != nullptr) norm_head(head, norm, pairs, lane, args.norm_eps);
    if (pairs.rotated > 0) rotate_head(head, args.cos + angles, args.sin + angles, pairs.rotated, lane);
  }
  if (is_query) {
    store_head(head, row, pairs, lane, 1.0f);
    return;
  }
  const KvLayerArgs& kv = args.kv;
  const int64_t kv_head = (head_index - heads.num_heads) % heads.num_kv_heads;
  const int64_t offset = slot / kv.block_size * kv.block_stride +
                         (kv_head * kv.block_size + slot % kv.block_size) * heads.head_dim;
  Kv* const to = static_cast<Kv*>(is_value ? kv.values : kv.keys) + offset;
  store_head(head, to, pairs, lane, 1.0f / (is_value ? kv.v_scale : kv.k_scale));
}

VLLM_PD_KERNEL(rotate_and_cache_bf16, RotateAndCacheArgs, 128) { rotate_and_cache<BF16, BF16>(args); }
VLLM_PD_KERNEL(rotate_and_cache_f16, RotateAndCacheArgs, 128) { rotate_and_cache<F16, F16>(args); }
VLLM_PD_KERNEL(rotate_and_cache_bf16_e4m3, RotateAndCacheArgs, 128) { rotate_and_cache<BF16, E4M3>(args); }
VLLM_PD_KERNEL(rotate_and_cache_f16_e4m3, RotateAndCacheArgs, 128) { rotate_and_cache<F16, E4M3>(args); }

}  // namespace vllm_pd::cuda
