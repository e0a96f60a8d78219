// Single ops, and what the machine could do at most.
#include "probe.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "cpu/cpu_ops.h"
#include "cpu/isa.h"
#include "error.h"
#include "huge_floats.h"
#include "kv_cache.h"
#include "ops.h"
#include "socket_io.h"
#include "threads.h"

namespace vllm_pd {
namespace {

/** Floats in [-1, 1) that look random: row `seed` of a matrix. */
void fill(float* out, int64_t count, uint32_t seed) {
  uint32_t state = seed * 2654435761u + 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    out[i] = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
  }
}

/** The same as bfloat16, cut off. */
void fill_halves(uint16_t* out, int64_t count) {
  constexpr int64_t kRow = 4096;
  std::vector<float> row(kRow);
  for (int64_t i = 0; i < count; i += kRow) {
    fill(row.data(), kRow, static_cast<uint32_t>(i / kRow));
    for (int64_t j = 0; j < std::min(kRow, count - i); ++j) {
      uint32_t bits;
      std::memcpy(&bits, &row[j], sizeof(bits));
      out[i + j] = static_cast<uint16_t>(bits >> 16);
    }
  }
}

/** Where loops leave what they came to, so that no compiler leaves the loop out. */
struct alignas(64) Sink {
  volatile float value = 0;
};

class FmaProbe : public Probe {
 public:
  FmaProbe(int num_threads, int64_t num_fmas, WeightType type)
      : threads_(num_threads),
        fmas_a_thread_(num_fmas / num_threads),
        loop_(type == WeightType::kFloat32    ? cpu::chosen_kernels().fma_loop
              : type == WeightType::kBFloat16 ? cpu::chosen_kernels().bf16_loop
                                              : cpu::chosen_kernels().int8_loop),
        sinks_(num_threads) {}

  void run() override {
    threads_.parallel_for(threads_.num_threads(),
                          [&](int64_t, int thread) { sinks_[thread].value = loop_(fmas_a_thread_); });
  }

 private:
  ThreadPool threads_;
  int64_t fmas_a_thread_;
  float (*loop_)(int64_t count);
  std::vector<Sink> sinks_;
};

/** Splits [0, count) floats into pieces small enough that threads end together. */
template <typename Body>
void for_pieces(ThreadPool& threads, int64_t count, Body&& body) {
  const int64_t share = (count + threads.num_threads() - 1) / threads.num_threads();
  const int64_t piece = threads.num_threads() == 1 ? count : std::min<int64_t>(share, 256 * 1024);
  threads.parallel_for((count + piece - 1) / piece, [&](int64_t index, int thread) {
    body(index * piece, std::min(piece, count - index * piece), thread);
  });
}

class ReadProbe : public Probe {
 public:
  ReadProbe(int num_threads, int64_t num_bytes)
      : threads_(num_threads), count_(num_bytes / 4), floats_(count_), sinks_(num_threads) {
    fill(floats_.data(), count_, 1);
  }

  void run() override {
    for_pieces(threads_, count_, [&](int64_t begin, int64_t count, int thread) {
      sinks_[thread].value = cpu::chosen_kernels().read_loop(floats_.data() + begin, count);
    });
  }

 private:
  ThreadPool threads_;
  int64_t count_;
  HugeFloats floats_;
  std::vector<Sink> sinks_;
};

class CopyProbe : public Probe {
 public:
  CopyProbe(int num_threads, int64_t num_bytes)
      : threads_(num_threads), count_(num_bytes / 4), from_(count_), to_(count_) {
    fill(from_.data(), count_, 1);
    fill(to_.data(), count_, 2);
  }

  void run() override {
    for_pieces(threads_, count_, [&](int64_t begin, int64_t count, int) {
      std::memcpy(to_.data() + begin, from_.data() + begin, count * sizeof(float));
    });
  }

 private:
  ThreadPool threads_;
  int64_t count_;
  HugeFloats from_;
  HugeFloats to_;
};

class MatmulProbe : public Probe {
 public:
  MatmulProbe(int num_threads, int64_t num_rows, const MatrixShape& shape)
      : ops_(cpu::make_ops(num_threads)),
        num_rows_(num_rows),
        a_(num_rows * shape.k),
        out_(num_rows * shape.n) {
    const auto row = [](const void* context, int64_t index, float* out) {
      fill(out, *static_cast<const int64_t*>(context), static_cast<uint32_t>(index));
    };
    const auto packed = std::make_shared<HugeFloats>((ops_->packed_bytes(shape) + 3) / 4);
    auto* const bytes = reinterpret_cast<uint8_t*>(packed->data());
    ops_->pack(shape, row, &shape.k, bytes);
    weights_ = ops_->open(shape, bytes, packed);
    fill(a_.data(), num_rows * shape.k, 3);
  }

  void run() override { ops_->matmul(a_.data(), num_rows_, *weights_, nullptr, out_.data()); }

 private:
  std::unique_ptr<Ops> ops_;
  int64_t num_rows_;
  std::unique_ptr<PackedMatrix> weights_;
  std::vector<float> a_;    // (num_rows, k)
  std::vector<float> out_;  // (num_rows, n)
};

/** Requests with contexts in blocks of their own, `num_tokens` queries each. */
struct AttentionSizes {
  int64_t num_requests;
  int64_t num_tokens;
  int64_t num_context_tokens;
  int64_t num_layers;
  AttentionShape shape;
  int64_t block_size;
  KvDtype dtype;

  int64_t blocks_a_request() const { return (num_context_tokens + num_tokens + block_size - 1) / block_size; }
};

class AttentionProbe : public Probe {
 public:
  AttentionProbe(int num_threads, const AttentionSizes& sizes)
      : ops_(cpu::make_ops(num_threads)),
        shape_(sizes.shape),
        cache_({sizes.num_requests * sizes.blocks_a_request(), sizes.num_layers, sizes.shape.num_kv_heads,
                sizes.block_size, sizes.shape.head_dim, sizes.dtype}) {
    batch_.cu_seqlens_q.push_back(0);
    batch_.cu_blocks.push_back(0);
    for (int64_t request = 0; request < sizes.num_requests; ++request) {
      for (int64_t token = 0; token < sizes.num_tokens; ++token) {
        batch_.token_ids.push_back(0);
        batch_.positions.push_back(static_cast<int32_t>(sizes.num_context_tokens + token));
      }
      for (int64_t block = 0; block < sizes.blocks_a_request(); ++block) {
        batch_.block_tables.push_back(static_cast<int32_t>(batch_.block_tables.size()));
      }
      batch_.cu_seqlens_q.push_back(static_cast<int32_t>(batch_.token_ids.size()));
      batch_.cu_blocks.push_back(static_cast<int32_t>(batch_.block_tables.size()));
    }
    const int64_t num_tokens = batch_.num_tokens();
    qkv_.resize(num_tokens * shape_.qkv_dim());
    out_.resize(num_tokens * shape_.q_dim());
    fill(qkv_.data(), static_cast<int64_t>(qkv_.size()), 1);
    const KvLayout& layout = cache_.layout();
    const int64_t count = layout.num_blocks * layout.block_bytes() / layout.element_bytes();
    if (layout.dtype == KvDtype::kF32) {
      fill(reinterpret_cast<float*>(cache_.region().block(0)), count, 2);
    } else {
      fill_halves(reinterpret_cast<uint16_t*>(cache_.region().block(0)), count);
    }
  }

  void run() override {
    for (int64_t layer = 0; layer < cache_.layout().num_layers; ++layer) {
      ops_->paged_attention(qkv_.data(), shape_, batch_, cache_.region(), layer, out_.data());
    }
  }

 private:
  std::unique_ptr<Ops> ops_;
  AttentionShape shape_;
  KvCache cache_;
  Batch batch_;
  std::vector<float> qkv_;  // (num_tokens, q_dim + 2 kv_dim)
  std::vector<float> out_;  // (num_tokens, q_dim)
};

/** Streams between two ends on loopback, a thread at each end of each connection. */
class SocketProbe : public Probe {
 public:
  SocketProbe(int num_connections, int64_t num_bytes) : bytes_a_connection_(num_bytes / num_connections) {
    int port = 0;
    const Socket listener = listen_on("127.0.0.1", &port);
    for (int i = 0; i < num_connections; ++i) {
      senders_.push_back(connect_to("127.0.0.1", port, kTimeoutMs));
      pollfd waiting{listener.fd(), POLLIN, 0};
      poll(&waiting, 1, kTimeoutMs);
      receivers_.emplace_back(accept(listener.fd(), nullptr, nullptr));
      make_blocking(senders_.back(), kTimeoutMs);
      make_blocking(receivers_.back(), kTimeoutMs);
      from_.emplace_back(bytes_a_connection_, 1);
      to_.emplace_back(bytes_a_connection_, 2);
    }
  }

  void run() override {
    std::vector<std::thread> threads;
    std::atomic<bool> failed{false};
    const auto start = [&](auto move) {
      threads.emplace_back([move, &failed] {
        try {
          move();
        } catch (const Error&) {
          failed = true;
        }
      });
    };
    for (size_t i = 0; i < senders_.size(); ++i) {
      start([this, i] { send_all(senders_[i], from_[i].data(), from_[i].size()); });
      start([this, i] { receive_all(receivers_[i], to_[i].data(), to_[i].size()); });
    }
    for (std::thread& thread : threads) thread.join();
    if (failed) throw Error("INTERNAL", "A connection on loopback failed.");
  }

 private:
  static constexpr int kTimeoutMs = 10'000;
  int64_t bytes_a_connection_;
  std::vector<Socket> senders_;
  std::vector<Socket> receivers_;
  std::vector<std::vector<uint8_t>> from_;
  std::vector<std::vector<uint8_t>> to_;
};

}  // namespace

std::unique_ptr<Probe> make_probe(const std::string& kind, const std::vector<int64_t>& s) {
  const auto is = [&](const char* name, size_t num_sizes) { return kind == name && s.size() == num_sizes; };
  const int num_threads = s.empty() ? 0 : static_cast<int>(s[0]);
  const auto type = [&](size_t index) {
    if (s[index] < 0 || s[index] > 2)
      throw Error("INVALID_ARGUMENT", "There is no weight type " + std::to_string(s[index]) + ".");
    return static_cast<WeightType>(s[index]);
  };
  if (is("fma", 3)) return std::make_unique<FmaProbe>(num_threads, s[1], type(2));
  if (is("read", 2)) return std::make_unique<ReadProbe>(num_threads, s[1]);
  if (is("socket", 2)) return std::make_unique<SocketProbe>(num_threads, s[1]);
  if (is("copy", 2)) return std::make_unique<CopyProbe>(num_threads, s[1]);
  if (is("matmul", 5)) {
    return std::make_unique<MatmulProbe>(num_threads, s[1], MatrixShape{s[3], s[2], type(4)});
  }
  if (is("attention", 10)) {
    return std::make_unique<AttentionProbe>(
        num_threads,
        AttentionSizes{
            s[1], s[2], s[3], s[4], {s[5], s[6], s[7], 0}, s[8], s[9] == 1 ? KvDtype::kBF16 : KvDtype::kF32});
  }
  throw Error("INVALID_ARGUMENT",
              "There is no probe '" + kind + "' of " + std::to_string(s.size()) + " sizes.");
}

}  // namespace vllm_pd
