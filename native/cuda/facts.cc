// Looks at the driver, the devices and the kernels; fatbin.S or nothing brings the kernels.
#include "cuda/facts.h"

#include "cuda/driver.h"
#include "error.h"

#if defined(VLLM_PD_FATBIN)
extern "C" const unsigned char vllm_pd_fatbin[];
extern "C" const unsigned char vllm_pd_fatbin_end[];
#endif

namespace vllm_pd::cuda {
namespace {

int attribute(CUdevice device, int which) {
  int value = 0;
  check(driver().cuDeviceGetAttribute(&value, which, device), "ask for a device's attributes");
  return value;
}

std::string version_words(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string why_driver_too_old() {
#if defined(VLLM_PD_FATBIN)
  if (driver_version() >= VLLM_PD_MIN_DRIVER) return "";
  return "Expected a driver for CUDA " + version_words(VLLM_PD_MIN_DRIVER) +
         " or above, as the nvcc that compiled the kernels needs, but this one is for CUDA " +
         version_words(driver_version()) + ": update it, or compile the kernels with an older nvcc.";
#else
  return "";
#endif
}

constexpr char kNoKernels[] =
    "The native module was built without CUDA kernels: no nvcc was found, or VLLM_PD_CUDA was off.";

CudaFacts look_around() {
  CudaFacts facts{driver_version(), {}, fatbin_bytes(), why_no_driver()};
  if (!facts.why_not.empty()) return facts;
  int count = 0;
  check(driver().cuDeviceGetCount(&count), "count the devices");
  for (int i = 0; i < count; ++i) {
    CUdevice device = 0;
    check(driver().cuDeviceGet(&device, i), "find the device");
    facts.devices.push_back(device_info(device));
  }
  if (facts.devices.empty()) {
    facts.why_not = "The CUDA driver finds no device.";
    return facts;
  }
  facts.why_not = why_no_kernels();
  if (facts.why_not.empty()) facts.why_not = why_unusable(facts.devices.front());
  return facts;
}

}  // namespace

DeviceInfo device_info(CUdevice device) {
  char name[256] = {};
  check(driver().cuDeviceGetName(name, sizeof name - 1, device), "ask for a device's name");
  size_t bytes = 0;
  check(driver().cuDeviceTotalMem(&bytes, device), "ask for a device's memory");
  DeviceInfo info;
  info.device = device;
  info.name = name;
  info.capability_major = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  info.capability_minor = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  info.num_multiprocessors = attribute(device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  info.memory_bytes = static_cast<int64_t>(bytes);
  info.max_shared_bytes = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  return info;
}

std::string why_unusable(const DeviceInfo& info) {
  if (info.usable()) return "";
  return "Expected a GPU of compute capability 8.0 or above but " + info.name + " has " +
         std::to_string(info.capability_major) + "." + std::to_string(info.capability_minor) + ".";
}

const void* embedded_kernels() {
#if defined(VLLM_PD_FATBIN)
  return vllm_pd_fatbin;
#else
  return driver_is_emulated() ? "" : nullptr;
#endif
}

std::string why_no_kernels() { return embedded_kernels() == nullptr ? kNoKernels : why_driver_too_old(); }

int64_t fatbin_bytes() {
#if defined(VLLM_PD_FATBIN)
  return vllm_pd_fatbin_end - vllm_pd_fatbin;
#else
  return 0;
#endif
}

CudaFacts cuda_facts() {
  try {
    return look_around();
  } catch (const Error& error) {
    return {0, {}, fatbin_bytes(), error.what()};
  }
}

}  // namespace vllm_pd::cuda
