// The one exception of the native module: a code of src/errors.ts and a whole sentence.
#pragma once

#include <stdexcept>
#include <string>

namespace vllm_pd {

class Error : public std::runtime_error {
 public:
  Error(const char* code, const std::string& message) : std::runtime_error(message), code_(code) {}
  const char* code() const { return code_; }

 private:
  const char* code_;
};

}  // namespace vllm_pd
