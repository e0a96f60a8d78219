// Streams, events and graphs.
#include "cuda/stream.h"

#include "cuda/driver.h"

namespace vllm_pd::cuda {

Stream::Stream(const std::shared_ptr<Device>& device) : device_(device) {
  device_->bind();
  check(driver().cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING), "make a stream");
}

Stream::~Stream() {
  device_->bind_if_possible();
  driver().cuStreamDestroy(stream_);
}

void Stream::synchronize() const { check(driver().cuStreamSynchronize(stream_), "finish its work"); }

void Stream::to_device(CUdeviceptr to, const void* from, int64_t num_bytes) const {
  if (num_bytes == 0) return;
  check(driver().cuMemcpyHtoDAsync(to, from, static_cast<size_t>(num_bytes), stream_), "copy to the device");
}

void Stream::to_host(void* to, CUdeviceptr from, int64_t num_bytes) const {
  if (num_bytes == 0) return;
  check(driver().cuMemcpyDtoHAsync(to, from, static_cast<size_t>(num_bytes), stream_), "copy from the device");
}

void Stream::copy(CUdeviceptr to, CUdeviceptr from, int64_t num_bytes) const {
  if (num_bytes == 0) return;
  check(driver().cuMemcpyDtoDAsync(to, from, static_cast<size_t>(num_bytes), stream_), "copy on the device");
}

void Stream::fill(CUdeviceptr to, uint8_t value, int64_t num_bytes) const {
  if (num_bytes == 0) return;
  check(driver().cuMemsetD8Async(to, value, static_cast<size_t>(num_bytes), stream_), "fill memory");
}

Event::Event(const std::shared_ptr<Device>& device, bool timing) : device_(device) {
  device_->bind();
  check(driver().cuEventCreate(&event_, timing ? CU_EVENT_DEFAULT : CU_EVENT_DISABLE_TIMING), "make an event");
}

Event::~Event() {
  device_->bind_if_possible();
  driver().cuEventDestroy(event_);
}

void Event::record(const Stream& stream) { check(driver().cuEventRecord(event_, stream.get()), "record an event"); }

void Event::hold_back(const Stream& stream) const {
  check(driver().cuStreamWaitEvent(stream.get(), event_, 0), "make a stream wait");
}

void Event::synchronize() const { check(driver().cuEventSynchronize(event_), "wait for its work"); }

bool Event::reached() const {
  const CUresult result = driver().cuEventQuery(event_);
  if (result == CUDA_ERROR_NOT_READY) return false;
  check(result, "look at an event");
  return true;
}

double Event::milliseconds_since(const Event& begin) const {
  float milliseconds = 0;
  check(driver().cuEventElapsedTime(&milliseconds, begin.event_, event_), "measure time");
  return milliseconds;
}

Graph::Graph(const std::shared_ptr<Device>& device, const Stream& stream, const std::function<void()>& work)
    : device_(device) {
  // Other threads copy blocks and allocate meanwhile: what they do is none of this capture's business.
  check(driver().cuStreamBeginCapture(stream.get(), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "begin a capture");
  try {
    work();
  } catch (...) {
    // A stream that goes on capturing could not be used any more.
    if (driver().cuStreamEndCapture(stream.get(), &graph_) == CUDA_SUCCESS) driver().cuGraphDestroy(graph_);
    throw;
  }
  check(driver().cuStreamEndCapture(stream.get(), &graph_), "end a capture");
  const CUresult result = driver().cuGraphInstantiate(&exec_, graph_, 0);
  if (result != CUDA_SUCCESS) driver().cuGraphDestroy(graph_);
  check(result, "make a graph");
}

Graph::~Graph() {
  device_->bind_if_possible();
  driver().cuGraphExecDestroy(exec_);
  driver().cuGraphDestroy(graph_);
}

void Graph::launch(const Stream& stream) const { check(driver().cuGraphLaunch(exec_, stream.get()), "launch a graph"); }

}  // namespace vllm_pd::cuda
