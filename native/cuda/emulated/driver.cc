// Tests only: a libcuda.so.1 of this one process's memory, that runs our kernels on the emulated grid. Everything
// happens at once, in the order of the calls. Memory is filled with 0xff and ends at a page that cannot be
// touched; it is a memfd, so that IPC handles work between processes. VLLM_PD_EMULATED_SCHEDULE chooses the order of
// threads, VLLM_PD_EMULATED_DEVICES the number of devices, VLLM_PD_EMULATED_CAPABILITY what they claim (e.g. 80),
// VLLM_PD_EMULATED_MEMORY their bytes, VLLM_PD_EMULATED_VERSION the driver's (e.g. 13000). After as many launches as
// VLLM_PD_EMULATED_LAUNCHES says the device is lost; with VLLM_PD_EMULATED_IPC=off no memory is shared.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/emulated/driver.h"
#include "cuda/emulated/grid.h"

using namespace vllm_pd::cuda;

namespace {

constexpr size_t kPage = 4096;

struct Allocation {
  uint8_t* mapping;
  size_t mapped_bytes;  // without the guard page
  size_t num_bytes;
  int fd;
};

/** What an IPC handle's 64 bytes hold. */
struct SharedMemory {
  int pid;
  int fd;
  size_t mapped_bytes;
  size_t offset;
};
static_assert(sizeof(SharedMemory) <= sizeof(CUipcMemHandle), "fits the driver's handle");

std::mutex mutex;
std::map<CUdeviceptr, Allocation> allocations;
size_t allocated_bytes = 0;

int64_t number_from(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::atoll(text) : otherwise;
}

int num_devices() { return static_cast<int>(number_from("VLLM_PD_EMULATED_DEVICES", 1)); }

size_t total_bytes() {
  static const size_t bytes = static_cast<size_t>(number_from("VLLM_PD_EMULATED_MEMORY", int64_t{4} << 30));
  return bytes;
}

std::atomic<int64_t> num_launches{0};

/** A device that is lost refuses everything from then on, as a real one does. */
bool lost() {
  static const int64_t most = number_from("VLLM_PD_EMULATED_LAUNCHES", INT64_MAX);
  return num_launches > most;
}

bool shares_memory() {
  const char* text = std::getenv("VLLM_PD_EMULATED_IPC");
  return !text || std::strcmp(text, "off") != 0;
}

size_t to_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

/** Maps `fd` with a guard page behind it; null where it cannot. */
uint8_t* map_guarded(int fd, size_t bytes) {
  void* const room = mmap(nullptr, bytes + kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) return nullptr;
  if (mmap(room, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) return nullptr;
  return static_cast<uint8_t*>(room);
}

}  // namespace

struct vllm_pd::cuda::CUctx_st {};
struct vllm_pd::cuda::CUmod_st {};
struct vllm_pd::cuda::CUevent_st {
  double milliseconds;
};
/** While a capture runs, work is kept instead of done. */
struct vllm_pd::cuda::CUstream_st {
  bool capturing = false;
  std::vector<std::function<void()>> captured;
};
struct vllm_pd::cuda::CUgraph_st {
  std::vector<std::function<void()>> work;
};
struct vllm_pd::cuda::CUgraphExec_st {
  std::vector<std::function<void()>> work;
};

void emulated::submit(CUstream stream, std::function<void()> work) {
  if (stream && stream->capturing) {
    stream->captured.push_back(std::move(work));
  } else {
    const std::lock_guard<std::mutex> guard(mutex);
    work();
  }
}

namespace {

using emulated::submit;

CUctx_st the_context;
CUmod_st the_module;

double now_milliseconds() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) * 1e-6;
}

CUresult copy(CUstream stream, void* to, const void* from, size_t bytes) {
  if (lost()) return CUDA_ERROR_LAUNCH_FAILED;
  submit(stream, [=] { std::memcpy(to, from, bytes); });
  return CUDA_SUCCESS;
}

template <typename T = void>
T* pointer(CUdeviceptr address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default"))) CUresult

/** Says that this is no driver of a device. */
extern "C" __attribute__((visibility("default"))) const int vllm_pd_emulated_driver = 1;

EXPORT cuInit(unsigned) { return num_devices() > 0 ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE; }
EXPORT cuDriverGetVersion(int* version) {
  return *version = static_cast<int>(number_from("VLLM_PD_EMULATED_VERSION", 13000)), CUDA_SUCCESS;
}
EXPORT cuGetErrorName(CUresult error, const char** name) {
  *name = error == CUDA_ERROR_INVALID_VALUE ? "CUDA_ERROR_INVALID_VALUE"
          : error == CUDA_ERROR_NOT_FOUND   ? "CUDA_ERROR_NOT_FOUND"
          : error == CUDA_ERROR_LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED"
          : error == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
                                            : "CUDA_ERROR_UNKNOWN";
  return CUDA_SUCCESS;
}
EXPORT cuGetErrorString(CUresult, const char** text) { return *text = "the emulated driver refuses", CUDA_SUCCESS; }
EXPORT cuDeviceGetCount(int* count) { return *count = num_devices(), CUDA_SUCCESS; }
EXPORT cuDeviceGet(CUdevice* device, int ordinal) {
  if (ordinal < 0 || ordinal >= num_devices()) return CUDA_ERROR_INVALID_VALUE;
  return *device = ordinal, CUDA_SUCCESS;
}
EXPORT cuDeviceGetName(char* name, int length, CUdevice) {
  std::snprintf(name, static_cast<size_t>(length), "Emulated GPU");
  return CUDA_SUCCESS;
}
EXPORT cuDeviceGetAttribute(int* value, int attribute, CUdevice) {
  const int capability = static_cast<int>(number_from("VLLM_PD_EMULATED_CAPABILITY", 90));
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 2; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = capability / 10; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = capability % 10; break;
    // The smallest of all devices that we support: 8.6 and 8.9.
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = 99 * 1024; break;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}
EXPORT cuDeviceTotalMem_v2(size_t* bytes, CUdevice) { return *bytes = total_bytes(), CUDA_SUCCESS; }
EXPORT cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) { return *context = &the_context, CUDA_SUCCESS; }
EXPORT cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
EXPORT cuCtxSetCurrent(CUcontext) { return lost() ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS; }
EXPORT cuModuleLoadData(CUmodule* module, const void*) { return *module = &the_module, CUDA_SUCCESS; }
EXPORT cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
EXPORT cuModuleGetFunction(CUfunction* function, CUmodule, const char* name) {
  const emulated::Kernel* const kernel = emulated::find_kernel(name);
  *function = reinterpret_cast<CUfunction>(const_cast<emulated::Kernel*>(kernel));
  return kernel ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
EXPORT cuFuncSetAttribute(CUfunction, int, int) { return CUDA_SUCCESS; }
EXPORT cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                      unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters,
                      void**) {
  ++num_launches;
  if (lost()) return CUDA_ERROR_LAUNCH_FAILED;
  const auto* const kernel = reinterpret_cast<const emulated::Kernel*>(function);
  if (block_y != 1 || block_z != 1 || block_x % 32 != 0 || static_cast<int>(block_x) > kernel->max_threads)
    return CUDA_ERROR_INVALID_VALUE;
  if (grid_y > 65535 || grid_z > 65535) return CUDA_ERROR_INVALID_VALUE;
  const auto* const bytes = static_cast<const uint8_t*>(parameters[0]);
  std::vector<uint64_t> args((kernel->args_bytes + 7) / 8);
  std::memcpy(args.data(), bytes, kernel->args_bytes);
  submit(stream, [=, args = std::move(args)] {
    const auto schedule = static_cast<uint32_t>(number_from("VLLM_PD_EMULATED_SCHEDULE", 0));
    emulated::run_grid(*kernel, args.data(), {grid_x, grid_y, grid_z}, {block_x, 1, 1}, shared_bytes, schedule);
  });
  return CUDA_SUCCESS;
}
EXPORT cuMemGetInfo_v2(size_t* free, size_t* total) {
  const std::lock_guard<std::mutex> guard(mutex);
  *free = total_bytes() - allocated_bytes;
  *total = total_bytes();
  return CUDA_SUCCESS;
}
EXPORT cuMemAlloc_v2(CUdeviceptr* memory, size_t bytes) {
  const std::lock_guard<std::mutex> guard(mutex);
  if (lost()) return CUDA_ERROR_LAUNCH_FAILED;
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (bytes > total_bytes() - allocated_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  const size_t mapped_bytes = to_pages(bytes);
  const int fd = memfd_create("vllm-pd-emulated-gpu", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(mapped_bytes)) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
  uint8_t* const mapping = map_guarded(fd, mapped_bytes);
  if (mapping == nullptr) return close(fd), CUDA_ERROR_OUT_OF_MEMORY;
  std::memset(mapping, 0xff, mapped_bytes);
  // Flush with the guard page, as far as alignment allows.
  uint8_t* const begin = mapping + (mapped_bytes - bytes) / 16 * 16;
  *memory = reinterpret_cast<CUdeviceptr>(begin);
  allocations[*memory] = {mapping, mapped_bytes, bytes, fd};
  allocated_bytes += bytes;
  return CUDA_SUCCESS;
}
EXPORT cuMemFree_v2(CUdeviceptr memory) {
  const std::lock_guard<std::mutex> guard(mutex);
  const auto found = allocations.find(memory);
  if (found == allocations.end()) return CUDA_ERROR_INVALID_VALUE;
  const Allocation& allocation = found->second;
  munmap(allocation.mapping, allocation.mapped_bytes + kPage);
  if (allocation.fd >= 0) close(allocation.fd);
  allocated_bytes -= allocation.num_bytes;
  allocations.erase(found);
  return CUDA_SUCCESS;
}
EXPORT cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
  *memory = std::aligned_alloc(kPage, to_pages(bytes));
  return *memory ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
EXPORT cuMemFreeHost(void* memory) { return std::free(memory), CUDA_SUCCESS; }
EXPORT cuMemHostRegister_v2(void*, size_t, unsigned) { return CUDA_SUCCESS; }
EXPORT cuMemHostUnregister(void*) { return CUDA_SUCCESS; }
EXPORT cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  return copy(stream, pointer(to), from, bytes);
}
EXPORT cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy(stream, to, pointer(from), bytes);
}
EXPORT cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy(stream, pointer(to), pointer(from), bytes);
}
EXPORT cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
  submit(stream, [=] { std::memset(pointer(to), value, bytes); });
  return CUDA_SUCCESS;
}
EXPORT cuStreamCreate(CUstream* stream, unsigned) { return *stream = new CUstream_st, CUDA_SUCCESS; }
EXPORT cuStreamDestroy_v2(CUstream stream) { return delete stream, CUDA_SUCCESS; }
EXPORT cuStreamSynchronize(CUstream stream) {
  if (lost()) return CUDA_ERROR_LAUNCH_FAILED;
  return stream && stream->capturing ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
EXPORT cuStreamWaitEvent(CUstream, CUevent, unsigned) { return CUDA_SUCCESS; }
EXPORT cuStreamBeginCapture_v2(CUstream stream, int) {
  if (stream->capturing) return CUDA_ERROR_INVALID_VALUE;
  return stream->capturing = true, CUDA_SUCCESS;
}
EXPORT cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  if (!stream->capturing) return CUDA_ERROR_INVALID_VALUE;
  stream->capturing = false;
  *graph = new CUgraph_st{std::move(stream->captured)};
  stream->captured.clear();
  return CUDA_SUCCESS;
}
EXPORT cuGraphInstantiateWithFlags(CUgraphExec* exec, CUgraph graph, unsigned long long) {
  return *exec = new CUgraphExec_st{graph->work}, CUDA_SUCCESS;
}
EXPORT cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  num_launches += static_cast<int64_t>(exec->work.size());
  if (lost()) return CUDA_ERROR_LAUNCH_FAILED;
  for (const auto& work : exec->work) submit(stream, work);
  return CUDA_SUCCESS;
}
EXPORT cuGraphDestroy(CUgraph graph) { return delete graph, CUDA_SUCCESS; }
EXPORT cuGraphExecDestroy(CUgraphExec exec) { return delete exec, CUDA_SUCCESS; }
EXPORT cuEventCreate(CUevent* event, unsigned) { return *event = new CUevent_st{0}, CUDA_SUCCESS; }
EXPORT cuEventDestroy_v2(CUevent event) { return delete event, CUDA_SUCCESS; }
EXPORT cuEventRecord(CUevent event, CUstream stream) {
  submit(stream, [event] { event->milliseconds = now_milliseconds(); });
  return CUDA_SUCCESS;
}
EXPORT cuEventQuery(CUevent) { return CUDA_SUCCESS; }
EXPORT cuEventSynchronize(CUevent) { return CUDA_SUCCESS; }
EXPORT cuEventElapsedTime(float* milliseconds, CUevent begin, CUevent end) {
  return *milliseconds = static_cast<float>(end->milliseconds - begin->milliseconds), CUDA_SUCCESS;
}
EXPORT cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr memory) {
  if (!shares_memory()) return CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard<std::mutex> guard(mutex);
  const auto found = allocations.find(memory);
  if (found == allocations.end()) return CUDA_ERROR_INVALID_VALUE;
  const Allocation& allocation = found->second;
  const SharedMemory shared{getpid(), allocation.fd, allocation.mapped_bytes,
                            static_cast<size_t>(memory - reinterpret_cast<CUdeviceptr>(allocation.mapping))};
  std::memcpy(handle->reserved, &shared, sizeof shared);
  return CUDA_SUCCESS;
}
EXPORT cuIpcOpenMemHandle_v2(CUdeviceptr* memory, CUipcMemHandle handle, unsigned) {
  if (!shares_memory()) return CUDA_ERROR_INVALID_VALUE;
  SharedMemory shared;
  std::memcpy(&shared, handle.reserved, sizeof shared);
  // As a device's driver: the process that made it has the memory already.
  if (shared.pid == getpid()) return CUDA_ERROR_INVALID_VALUE;
  const std::string path = "/proc/" + std::to_string(shared.pid) + "/fd/" + std::to_string(shared.fd);
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return CUDA_ERROR_INVALID_VALUE;
  struct stat status;
  uint8_t* mapping = nullptr;
  if (fstat(fd, &status) == 0 && static_cast<size_t>(status.st_size) == shared.mapped_bytes &&
      shared.offset < shared.mapped_bytes) {
    mapping = map_guarded(fd, shared.mapped_bytes);
  }
  close(fd);
  if (mapping == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard<std::mutex> guard(mutex);
  *memory = reinterpret_cast<CUdeviceptr>(mapping + shared.offset);
  allocations[*memory] = {mapping, shared.mapped_bytes, 0, -1};
  return CUDA_SUCCESS;
}
EXPORT cuIpcCloseMemHandle(CUdeviceptr memory) { return cuMemFree_v2(memory); }
