// Draws tokens where the logits lie, so that a token id crosses the bus and not a row of the vocabulary's size.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/device_memory.h"
#include "cuda/launch.h"
#include "cuda/stream.h"
#include "model.h"

namespace vllm_pd::cuda {

/** One step at a time. */
class DeviceSampler {
 public:
  /** `suppressed`: ids that are never drawn; those outside of the vocabulary do not count. */
  DeviceSampler(std::shared_ptr<Device> device, int64_t vocab_size, const std::vector<int32_t>& suppressed);

  /** Gives `stream` the work; `logits` (…, vocab_size). Throws INVALID_ARGUMENT for too many forbidden tokens. */
  void draw(Kernels& kernels, const float* logits, const std::vector<Draw>& draws, const Stream& stream);
  /** The tokens of the last draw, whose work must have ended. */
  void copy_to(int32_t* token_ids) const;

 private:
  std::shared_ptr<Device> device_;
  int64_t vocab_size_;
  DeviceMemory suppressed_;  // a bit a token, or empty
  DeviceMemory rows_;
  DeviceMemory token_ids_;
  std::unique_ptr<PinnedMemory> host_rows_;
  std::unique_ptr<PinnedMemory> host_token_ids_;
  size_t num_drawn_ = 0;
};

}  // namespace vllm_pd::cuda
