// Floats that grow and begin at a cache line: what a forward pass writes and reads again, kept from one to the next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "huge_floats.h"

namespace vllm_pd {

class FloatBuffer {
 public:
  /** Room for `count` floats; those that it holds stay. */
  float* sized(int64_t count) {
    if (capacity_ < count) {
      auto larger = std::make_unique<HugeFloats>(count);
      std::copy_n(data(), capacity_, larger->data());
      floats_ = std::move(larger);
      capacity_ = count;
    }
    return data();
  }

  /** Null before the first call of `sized`. */
  float* data() const { return floats_ ? floats_->data() : nullptr; }

 private:
  std::unique_ptr<HugeFloats> floats_;
  int64_t capacity_ = 0;
};

}  // namespace vllm_pd
