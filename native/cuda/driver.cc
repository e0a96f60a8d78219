// Finds the driver, the devices and our kernels; fatbin.S or nothing brings the kernels.
#include "cuda/driver.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "error.h"

#if defined(VLLM_PD_FATBIN)
extern "C" const unsigned char vllm_pd_fatbin[];
extern "C" const unsigned char vllm_pd_fatbin_end[];
#endif

namespace vllm_pd::cuda {
namespace {

std::string driver_words(const DriverFunctions& functions, CUresult result) {
  const char* name = nullptr;
  const char* text = nullptr;
  functions.cuGetErrorName(result, &name);
  functions.cuGetErrorString(result, &text);
  return std::string(name ? name : "error " + std::to_string(result)) + ": " + (text ? text : "unknown");
}

/** The library stays loaded: its threads may outlive us. */
struct LoadedDriver {
  DriverFunctions functions;
  /** The tests' driver brings the kernels itself, compiled for the host. */
  bool emulated = false;
  std::string why_not;

  LoadedDriver() {
    const char* wanted = std::getenv("VLLM_PD_LIBCUDA");
    const char* file = wanted && *wanted ? wanted : "libcuda.so.1";
    void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      why_not = std::string("There is no CUDA driver: ") + dlerror() + ".";
      return;
    }
#define VLLM_PD_LOOK_UP(name, symbol, parameters)                                              \
  functions.name = reinterpret_cast<decltype(functions.name)>(dlsym(library, symbol));         \
  if (functions.name == nullptr) {                                                             \
    why_not = std::string("The CUDA driver ") + file + " is too old: it has no " + symbol + "."; \
    return;                                                                                    \
  }
    VLLM_PD_DRIVER_FUNCTIONS(VLLM_PD_LOOK_UP)
#undef VLLM_PD_LOOK_UP
    emulated = dlsym(library, "vllm_pd_emulated_driver") != nullptr;
    const CUresult result = functions.cuInit(0);
    if (result == CUDA_ERROR_NO_DEVICE) {
      why_not = "The CUDA driver finds no device.";
    } else if (result != CUDA_SUCCESS) {
      why_not = "The CUDA driver does not start: " + driver_words(functions, result) + ".";
    }
  }
};

const LoadedDriver& loaded_driver() {
  static const LoadedDriver loaded;
  return loaded;
}

int attribute(CUdevice device, int which) {
  int value = 0;
  check(driver().cuDeviceGetAttribute(&value, which, device), "ask for a device's attributes");
  return value;
}

DeviceInfo device_info(int ordinal) {
  CUdevice device = 0;
  check(driver().cuDeviceGet(&device, ordinal), "find the device");
  char name[256] = {};
  check(driver().cuDeviceGetName(name, sizeof name - 1, device), "ask for a device's name");
  size_t bytes = 0;
  check(driver().cuDeviceTotalMem(&bytes, device), "ask for a device's memory");
  DeviceInfo info;
  info.ordinal = ordinal;
  info.name = name;
  info.capability_major = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  info.capability_minor = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  info.num_multiprocessors = attribute(device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  info.memory_bytes = static_cast<int64_t>(bytes);
  info.max_shared_bytes = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  return info;
}

/** A whole sentence, or empty. */
std::string why_unusable(const DeviceInfo& info) {
  if (info.usable()) return "";
  return "Expected a GPU of compute capability 8.0 or above but " + info.name + " has " +
         std::to_string(info.capability_major) + "." + std::to_string(info.capability_minor) + ".";
}

/** Null if there are none. */
const void* kernels() {
#if defined(VLLM_PD_FATBIN)
  return vllm_pd_fatbin;
#else
  return loaded_driver().emulated ? "" : nullptr;
#endif
}

constexpr char kNoKernels[] =
    "The native module was built without CUDA kernels: no nvcc was found, or VLLM_PD_CUDA was off.";

CudaFacts look_around() {
  CudaFacts facts{0, {}, fatbin_bytes(), loaded_driver().why_not};
  if (loaded_driver().functions.cuDriverGetVersion)
    loaded_driver().functions.cuDriverGetVersion(&facts.driver_version);
  if (!facts.why_not.empty()) return facts;
  int count = 0;
  check(driver().cuDeviceGetCount(&count), "count the devices");
  for (int i = 0; i < count; ++i) facts.devices.push_back(device_info(i));
  if (facts.devices.empty()) {
    facts.why_not = "The CUDA driver finds no device.";
  } else if (kernels() == nullptr) {
    facts.why_not = kNoKernels;
  } else {
    facts.why_not = why_unusable(facts.devices.front());
  }
  return facts;
}

}  // namespace

const DriverFunctions& driver() {
  const LoadedDriver& loaded = loaded_driver();
  if (!loaded.why_not.empty()) throw Error("NOT_SUPPORTED", loaded.why_not);
  return loaded.functions;
}

void check(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return;
  throw Error("INTERNAL", std::string("The CUDA driver could not ") + what + ": " + driver_words(driver(), result) + ".");
}

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

namespace {
std::atomic<int64_t> allocated{0};
}  // namespace

class FunctionLock {
 public:
  std::mutex mutex;
};

Device::Device(int ordinal) : lock_(std::make_unique<FunctionLock>()) {
  const DriverFunctions& functions = driver();
  if (kernels() == nullptr) throw Error("NOT_SUPPORTED", kNoKernels);
  info_ = device_info(ordinal);
  const std::string why_not = why_unusable(info_);
  if (!why_not.empty()) throw Error("NOT_SUPPORTED", why_not);
  check(functions.cuDevicePrimaryCtxRetain(&context_, ordinal), "open the device");
  try {
    bind();
    check(functions.cuModuleLoadData(&module_, kernels()), "load the kernels");
  } catch (...) {
    functions.cuDevicePrimaryCtxRelease(ordinal);
    throw;
  }
}

Device::~Device() {
  bind();
  driver().cuModuleUnload(module_);
  driver().cuDevicePrimaryCtxRelease(info_.ordinal);
}

int64_t allocated_bytes() { return allocated.load(); }

std::shared_ptr<Device> shared_device() {
  static std::mutex mutex;
  static std::weak_ptr<Device> opened;
  const std::lock_guard<std::mutex> guard(mutex);
  std::shared_ptr<Device> device = opened.lock();
  if (!device) opened = device = std::make_shared<Device>(0);
  return device;
}

void Device::bind() const { check(driver().cuCtxSetCurrent(context_), "use the device"); }

std::pair<int64_t, int64_t> Device::memory() const {
  bind();
  size_t free = 0;
  size_t total = 0;
  check(driver().cuMemGetInfo(&free, &total), "ask for free memory");
  return {static_cast<int64_t>(free), static_cast<int64_t>(total)};
}

CUfunction Device::function(const std::string& name, int64_t shared_bytes) {
  const std::lock_guard<std::mutex> guard(lock_->mutex);
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
  device_->bind();
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
    throw Error("PEER_FAILED", "The peer's memory cannot be mapped: " + driver_words(driver(), result) + ".");
  }
}

PeerMemory::~PeerMemory() {
  device_->bind();
  driver().cuIpcCloseMemHandle(address_);
}

PinnedMemory::PinnedMemory(const std::shared_ptr<Device>& device, int64_t num_bytes)
    : device_(device), num_bytes_(num_bytes) {
  device_->bind();
  check(driver().cuMemHostAlloc(&data_, static_cast<size_t>(num_bytes > 0 ? num_bytes : 1), CU_MEMHOSTALLOC_PORTABLE),
        "allocate pinned host memory");
}

PinnedMemory::~PinnedMemory() {
  device_->bind();
  driver().cuMemFreeHost(data_);
}

Stream::Stream(const std::shared_ptr<Device>& device) : device_(device) {
  device_->bind();
  check(driver().cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING), "make a stream");
}

Stream::~Stream() {
  device_->bind();
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
  device_->bind();
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

void Graph::begin_capture(const Stream& stream) {
  check(driver().cuStreamBeginCapture(stream.get(), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "begin a capture");
}

Graph::Graph(const std::shared_ptr<Device>& device, const Stream& captured) : device_(device) {
  check(driver().cuStreamEndCapture(captured.get(), &graph_), "end a capture");
  const CUresult result = driver().cuGraphInstantiate(&exec_, graph_, 0);
  if (result != CUDA_SUCCESS) driver().cuGraphDestroy(graph_);
  check(result, "make a graph");
}

Graph::~Graph() {
  device_->bind();
  driver().cuGraphExecDestroy(exec_);
  driver().cuGraphDestroy(graph_);
}

void Graph::launch(const Stream& stream) const { check(driver().cuGraphLaunch(exec_, stream.get()), "launch a graph"); }

}  // namespace vllm_pd::cuda
