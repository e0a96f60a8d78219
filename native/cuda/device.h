// One GPU with our kernels in its context; memory, streams, events and graphs belong to one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "cuda/driver_api.h"
#include "cuda/facts.h"

namespace vllm_pd::cuda {

/** Grid and block of a launch; `args` is the kernel's one struct. */
struct Launch {
  const char* kernel;
  uint32_t grid_x;
  uint32_t grid_y;
  uint32_t grid_z;
  uint32_t num_threads;
  int64_t shared_bytes;
  const void* args;
};

/** One GPU's primary context, and the embedded kernels in it. Functions may be called from any thread. */
class Device {
 public:
  /** Throws NOT_SUPPORTED, with the sentence of cuda_facts(), where it cannot be used. */
  explicit Device(int ordinal);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const DeviceInfo& info() const { return info_; }
  /** Makes the context the calling thread's own. Every thread that calls into the driver does so first. */
  void bind() const;
  /** The same in a destructor: on a device that was lost nothing is left to be freed by us. */
  void bind_if_possible() const noexcept;
  /** Free and total bytes of memory. */
  std::pair<int64_t, int64_t> memory() const;
  void launch(const Launch& launch, CUstream stream);

 private:
  CUfunction function(const std::string& name, int64_t shared_bytes);

  struct Loaded {
    CUfunction function;
    int64_t shared_bytes;
  };
  DeviceInfo info_;
  CUcontext context_ = nullptr;
  CUmodule module_ = nullptr;
  std::map<std::string, Loaded> functions_;
  std::mutex mutex_;  // of functions_
};

/** The device that this process computes on, the driver's first; opened by the first caller, closed with the last
 * owner. Throws as Device does. */
std::shared_ptr<Device> shared_device();

}  // namespace vllm_pd::cuda
