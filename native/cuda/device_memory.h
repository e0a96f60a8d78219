// Memory on a device, this process's own and peers', and host memory that a device reaches.
#pragma once

#include <cstdint>
#include <memory>

#include "cuda/device.h"

namespace vllm_pd::cuda {

/** Bytes of all DeviceMemory in this process. */
int64_t allocated_bytes();

/** Memory on the device. */
class DeviceMemory {
 public:
  DeviceMemory() = default;
  /** Throws INVALID_ARGUMENT when the device has not got that much. */
  DeviceMemory(const std::shared_ptr<Device>& device, int64_t num_bytes);
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  ~DeviceMemory();

  CUdeviceptr address() const { return address_; }
  int64_t num_bytes() const { return num_bytes_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(address_);
  }
  /** Names this memory to another process of the same host. */
  CUipcMemHandle ipc_handle() const;

 private:
  std::shared_ptr<Device> device_;
  CUdeviceptr address_ = 0;
  int64_t num_bytes_ = 0;
};

/** Another process's device memory, mapped. */
class PeerMemory {
 public:
  /** Throws PEER_FAILED when it is gone or cannot be reached from this device. */
  PeerMemory(const std::shared_ptr<Device>& device, const CUipcMemHandle& handle);
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;
  CUdeviceptr address() const { return address_; }

 private:
  std::shared_ptr<Device> device_;
  CUdeviceptr address_ = 0;
};

/** Host memory that the device reads and writes directly, and copies from and to at full speed. */
class PinnedMemory {
 public:
  PinnedMemory(const std::shared_ptr<Device>& device, int64_t num_bytes);
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  uint8_t* data() const { return static_cast<uint8_t*>(data_); }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  std::shared_ptr<Device> device_;
  void* data_ = nullptr;
  int64_t num_bytes_ = 0;
};

}  // namespace vllm_pd::cuda
