// Brings weights to the device.
#include "cuda/device_weights.h"

#include <algorithm>
#include <cstring>

#include "bfloat16.h"
#include "error.h"
#include "float16.h"

namespace vllm_pd::cuda {
namespace {

constexpr int64_t kStagingBytes = 32 << 20;

Dtype stored_as(ElementType element) { return element == ElementType::kBF16 ? Dtype::kBF16 : Dtype::kF16; }

}  // namespace

WeightUploader::WeightUploader(std::shared_ptr<Device> device, const Weights& weights, ElementType element)
    : device_(std::move(device)),
      weights_(weights),
      element_(element),
      stream_(device_),
      staging_(device_, kStagingBytes) {}

void WeightUploader::convert_row(const Tensor& part, int64_t row, std::vector<float>& floats, uint8_t* out) const {
  const int64_t bytes = part.row_floats * 2;
  if (part.dtype == stored_as(element_)) {
    std::memcpy(out, part.data + row * bytes, bytes);
    return;
  }
  part.read_row(row, floats.data());
  auto* const bits = reinterpret_cast<uint16_t*>(out);
  for (int64_t i = 0; i < part.row_floats; ++i)
    bits[i] = element_ == ElementType::kBF16 ? to_bfloat16(floats[i]) : to_float16(floats[i]);
}

DeviceMatrix WeightUploader::matrix(const std::vector<std::string>& names, const std::vector<int64_t>& rows,
                                    int64_t k) {
  DeviceMatrix matrix;
  matrix.k = k;
  for (const int64_t count : rows) matrix.n += count;
  matrix.memory = DeviceMemory(device_, matrix.n * k * 2);
  CUdeviceptr to = matrix.memory.address();
  for (size_t i = 0; i < names.size(); ++i) {
    append(weights_.tensor(names[i], rows[i], k), to);
    to += static_cast<CUdeviceptr>(rows[i] * k * 2);
  }
  return matrix;
}

void WeightUploader::append(const Tensor& part, CUdeviceptr to) {
  const int64_t row_bytes = part.row_floats * 2;
  const int64_t rows_at_once = kStagingBytes / row_bytes;
  if (rows_at_once == 0) {
    throw Error("NOT_SUPPORTED", "On CUDA, expected rows of at most " + std::to_string(kStagingBytes / 2) +
                                     " weights but received " + std::to_string(part.row_floats) + ".");
  }
  std::vector<float> floats(part.dtype == stored_as(element_) ? 0 : part.row_floats);
  for (int64_t row = 0; row < part.num_rows; row += rows_at_once) {
    const int64_t count = std::min(rows_at_once, part.num_rows - row);
    for (int64_t i = 0; i < count; ++i) convert_row(part, row + i, floats, staging_.data() + i * row_bytes);
    stream_.to_device(to + static_cast<CUdeviceptr>(row * row_bytes), staging_.data(), count * row_bytes);
    stream_.synchronize();
  }
}

DeviceMemory WeightUploader::vectors(const std::vector<std::string>& names, const std::vector<int64_t>& sizes) {
  std::vector<float> values;
  for (size_t i = 0; i < names.size(); ++i) {
    const std::vector<float> part = weights_.vector(names[i], sizes[i]);
    values.insert(values.end(), part.begin(), part.end());
  }
  return floats(values);
}

DeviceMemory WeightUploader::floats(const std::vector<float>& values) {
  const auto num_bytes = static_cast<int64_t>(values.size() * sizeof(float));
  DeviceMemory memory(device_, num_bytes);
  stream_.to_device(memory.address(), values.data(), num_bytes);
  stream_.synchronize();
  return memory;
}

}  // namespace vllm_pd::cuda
