// Rates of single kernels on the device, each beside what the same run measured as its limit; JSON, one line a figure.
// Exit code 77 where there is no device. `--small` for the emulated driver, whose rates say nothing.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>

#include "cuda/cublaslt.h"
#include "cuda/device_memory.h"
#include "cuda/launch.h"
#include "cuda/stream.h"
#include "error.h"

namespace vllm_pd::cuda {
namespace {

constexpr int kRounds = 9;
constexpr int64_t kBlockSize = 16;

struct Bench {
  std::shared_ptr<Device> device = shared_device();
  Stream stream{device};
  Kernels kernels{device, ElementType::kBF16, KvType::kBF16};
  bool small = false;

  DeviceMemory zeros(int64_t num_bytes) const {
    DeviceMemory memory(device, num_bytes);
    stream.fill(memory.address(), 0, num_bytes);
    return memory;
  }
  template <typename T>
  DeviceMemory upload(const std::vector<T>& values) const {
    DeviceMemory memory(device, static_cast<int64_t>(values.size() * sizeof(T)));
    stream.to_device(memory.address(), values.data(), memory.num_bytes());
    stream.synchronize();
    return memory;
  }

  /** Median seconds, warmed up. */
  double seconds(const std::function<void()>& work) const {
    work();
    std::vector<double> times;
    for (int round = 0; round < kRounds; ++round) {
      Event begin(device, true);
      Event end(device, true);
      begin.record(stream);
      work();
      end.record(stream);
      end.synchronize();
      times.push_back(std::max(1e-9, end.milliseconds_since(begin) * 1e-3));
    }
    std::sort(times.begin(), times.end());
    return times[kRounds / 2];
  }
};

void print(const char* figure, double rate, const char* unit, double limit, const char* limit_is) {
  std::printf("{\"figure\":\"%s\",\"rate\":%.6g,\"unit\":\"%s\",\"limit\":%.6g,\"limit_is\":\"%s\",\"ratio\":%.4f}\n",
              figure, rate, unit, limit, limit_is, rate / limit);
}

/** Bytes a second of one large copy, read and written counted once each. */
double large_copy(const Bench& bench, int64_t num_bytes) {
  const DeviceMemory from = bench.zeros(num_bytes);
  const DeviceMemory to = bench.zeros(num_bytes);
  const double time = bench.seconds([&] { bench.stream.copy(to.address(), from.address(), num_bytes); });
  return 2.0 * static_cast<double>(num_bytes) / time;
}

/** Blocks of Qwen3-8B's shape between fragmented ids, of one pool to another. */
void block_copy(Bench& bench, double bandwidth, int64_t pool_bytes) {
  const int64_t block_bytes = (bench.small ? 1 : 36) * 2 * 8 * kBlockSize * 128 * 2;
  const int64_t num_blocks = std::max<int64_t>(4, pool_bytes / block_bytes);
  const DeviceMemory from = bench.zeros(num_blocks * block_bytes);
  const DeviceMemory to = bench.zeros(num_blocks * block_bytes);
  std::vector<int32_t> ids(num_blocks);
  for (int64_t i = 0; i < num_blocks; ++i) ids[i] = static_cast<int32_t>((i * 7919) % num_blocks);
  if (std::gcd<int64_t>(num_blocks, 7919) != 1) std::iota(ids.rbegin(), ids.rend(), 0);
  const DeviceMemory from_ids = bench.upload(ids);
  std::reverse(ids.begin(), ids.end());
  const DeviceMemory to_ids = bench.upload(ids);
  const CopyBlocksArgs args{from.as<void>(),         to.as<void>(), from_ids.as<int32_t>(),
                            to_ids.as<int32_t>(), num_blocks,    block_bytes};
  const double time = bench.seconds([&] { bench.kernels.copy_blocks(args, bench.stream.get()); });
  print("block copy, fragmented ids", 2.0 * static_cast<double>(num_blocks * block_bytes) / time, "B/s", bandwidth,
        "one large device-to-device copy");
}

struct Attention {
  HeadsArgs heads{32, 8, 128};
  DeviceMemory qkv, out, positions, tables, cu_blocks, tiles, running, partial_out, partial_max, partial_sum, pool;
  AttentionArgs args{};

  /** `num_requests` of `num_tokens` each behind `context - num_tokens` others, one layer. */
  Attention(Bench& bench, int64_t num_requests, int64_t num_tokens, int64_t context) {
    const int64_t blocks = (context + kBlockSize - 1) / kBlockSize;
    const int64_t block_elements = 2 * heads.num_kv_heads * kBlockSize * heads.head_dim;
    const int64_t tokens = num_requests * num_tokens;
    std::vector<int32_t> at, table, cu{0};
    std::vector<AttentionTile> cut;
    const auto tile_tokens = static_cast<int32_t>(tokens_per_tile(heads));
    for (int64_t request = 0; request < num_requests; ++request) {
      for (int64_t i = 0; i < num_tokens; ++i) at.push_back(static_cast<int32_t>(context - num_tokens + i));
      for (int64_t i = 0; i < blocks; ++i) table.push_back(static_cast<int32_t>(request * blocks + i));
      cu.push_back(static_cast<int32_t>(table.size()));
      for (int64_t i = num_tokens; i > 0; i -= tile_tokens) {
        const auto count = static_cast<int32_t>(std::min<int64_t>(tile_tokens, i));
        cut.push_back({static_cast<int32_t>(request), static_cast<int32_t>(request * num_tokens + i - count), count});
      }
    }
    pool = bench.zeros(num_requests * blocks * block_elements * 2);
    qkv = bench.zeros(tokens * (heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim * 2);
    out = bench.zeros(tokens * heads.num_heads * heads.head_dim * 2);
    positions = bench.upload(at);
    tables = bench.upload(table);
    cu_blocks = bench.upload(cu);
    tiles = bench.upload(cut);
    running = bench.zeros(prefill_scratch_floats(heads, static_cast<int64_t>(cut.size())) * 4);
    const int64_t partials = num_requests * heads.num_heads * num_segments(context);
    partial_out = bench.zeros(partials * heads.head_dim * 4);
    partial_max = bench.zeros(partials * 4);
    partial_sum = bench.zeros(partials * 4);
    args.qkv = qkv.as<void>();
    args.out = out.as<void>();
    args.positions = positions.as<int32_t>();
    args.block_tables = tables.as<int32_t>();
    args.cu_blocks = cu_blocks.as<int32_t>();
    args.kv.keys = pool.as<void>();
    args.kv.values = pool.as<uint8_t>() + block_elements;
    args.kv.block_stride = block_elements;
    args.kv.block_size = kBlockSize;
    args.kv.k_scale = args.kv.v_scale = 1;
    args.heads = heads;
    args.softmax_scale = 1.0f / std::sqrt(128.0f);
    args.tiles = tiles.as<AttentionTile>();
    args.running = running.as<float>();
    args.num_segments = static_cast<int32_t>(num_segments(context));
    args.partial_out = partial_out.as<float>();
    args.partial_max = partial_max.as<float>();
    args.partial_sum = partial_sum.as<float>();
    num_tiles = static_cast<int64_t>(cut.size());
  }
  int64_t num_tiles = 0;
};

void attention_decode(Bench& bench, double bandwidth) {
  const int64_t requests = bench.small ? 2 : 32;
  const int64_t context = bench.small ? 64 : 8192;
  Attention attention(bench, requests, 1, context);
  const double time =
      bench.seconds([&] { bench.kernels.paged_attention_decode(attention.args, requests, bench.stream.get()); });
  print("attention decode, batch 32 x 8k", static_cast<double>(requests * context * 2 * 8 * 128 * 2) / time, "B/s",
        bandwidth, "one large device-to-device copy");
}

void attention_prefill(Bench& bench, double matmul_rate) {
  const int64_t tokens = bench.small ? 48 : 8192;
  Attention attention(bench, 1, tokens, tokens);
  const double time = bench.seconds([&] {
    bench.kernels.paged_attention_prefill(attention.args, attention.num_tiles, bench.stream.get());
  });
  // Causal: half of all pairs, two products each.
  const double flops = 2.0 * static_cast<double>(tokens) * static_cast<double>(tokens) * 128 * 32;
  print("attention prefill, 8k causal", flops / time, "FLOP/s", matmul_rate, "the fastest bf16 product");
}

/** Returns the fastest rate; prints the own kernel's beside it. */
double matmul(Bench& bench) {
  const int64_t rows = bench.small ? 32 : 8192;
  const int64_t n = bench.small ? 64 : 12288;
  const int64_t k = bench.small ? 64 : 4096;
  const DeviceMemory a = bench.zeros(rows * k * 2);
  const DeviceMemory w = bench.zeros(n * k * 2);
  const DeviceMemory out = bench.zeros(rows * n * 2);
  const MatmulArgs args{a.as<void>(), w.as<void>(), nullptr, out.as<void>(), rows, n, k, MatmulOutput::kElements};
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(k);
  const double own = flops / bench.seconds([&] { bench.kernels.matmul(args, bench.stream.get()); });
  double fastest = own;
  if (why_no_cublaslt().empty()) {
    CublasLt lt(bench.device, ElementType::kBF16);
    if (lt.matmul(args, bench.stream.get()))
      fastest = std::max(own, flops / bench.seconds([&] { lt.matmul(args, bench.stream.get()); }));
  }
  print("own product, 8k rows", own, "FLOP/s", fastest, why_no_cublaslt().empty() ? "cuBLASLt" : "itself: no cuBLASLt");
  return fastest;
}

int run(bool small) {
  Bench bench;
  bench.small = small;
  const int64_t bytes = small ? 1 << 20 : int64_t{2} << 30;
  const double bandwidth = large_copy(bench, bytes);
  block_copy(bench, bandwidth, bytes);
  attention_decode(bench, bandwidth);
  const double rate = matmul(bench);
  attention_prefill(bench, rate);
  return 0;
}

}  // namespace
}  // namespace vllm_pd::cuda

int main(int argc, char** argv) {
  const vllm_pd::cuda::CudaFacts facts = vllm_pd::cuda::cuda_facts();
  if (!facts.why_not.empty()) {
    std::fprintf(stderr, "skipped: %s\n", facts.why_not.c_str());
    return 77;
  }
  try {
    return vllm_pd::cuda::run(argc > 1 && std::strcmp(argv[1], "--small") == 0);
  } catch (const vllm_pd::Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.code(), error.what());
    return 1;
  }
}
