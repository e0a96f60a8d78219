// Loops that compute, read, copy or send, and do nothing else.
#include "probe/machine_limits.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "cpu/isa.h"
#include "error.h"
#include "huge_floats.h"
#include "probe/fill.h"
#include "socket_io.h"
#include "threads.h"

namespace vllm_pd {
namespace {

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
  CopyProbe(int num_threads, int64_t num_bytes, int64_t num_places)
      : threads_(num_threads),
        count_(num_bytes / 4),
        num_places_(num_places),
        from_(count_ * num_places_),
        to_(count_ * num_places_) {
    fill(from_.data(), count_ * num_places_, 1);
    fill(to_.data(), count_ * num_places_, 2);
  }

  void run() override {
    const int64_t place = next_place_ * count_;
    next_place_ = (next_place_ + 1) % num_places_;
    for_pieces(threads_, count_, [&](int64_t begin, int64_t count, int) {
      std::memcpy(to_.data() + place + begin, from_.data() + place + begin, count * sizeof(float));
    });
  }

 private:
  ThreadPool threads_;
  int64_t count_;
  int64_t num_places_;
  int64_t next_place_ = 0;
  HugeFloats from_;
  HugeFloats to_;
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

std::unique_ptr<Probe> make_fma_probe(int num_threads, int64_t num_fmas, WeightType type) {
  return std::make_unique<FmaProbe>(num_threads, num_fmas, type);
}

std::unique_ptr<Probe> make_read_probe(int num_threads, int64_t num_bytes) {
  return std::make_unique<ReadProbe>(num_threads, num_bytes);
}

std::unique_ptr<Probe> make_copy_probe(int num_threads, int64_t num_bytes, int64_t num_places) {
  return std::make_unique<CopyProbe>(num_threads, num_bytes, num_places);
}

std::unique_ptr<Probe> make_socket_probe(int num_connections, int64_t num_bytes) {
  return std::make_unique<SocketProbe>(num_connections, num_bytes);
}

}  // namespace vllm_pd
