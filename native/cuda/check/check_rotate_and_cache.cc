// rotate_and_cache: what q becomes, what the pool then holds, and what it leaves alone.
#include <cmath>

#include "cuda/check/lab.h"

namespace vllm_pd::cuda::checks {
namespace {

constexpr int64_t kBlockSize = 4;
constexpr int64_t kNumBlocks = 6;
constexpr int64_t kNumLayers = 2;
constexpr int64_t kLayer = 1;
constexpr int64_t kTokens = 7;
constexpr float kEps = 1e-6f;

struct Setup {
  HeadsArgs heads;
  int32_t rotary_dim;
  bool norms;
  std::vector<float> cos;
  std::vector<float> sin;
  std::vector<float> q_norm;
  std::vector<float> k_norm;
};

/** One head in float64, normed where `norm` is not empty and rotated. */
std::vector<double> rotated(const float* head, const Setup& setup, const std::vector<float>& norm, int64_t position) {
  const int64_t dim = setup.heads.head_dim;
  const int64_t half = setup.rotary_dim / 2;
  std::vector<double> x(head, head + dim);
  if (!norm.empty()) {
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(dim) + kEps);
    for (int64_t i = 0; i < dim; ++i) x[i] *= factor * norm[i];
  }
  std::vector<double> out(x);
  for (int64_t i = 0; i < half; ++i) {
    const double cos = setup.cos[position * half + i];
    const double sin = setup.sin[position * half + i];
    out[i] = x[i] * cos - x[half + i] * sin;
    out[half + i] = x[half + i] * cos + x[i] * sin;
  }
  return out;
}

std::vector<float> pool_values(Lab& lab, KvType kv, ElementType type, const DeviceMemory& pool, int64_t count) {
  if (kv != KvType::kE4M3) return lab.download_values(type, pool, count);
  std::vector<float> values;
  for (const uint8_t bits : lab.download<uint8_t>(pool, count)) values.push_back(to_float(E4M3{bits}));
  return values;
}

void check_of(Lab& lab, ElementType type, KvType kv, const HeadsArgs& heads, int32_t rotary_dim, bool norms) {
  const int64_t dim = heads.head_dim;
  const int64_t num_all = heads.num_heads + 2 * heads.num_kv_heads;
  constexpr int64_t kPositions = 40;
  const Setup setup{heads,
                    rotary_dim,
                    norms,
                    lab.floats(kPositions * rotary_dim / 2),
                    lab.floats(kPositions * rotary_dim / 2),
                    norms ? lab.floats(dim, 2.0f) : std::vector<float>{},
                    norms ? lab.floats(dim, 2.0f) : std::vector<float>{}};
  const Tensor qkv = lab.tensor(type, kTokens * num_all * dim);
  std::vector<int32_t> positions;
  const std::vector<int32_t> slots = lab.random.shuffled(kNumBlocks * kBlockSize);
  std::vector<int64_t> slot_mapping;
  for (int64_t token = 0; token < kTokens; ++token) {
    positions.push_back(static_cast<int32_t>(lab.random.below(kPositions)));
    slot_mapping.push_back(token == 3 ? -1 : slots[token]);
  }
  const float k_scale = kv == KvType::kE4M3 ? 0.5f : 1.0f;
  const float v_scale = kv == KvType::kE4M3 ? 0.25f : 1.0f;

  const int64_t plane = heads.num_kv_heads * kBlockSize * dim;
  const int64_t block = kNumLayers * 2 * plane;
  const int64_t element_bytes = kv_element_bytes(kv);
  std::vector<uint8_t> empty(static_cast<size_t>(kNumBlocks * block * element_bytes), 0);
  const DeviceMemory pool = lab.upload(empty);
  const DeviceMemory qkv_memory = lab.upload(qkv.bits);
  const DeviceMemory cos = lab.upload(setup.cos);
  const DeviceMemory sin = lab.upload(setup.sin);
  const DeviceMemory q_norm = lab.upload(setup.q_norm);
  const DeviceMemory k_norm = lab.upload(setup.k_norm);
  const DeviceMemory positions_memory = lab.upload(positions);
  const DeviceMemory slots_memory = lab.upload(slot_mapping);
  RotateAndCacheArgs args{};
  args.qkv = qkv_memory.as<void>();
  args.cos = cos.as<float>();
  args.sin = sin.as<float>();
  args.q_norm = norms ? q_norm.as<float>() : nullptr;
  args.k_norm = norms ? k_norm.as<float>() : nullptr;
  args.positions = positions_memory.as<int32_t>();
  args.slot_mapping = slots_memory.as<int64_t>();
  args.kv.keys = pool.as<uint8_t>() + kLayer * 2 * plane * element_bytes;
  args.kv.values = pool.as<uint8_t>() + (kLayer * 2 + 1) * plane * element_bytes;
  args.kv.block_stride = block;
  args.kv.block_size = kBlockSize;
  args.kv.k_scale = k_scale;
  args.kv.v_scale = v_scale;
  args.heads = heads;
  args.rotary_dim = rotary_dim;
  args.norm_eps = kEps;
  lab.kernels(type, kv).rotate_and_cache(args, kTokens, lab.stream().get());

  std::vector<double> want_qkv(qkv.values.begin(), qkv.values.end());
  std::vector<double> want_pool(static_cast<size_t>(kNumBlocks * block));
  for (int64_t token = 0; token < kTokens; ++token) {
    if (slot_mapping[token] < 0) continue;
    for (int64_t head = 0; head < num_all; ++head) {
      const int64_t at = (token * num_all + head) * dim;
      const bool is_query = head < heads.num_heads;
      const bool is_value = head >= heads.num_heads + heads.num_kv_heads;
      const std::vector<double> x =
          is_value ? std::vector<double>(qkv.values.begin() + at, qkv.values.begin() + at + dim)
                   : rotated(qkv.values.data() + at, setup, is_query ? setup.q_norm : setup.k_norm, positions[token]);
      const int64_t kv_head = (head - heads.num_heads) % heads.num_kv_heads;
      const int64_t slot = slot_mapping[token] / kBlockSize * block + (kLayer * 2 + (is_value ? 1 : 0)) * plane +
                           (kv_head * kBlockSize + slot_mapping[token] % kBlockSize) * dim;
      for (int64_t i = 0; i < dim; ++i) {
        if (is_query) {
          want_qkv[at + i] = x[i];
        } else {
          want_pool[slot + i] = x[i] / (is_value ? v_scale : k_scale);
        }
      }
    }
  }
  const std::string what = std::string("rotate_and_cache ") + name_of(type) + ", KV " + name_of(kv) + ", head_dim " +
                           std::to_string(dim) + ", rotated " + std::to_string(rotary_dim) + (norms ? ", q/k norm" : "");
  lab.close(what + ": q", lab.download_values(type, qkv_memory, kTokens * num_all * dim), want_qkv, 1e-6,
            1.02 * half_unit(type));
  // e4m3 has four bits of precision, and units of 2^-9 at the least.
  const bool fp8 = kv == KvType::kE4M3;
  lab.close(what + ": pool", pool_values(lab, kv, type, pool, kNumBlocks * block), want_pool, fp8 ? 0x1.01p-10 : 1e-6,
            fp8 ? 1.001 / 16 : 1.02 * half_unit(type));
}

}  // namespace

void check_rotate_and_cache(Lab& lab) {
  check_of(lab, ElementType::kBF16, KvType::kBF16, {4, 2, 64}, 64, false);
  check_of(lab, ElementType::kF16, KvType::kF16, {3, 1, 24}, 24, true);
  check_of(lab, ElementType::kBF16, KvType::kE4M3, {5, 5, 16}, 16, true);
  check_of(lab, ElementType::kF16, KvType::kE4M3, {2, 1, 128}, 128, true);
  check_of(lab, ElementType::kBF16, KvType::kBF16, {4, 2, 64}, 16, true);
  check_of(lab, ElementType::kF16, KvType::kF16, {2, 2, 80}, 64, false);
  check_of(lab, ElementType::kBF16, KvType::kBF16, {4, 2, 32}, 0, true);
}

}  // namespace vllm_pd::cuda::checks
