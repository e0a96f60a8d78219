// Floats on huge pages where there are enough of them and the system has such pages: a decode step streams through all
// weights. Fewer begin at a cache line.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

namespace vllm_pd {

class HugeFloats {
 public:
  explicit HugeFloats(int64_t count) {
    const size_t alignment = count * sizeof(float) < kHugePage ? kCacheLine : kHugePage;
    const size_t num_bytes = (count * sizeof(float) + alignment - 1) / alignment * alignment;
    data_ = static_cast<float*>(std::aligned_alloc(alignment, num_bytes));
    if (data_ == nullptr) throw std::bad_alloc();
    if (alignment == kHugePage) madvise(data_, num_bytes, MADV_HUGEPAGE);
  }
  ~HugeFloats() { std::free(data_); }
  HugeFloats(const HugeFloats&) = delete;
  HugeFloats& operator=(const HugeFloats&) = delete;
  float* data() const { return data_; }

 private:
  static constexpr size_t kHugePage = 2 << 20;
  static constexpr size_t kCacheLine = 64;
  float* data_;
};

}  // namespace vllm_pd
