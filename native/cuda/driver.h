// The CUDA driver, found at run time: the addon is built, loads and works where there is none. A Device is one GPU
// with our kernels; memory, streams, events and graphs belong to one. Failures throw Error with the driver's words.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cuda/driver_api.h"

namespace vllm_pd::cuda {

/**
 * Loads `libcuda.so.1`, or what VLLM_PD_LIBCUDA names, on the first call. Throws NOT_SUPPORTED, each time with the
 * same sentence, where it is missing, too old or refuses to start.
 */
const DriverFunctions& driver();

/** Throws INTERNAL for any result but success: what was tried, and the driver's name and words for what happened. */
void check(CUresult result, const char* what);

struct DeviceInfo {
  int ordinal;
  std::string name;
  int capability_major;
  int capability_minor;
  int num_multiprocessors;
  int64_t memory_bytes;
  int64_t max_shared_bytes;  // that one block of threads may ask for

  /** Whether our kernels run on it: tensor cores with bf16 and asynchronous copies came with 8.0. */
  bool usable() const { return capability_major >= 8; }
  /** Whether it converts fp8 by itself. */
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
  std::unique_ptr<class FunctionLock> lock_;
};

/** The device that this process computes on, the driver's first; opened by the first caller, closed with the last
 * owner. Throws as Device does. */
std::shared_ptr<Device> shared_device();

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

class Stream {
 public:
  explicit Stream(const std::shared_ptr<Device>& device);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  CUstream get() const { return stream_; }
  void synchronize() const;
  void to_device(CUdeviceptr to, const void* from, int64_t num_bytes) const;
  void to_host(void* to, CUdeviceptr from, int64_t num_bytes) const;
  void copy(CUdeviceptr to, CUdeviceptr from, int64_t num_bytes) const;
  void fill(CUdeviceptr to, uint8_t value, int64_t num_bytes) const;

 private:
  std::shared_ptr<Device> device_;
  CUstream stream_ = nullptr;
};

/** A point in a stream's work. */
class Event {
 public:
  Event(const std::shared_ptr<Device>& device, bool timing);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(const Stream& stream);
  /** Work given to `stream` from now on begins after this point. */
  void hold_back(const Stream& stream) const;
  void synchronize() const;
  bool reached() const;
  /** Both with timing and reached. */
  double milliseconds_since(const Event& begin) const;

 private:
  std::shared_ptr<Device> device_;
  CUevent event_ = nullptr;
};

/** What was launched into a stream between begin_capture and the constructor, to be launched again as one. */
class Graph {
 public:
  static void begin_capture(const Stream& stream);
  Graph(const std::shared_ptr<Device>& device, const Stream& captured);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch(const Stream& stream) const;

 private:
  std::shared_ptr<Device> device_;
  CUgraph graph_ = nullptr;
  CUgraphExec exec_ = nullptr;
};

}  // namespace vllm_pd::cuda
