// A model's weights in device memory: matrices in bf16 or f16, rows as they lie in the checkpoint, vectors in float32.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda/device_memory.h"
#include "cuda/launch.h"
#include "cuda/stream.h"
#include "weights.h"

namespace vllm_pd::cuda {

/** (n, k) of two bytes, row-major. */
struct DeviceMatrix {
  DeviceMemory memory;
  int64_t n = 0;
  int64_t k = 0;
};

/** Uploads what it is asked for, through pinned memory of its own; for as long as a model is loaded. */
class WeightUploader {
 public:
  WeightUploader(std::shared_ptr<Device> device, const Weights& weights, ElementType element);

  /** Tensors (rows[i], k), one below the other. Throws BAD_FILE as Weights does. */
  DeviceMatrix matrix(const std::vector<std::string>& names, const std::vector<int64_t>& rows, int64_t k);
  /** Vectors of `size` each, one behind the other. */
  DeviceMemory vectors(const std::vector<std::string>& names, const std::vector<int64_t>& sizes);
  DeviceMemory floats(const std::vector<float>& values);

 private:
  void append(const Tensor& part, CUdeviceptr to);
  void convert_row(const Tensor& part, int64_t row, std::vector<float>& floats, uint8_t* out) const;

  std::shared_ptr<Device> device_;
  const Weights& weights_;
  ElementType element_;
  Stream stream_;
  PinnedMemory staging_;
};

}  // namespace vllm_pd::cuda
