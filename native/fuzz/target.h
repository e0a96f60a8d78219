// What fuzz targets share: taking numbers off the input, and ending the process when a promise is broken.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes);

namespace vllm_pd::fuzz {

/** The sanitizer's stack trace says where. */
inline void promise(bool kept, const char* what) {
  if (kept) return;
  std::fprintf(stderr, "A promise was broken: %s\n", what);
  std::abort();
}

/** Runs `body`, which may fail with that one code and in no other way; whether it did not. */
template <typename Body>
bool succeeds_or_fails_with(const char* code, Body&& body) {
  try {
    body();
    return true;
  } catch (const Error& error) {
    promise(std::strcmp(error.code(), code) == 0, "an error has the code that callers expect");
    return false;
  }
}

/** An input read from the front; zeros behind its end. */
class Input {
 public:
  Input(const uint8_t* data, size_t num_bytes) : data_(data), num_left_(num_bytes) {}

  size_t num_left() const { return num_left_; }
  const uint8_t* data() const { return data_; }

  void take(void* into, size_t num_bytes) {
    const size_t num_taken = std::min(num_bytes, num_left_);
    std::memset(into, 0, num_bytes);
    if (num_taken > 0) std::memcpy(into, data_, num_taken);
    data_ += num_taken;
    num_left_ -= num_taken;
  }

  template <typename T>
  T next() {
    T value;
    take(&value, sizeof(value));
    return value;
  }

  uint8_t byte() { return next<uint8_t>(); }

  std::string text(size_t max_bytes) {
    const size_t num_bytes = std::min(max_bytes, num_left_);
    std::string text(reinterpret_cast<const char*>(data_), num_bytes);
    data_ += num_bytes;
    num_left_ -= num_bytes;
    return text;
  }

 private:
  const uint8_t* data_;
  size_t num_left_;
};

}  // namespace vllm_pd::fuzz
