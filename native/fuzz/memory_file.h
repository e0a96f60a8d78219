// A file that exists in memory only, and its path: what a target hands to code that opens files.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>

namespace vllm_pd::fuzz {

class MemoryFile {
 public:
  explicit MemoryFile(const char* name) : fd_(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)) {}
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  int fd() const { return fd_; }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }
  bool resize(int64_t num_bytes) { return ftruncate(fd_, num_bytes) == 0; }
  bool write_at(int64_t offset, const void* data, size_t num_bytes) {
    return pwrite(fd_, data, num_bytes, offset) == static_cast<ssize_t>(num_bytes);
  }
  bool seal(int seals) { return fcntl(fd_, F_ADD_SEALS, seals) == 0; }

 private:
  int fd_;
};

}  // namespace vllm_pd::fuzz
