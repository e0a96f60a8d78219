// Tensors where they lie in safetensors files.
#include "weights.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "bfloat16.h"
#include "error.h"
#include "float16.h"

namespace vllm_pd {
namespace {

std::string show_shape(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + ")";
}

int64_t bytes_of(Dtype dtype) { return dtype == Dtype::kF32 ? 4 : 2; }

float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

void check_location(const TensorLocation& location, int64_t file_bytes) {
  int64_t count = 1;
  for (const int64_t size : location.shape) {
    if (size < 0 || __builtin_mul_overflow(count, size, &count)) {
      throw Error("BAD_FILE",
                  "Tensor " + location.name + " has an impossible shape " + show_shape(location.shape) + ".");
    }
  }
  int64_t expected = 0;
  if (__builtin_mul_overflow(count, bytes_of(location.dtype), &expected) || expected != location.length) {
    throw Error("BAD_FILE", "Expected " + std::to_string(expected) + " bytes for tensor " + location.name +
                                " of shape " + show_shape(location.shape) + " but its entry has " +
                                std::to_string(location.length) + ".");
  }
  if (location.offset < 0 || location.length > file_bytes || location.offset > file_bytes - location.length) {
    throw Error("BAD_FILE", "Tensor " + location.name + " ends beyond the " + std::to_string(file_bytes) +
                                " bytes of " + location.path + "; the file is cut short.");
  }
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat status;
  if (fd < 0 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    const std::string why = fd < 0 ? std::strerror(errno) : "not a regular file";
    if (fd >= 0) close(fd);
    throw Error("BAD_FILE", "Could not open " + path + ": " + why + ".");
  }
  num_bytes_ = status.st_size;
  void* address = num_bytes_ > 0 ? mmap(nullptr, num_bytes_, PROT_READ, MAP_PRIVATE, fd, 0) : nullptr;
  const int error = errno;
  close(fd);
  if (address == MAP_FAILED)
    throw Error("BAD_FILE", "Could not map " + path + ": " + std::strerror(error) + ".");
  data_ = static_cast<const uint8_t*>(address);
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<uint8_t*>(data_), num_bytes_);
}

void Tensor::read_row(int64_t row, float* out) const {
  // An empty row's place, in an empty file, is null.
  if (row_floats == 0) return;
  const uint8_t* from = data + row * row_floats * bytes_of(dtype);
  if (dtype == Dtype::kF32) {
    std::memcpy(out, from, row_floats * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < row_floats; ++i) {
    uint16_t bits;
    std::memcpy(&bits, from + i * sizeof(bits), sizeof(bits));
    out[i] = dtype == Dtype::kBF16 ? from_bfloat16(bits) : from_float16(bits);
  }
}

Weights::Weights(const std::vector<TensorLocation>& locations) {
  for (const TensorLocation& location : locations) {
    auto& file = files_[location.path];
    if (!file) file = std::make_unique<MappedFile>(location.path);
    check_location(location, file->num_bytes());
    locations_[location.name] = location;
  }
}

Tensor Weights::tensor(const std::string& name, int64_t rows, int64_t columns) const {
  const std::vector<int64_t> expected =
      rows == 0 ? std::vector<int64_t>{columns} : std::vector<int64_t>{rows, columns};
  const auto found = locations_.find(name);
  if (found == locations_.end()) {
    throw Error("BAD_FILE",
                "Expected a tensor " + name + " of shape " + show_shape(expected) + " but found none.");
  }
  const TensorLocation& location = found->second;
  if (location.shape != expected) {
    throw Error("BAD_FILE", "Expected tensor " + name + " to have shape " + show_shape(expected) +
                                " but received " + show_shape(location.shape) + ".");
  }
  return {files_.at(location.path)->data() + location.offset, location.dtype, rows == 0 ? 1 : rows, columns};
}

std::vector<float> Weights::vector(const std::string& name, int64_t size) const {
  std::vector<float> values(size);
  tensor(name, 0, size).read_row(0, values.data());
  return values;
}

}  // namespace vllm_pd
