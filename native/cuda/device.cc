// A device's context, and launches of the kernels in it.
#include "cuda/device.h"

#include "cuda/driver.h"
#include "error.h"

namespace vllm_pd::cuda {

Device::Device(int ordinal) {
  const DriverFunctions& functions = driver();
  CUdevice device = 0;
  check(functions.cuDeviceGet(&device, ordinal), "find the device");
  info_ = device_info(device);
  for (const std::string& why_not : {why_no_kernels(), why_unusable(info_)})
    if (!why_not.empty()) throw Error("NOT_SUPPORTED", why_not);
  check(functions.cuDevicePrimaryCtxRetain(&context_, device), "open the device");
  try {
    bind();
    check(functions.cuModuleLoadData(&module_, embedded_kernels()), "load the kernels");
  } catch (...) {
    functions.cuDevicePrimaryCtxRelease(device);
    throw;
  }
}

Device::~Device() {
  bind_if_possible();
  driver().cuModuleUnload(module_);
  driver().cuDevicePrimaryCtxRelease(info_.device);
}

std::shared_ptr<Device> shared_device() {
  static std::mutex mutex;
  static std::weak_ptr<Device> opened;
  const std::lock_guard<std::mutex> guard(mutex);
  std::shared_ptr<Device> device = opened.lock();
  if (!device) opened = device = std::make_shared<Device>(0);
  return device;
}

void Device::bind() const { check(driver().cuCtxSetCurrent(context_), "use the device"); }

void Device::bind_if_possible() const noexcept { driver().cuCtxSetCurrent(context_); }

std::pair<int64_t, int64_t> Device::memory() const {
  bind();
  size_t free = 0;
  size_t total = 0;
  check(driver().cuMemGetInfo(&free, &total), "ask for free memory");
  return {static_cast<int64_t>(free), static_cast<int64_t>(total)};
}

CUfunction Device::function(const std::string& name, int64_t shared_bytes) {
  const std::lock_guard<std::mutex> guard(mutex_);
  auto found = functions_.find(name);
  if (found == functions_.end()) {
    CUfunction function = nullptr;
    check(driver().cuModuleGetFunction(&function, module_, name.c_str()), ("find the kernel " + name).c_str());
    found = functions_.emplace(name, Loaded{function, 0}).first;
  }
  Loaded& loaded = found->second;
  if (shared_bytes > loaded.shared_bytes) {
    if (shared_bytes > info_.max_shared_bytes) {
      throw Error("NOT_SUPPORTED", "The kernel " + name + " needs " + std::to_string(shared_bytes) +
                                       " bytes of shared memory, but " + info_.name + " gives a block " +
                                       std::to_string(info_.max_shared_bytes) + ".");
    }
    check(driver().cuFuncSetAttribute(loaded.function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                      static_cast<int>(shared_bytes)),
          "give a kernel its shared memory");
    loaded.shared_bytes = shared_bytes;
  }
  return loaded.function;
}

void Device::launch(const Launch& launch, CUstream stream) {
  if (launch.grid_x == 0 || launch.grid_y == 0 || launch.grid_z == 0) return;
  void* parameters[] = {const_cast<void*>(launch.args)};
  check(driver().cuLaunchKernel(function(launch.kernel, launch.shared_bytes), launch.grid_x, launch.grid_y,
                                launch.grid_z, launch.num_threads, 1, 1,
                                static_cast<unsigned>(launch.shared_bytes), stream, parameters, nullptr),
        ("launch the kernel " + std::string(launch.kernel)).c_str());
}

}  // namespace vllm_pd::cuda
