// What this process finds of CUDA: the driver, its devices, the kernels in the addon, and why they do not go together.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/driver_api.h"

namespace vllm_pd::cuda {

struct DeviceInfo {
  CUdevice device;
  std::string name;
  int capability_major;
  int capability_minor;
  int num_multiprocessors;
  int64_t memory_bytes;
  int64_t max_shared_bytes;  // that one block of threads may ask for

  /** Whether our kernels run on it: tensor cores with bf16 and asynchronous copies came with 8.0. */
  bool usable() const { return capability_major >= 8; }
  /** Whether it has instructions for fp8. */
  bool has_fp8() const { return capability_major * 10 + capability_minor >= 89; }
};

/** Size of the embedded kernels; 0 where the addon was built without nvcc. */
int64_t fatbin_bytes();

/** What this process may use of CUDA. */
struct CudaFacts {
  int driver_version;  // 13000 = CUDA 13.0; 0 without a driver
  std::vector<DeviceInfo> devices;
  int64_t fatbin_bytes;
  /** Whole sentence; empty where a device can be used. */
  std::string why_not;
};

/** Never throws. */
CudaFacts cuda_facts();

/** Throws INTERNAL where the driver does not know the device. */
DeviceInfo device_info(CUdevice device);

/** Whole sentence; empty where our kernels run on such a device. */
std::string why_unusable(const DeviceInfo& info);

/** What cuModuleLoadData takes; null where the addon was built without kernels. */
const void* embedded_kernels();

/** Whole sentence; empty where there are kernels and the driver is as new as what compiled them. */
std::string why_no_kernels();

}  // namespace vllm_pd::cuda
