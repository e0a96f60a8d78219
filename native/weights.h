// Tensors where they lie in safetensors files: mapped, checked against the file's size, converted to float32
// row by row.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace vllm_pd {

enum class Dtype { kF32, kBF16, kF16 };

struct TensorLocation {
  std::string name;
  std::string path;
  Dtype dtype;
  std::vector<int64_t> shape;
  int64_t offset;
  int64_t length;
};

/** A mapped file; unmapped at the end of loading. */
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  const uint8_t* data() const { return data_; }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  const uint8_t* data_ = nullptr;
  int64_t num_bytes_ = 0;
};

/** One tensor (num_rows, row_floats) in a mapped file. */
struct Tensor {
  const uint8_t* data;
  Dtype dtype;
  int64_t num_rows;
  int64_t row_floats;

  void read_row(int64_t row, float* out) const;
};

/** All tensors of a model, by name. Every error is a BAD_FILE that names the tensor. */
class Weights {
 public:
  explicit Weights(const std::vector<TensorLocation>& locations);

  /** A matrix (rows, columns), or a vector when `rows` is 0. */
  Tensor tensor(const std::string& name, int64_t rows, int64_t columns) const;
  std::vector<float> vector(const std::string& name, int64_t size) const;

 private:
  std::map<std::string, TensorLocation> locations_;
  std::map<std::string, std::unique_ptr<MappedFile>> files_;
};

}  // namespace vllm_pd
