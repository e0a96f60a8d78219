// Work given to a device: in order within a stream, events as points in it, graphs as work to be given again.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "cuda/device.h"

namespace vllm_pd::cuda {

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

/** Work to be launched again as one. */
class Graph {
 public:
  /** Of what `work` gives to `stream`, which is recorded instead of done. `work` may do nothing else on the device. */
  Graph(const std::shared_ptr<Device>& device, const Stream& stream, const std::function<void()>& work);
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
