// The threads that an op is split over, and what each of them has for itself.
#pragma once

#include <cstdint>
#include <vector>

#include "float_buffer.h"
#include "threads.h"

namespace vllm_pd::cpu {

class OpThreads {
 public:
  explicit OpThreads(int num_threads) : pool_(num_threads), scratch_(num_threads) {}

  int count() const { return pool_.num_threads(); }

  /** Calls `body(index, thread)` once for every index in [0, count), in any order. */
  template <typename Body>
  void parallel_for(int64_t count, Body&& body) {
    pool_.parallel_for(count, body);
  }

  /** Calls `body(row, thread)` for every row, on one thread where that costs less than telling another of it. */
  template <typename Body>
  void for_rows(int64_t num_rows, int64_t floats_a_row, Body&& body) {
    if (num_rows * floats_a_row < kSplitFloats) {
      for (int64_t row = 0; row < num_rows; ++row) body(row, 0);
      return;
    }
    pool_.parallel_for(num_rows, body);
  }

  /** This thread's own floats, from a cache line on. */
  float* scratch(int thread, int64_t count) { return scratch_[thread].sized(count); }

 private:
  /** Below this many floats a loop over rows costs less than telling another thread of it. */
  static constexpr int64_t kSplitFloats = 16 * 1024;

  ThreadPool pool_;
  std::vector<FloatBuffer> scratch_;
};

}  // namespace vllm_pd::cpu
