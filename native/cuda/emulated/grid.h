// Tests only: grids, blocks, warps, shared memory, barriers, shuffles and asynchronous copies on the host, one
// fiber a thread. The order in which threads run between barriers is the caller's, so that a missing barrier
// shows as different results; shared memory and what an asynchronous copy has not brought yet read as NaN.
#pragma once

#include <math.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

namespace vllm_pd::cuda {
namespace emulated {

struct Index3 {
  uint32_t x, y, z;
};

struct Position {
  Index3 thread;
  Index3 block;
  Index3 block_dim;
  Index3 grid_dim;
};

/** Of the running thread. */
const Position& position();
uint8_t* shared_bytes();
void block_barrier();
void warp_barrier();

constexpr int kLanes = 32;
constexpr int kExchangeWords = 8;

/**
 * All 32 lanes of the running thread's warp bring up to kExchangeWords words; returns what every lane brought,
 * [lane][word], valid until this lane's next but one exchange.
 */
const uint32_t (*exchange(const uint32_t* words, int num_words))[kExchangeWords];

/** Copies when it is waited for: the destination reads as NaN until then. */
void copy_later(void* shared, const void* global, int num_bytes);
void commit_copies();
void wait_copies(int groups_under_way);

using KernelBody = void (*)(const void* args);

struct Kernel {
  const char* name;
  KernelBody body;
  size_t args_bytes;
  int max_threads;
  const Kernel* next;
};

/** Null if there is none of that name. */
const Kernel* find_kernel(const char* name);

struct Registration {
  explicit Registration(Kernel* kernel);
};

/**
 * Runs a grid to its end, block after block. `schedule` chooses the order of threads: 0 = ascending, 1 =
 * descending, others = a shuffle of their own. Ends the process with a sentence where a device would hang.
 */
void run_grid(const Kernel& kernel, const void* args, Index3 grid, Index3 block, size_t shared_bytes,
              uint32_t schedule);

}  // namespace emulated

#define threadIdx (::vllm_pd::cuda::emulated::position().thread)
#define blockIdx (::vllm_pd::cuda::emulated::position().block)
#define blockDim (::vllm_pd::cuda::emulated::position().block_dim)
#define gridDim (::vllm_pd::cuda::emulated::position().grid_dim)

#define VLLM_PD_DEVICE inline
#define VLLM_PD_KERNEL(name, Args, max_threads)                                                            \
  static void name(const Args& args);                                                                      \
  static ::vllm_pd::cuda::emulated::Kernel kernel_##name = {                                               \
      #name, [](const void* args) { name(*static_cast<const Args*>(args)); }, sizeof(Args), max_threads,   \
      nullptr};                                                                                            \
  static const ::vllm_pd::cuda::emulated::Registration registration_##name(&kernel_##name);                \
  static void name(const Args& args)

template <typename T>
T* shared_memory() {
  return reinterpret_cast<T*>(emulated::shared_bytes());
}

inline void barrier() { emulated::block_barrier(); }
inline void warp_barrier() { emulated::warp_barrier(); }

template <typename T>
T shuffle(T value, int lane) {
  static_assert(sizeof(T) <= 8, "a shuffle moves one register or two");
  uint32_t words[2] = {};
  std::memcpy(words, &value, sizeof(T));
  const auto* all = emulated::exchange(words, 2);
  T result;
  std::memcpy(&result, all[lane], sizeof(T));
  return result;
}
template <typename T>
T shuffle_xor(T value, int mask) {
  return shuffle(value, static_cast<int>(threadIdx.x % 32) ^ mask);
}
template <typename T>
T shuffle_up(T value, int delta) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  return shuffle(value, lane < delta ? lane : lane - delta);
}
inline bool any_lane(bool value) {
  const uint32_t word = value;
  const auto* all = emulated::exchange(&word, 1);
  for (int lane = 0; lane < emulated::kLanes; ++lane) {
    if (all[lane][0]) return true;
  }
  return false;
}

inline void atomic_add(uint64_t* sum, uint64_t value) { *sum += value; }

inline float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t as_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float fused(float a, float b, float c) { return std::fma(a, b, c); }
inline float square_root(float x) { return std::sqrt(x); }
inline float exp2_fast(float x) { return std::exp2(x); }
inline double exponential(double x) { return std::exp(x); }
inline float negative_infinity() { return -INFINITY; }

}  // namespace vllm_pd::cuda
