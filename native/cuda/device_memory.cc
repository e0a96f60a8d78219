// Allocations, and what is freed with their owners.
#include "cuda/device_memory.h"

#include <atomic>
#include <utility>

#include "cuda/driver.h"
#include "error.h"

namespace vllm_pd::cuda {

namespace {
std::atomic<int64_t> allocated{0};
}  // namespace

int64_t allocated_bytes() { return allocated.load(); }

DeviceMemory::DeviceMemory(const std::shared_ptr<Device>& device, int64_t num_bytes)
    : device_(device), num_bytes_(num_bytes) {
  device_->bind();
  const CUresult result = driver().cuMemAlloc(&address_, static_cast<size_t>(num_bytes > 0 ? num_bytes : 1));
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    throw Error("INVALID_ARGUMENT", "Expected " + std::to_string(num_bytes) + " bytes of memory on " +
                                        device_->info().name + " but only " +
                                        std::to_string(device_->memory().first) + " are free.");
  }
  check(result, "allocate memory");
  allocated += num_bytes_;
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : device_(std::move(other.device_)),
      address_(std::exchange(other.address_, 0)),
      num_bytes_(std::exchange(other.num_bytes_, 0)) {}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(address_, other.address_);
  std::swap(num_bytes_, other.num_bytes_);
  return *this;
}

DeviceMemory::~DeviceMemory() {
  if (address_ == 0) return;
  device_->bind_if_possible();
  driver().cuMemFree(address_);
  allocated -= num_bytes_;
}

CUipcMemHandle DeviceMemory::ipc_handle() const {
  device_->bind();
  CUipcMemHandle handle;
  check(driver().cuIpcGetMemHandle(&handle, address_), "share memory with other processes");
  return handle;
}

PeerMemory::PeerMemory(const std::shared_ptr<Device>& device, const CUipcMemHandle& handle) : device_(device) {
  device_->bind();
  const CUresult result = driver().cuIpcOpenMemHandle(&address_, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
  if (result != CUDA_SUCCESS) {
    throw Error("PEER_FAILED", "The peer's memory cannot be mapped: " + driver_words(result) + ".");
  }
}

PeerMemory::~PeerMemory() {
  device_->bind_if_possible();
  driver().cuIpcCloseMemHandle(address_);
}

PinnedMemory::PinnedMemory(const std::shared_ptr<Device>& device, int64_t num_bytes)
    : device_(device), num_bytes_(num_bytes) {
  device_->bind();
  check(driver().cuMemHostAlloc(&data_, static_cast<size_t>(num_bytes > 0 ? num_bytes : 1), CU_MEMHOSTALLOC_PORTABLE),
        "allocate pinned host memory");
}

PinnedMemory::~PinnedMemory() {
  device_->bind_if_possible();
  driver().cuMemFreeHost(data_);
}

}  // namespace vllm_pd::cuda
