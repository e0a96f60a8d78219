// Floats on huge pages where the system has them: a decode step streams through all weights.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

namespace vllm_pd {

class HugeFloats {
 public:
  explicit HugeFloats(int64_t count) {
    const size_t num_bytes = (count * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
    data_ = static_cast<float*>(std::aligned_alloc(kAlignment, num_bytes));
    if (data_ == nullptr) throw std::bad_alloc();
    madvise(data_, num_bytes, MADV_HUGEPAGE);
  }
  ~HugeFloats() { std::free(data_); }
  HugeFloats(const HugeFloats&) = delete;
  HugeFloats& operator=(const HugeFloats&) = delete;
  float* data() const { return data_; }

 private:
  static constexpr size_t kAlignment = 2 << 20;
  float* data_;
};

}  // namespace vllm_pd
