// The part of the CUDA driver's ABI that we use, declared here so that building needs no toolkit. Names, types and
// values are the driver's own (cuda.h); functions come from libcuda.so.1 at run time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vllm_pd::cuda {

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;
using CUgraph = struct CUgraph_st*;
using CUgraphExec = struct CUgraphExec_st*;

struct CUipcMemHandle {
  char reserved[64];
};

constexpr CUresult CUDA_SUCCESS = 0;
constexpr CUresult CUDA_ERROR_INVALID_VALUE = 1;
constexpr CUresult CUDA_ERROR_OUT_OF_MEMORY = 2;
constexpr CUresult CUDA_ERROR_NO_DEVICE = 100;
constexpr CUresult CUDA_ERROR_ECC_UNCORRECTABLE = 214;
constexpr CUresult CUDA_ERROR_NVLINK_UNCORRECTABLE = 220;
constexpr CUresult CUDA_ERROR_NOT_FOUND = 500;
constexpr CUresult CUDA_ERROR_NOT_READY = 600;
constexpr CUresult CUDA_ERROR_ILLEGAL_ADDRESS = 700;
constexpr CUresult CUDA_ERROR_LAUNCH_TIMEOUT = 702;
constexpr CUresult CUDA_ERROR_CONTEXT_IS_DESTROYED = 709;
constexpr CUresult CUDA_ERROR_ASSERT = 710;
constexpr CUresult CUDA_ERROR_HARDWARE_STACK_ERROR = 714;
constexpr CUresult CUDA_ERROR_ILLEGAL_INSTRUCTION = 715;
constexpr CUresult CUDA_ERROR_MISALIGNED_ADDRESS = 716;
constexpr CUresult CUDA_ERROR_INVALID_ADDRESS_SPACE = 717;
constexpr CUresult CUDA_ERROR_INVALID_PC = 718;
constexpr CUresult CUDA_ERROR_LAUNCH_FAILED = 719;
constexpr CUresult CUDA_ERROR_UNKNOWN = 999;

constexpr int CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16;
constexpr int CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75;
constexpr int CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76;
constexpr int CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97;
constexpr int CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;
constexpr unsigned CU_STREAM_NON_BLOCKING = 1;
constexpr unsigned CU_EVENT_DEFAULT = 0;
constexpr unsigned CU_EVENT_DISABLE_TIMING = 2;
constexpr unsigned CU_MEMHOSTALLOC_PORTABLE = 1;
constexpr unsigned CU_MEMHOSTREGISTER_PORTABLE = 1;
constexpr unsigned CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS = 1;
constexpr int CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1;

/** X(our name, exported symbol, parameters): what is looked up, all of it required. */
#define VLLM_PD_DRIVER_FUNCTIONS(X)                                                                                  \
  X(cuInit, "cuInit", (unsigned flags))                                                                              \
  X(cuDriverGetVersion, "cuDriverGetVersion", (int* version))                                                        \
  X(cuGetErrorName, "cuGetErrorName", (CUresult error, const char** name))                                           \
  X(cuGetErrorString, "cuGetErrorString", (CUresult error, const char** text))                                       \
  X(cuDeviceGetCount, "cuDeviceGetCount", (int* count))                                                              \
  X(cuDeviceGet, "cuDeviceGet", (CUdevice * device, int ordinal))                                                    \
  X(cuDeviceGetName, "cuDeviceGetName", (char* name, int length, CUdevice device))                                   \
  X(cuDeviceGetAttribute, "cuDeviceGetAttribute", (int* value, int attribute, CUdevice device))                      \
  X(cuDeviceTotalMem, "cuDeviceTotalMem_v2", (size_t * bytes, CUdevice device))                                      \
  X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (CUcontext * context, CUdevice device))                    \
  X(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (CUdevice device))                                    \
  X(cuCtxSetCurrent, "cuCtxSetCurrent", (CUcontext context))                                                         \
  X(cuModuleLoadData, "cuModuleLoadData", (CUmodule * module, const void* image))                                    \
  X(cuModuleUnload, "cuModuleUnload", (CUmodule module))                                                             \
  X(cuModuleGetFunction, "cuModuleGetFunction", (CUfunction * function, CUmodule module, const char* name))          \
  X(cuFuncSetAttribute, "cuFuncSetAttribute", (CUfunction function, int attribute, int value))                       \
  X(cuLaunchKernel, "cuLaunchKernel",                                                                                \
    (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,     \
     unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters, void** extra))                     \
  X(cuMemGetInfo, "cuMemGetInfo_v2", (size_t * free, size_t* total))                                                 \
  X(cuMemAlloc, "cuMemAlloc_v2", (CUdeviceptr * memory, size_t bytes))                                               \
  X(cuMemFree, "cuMemFree_v2", (CUdeviceptr memory))                                                                 \
  X(cuMemHostAlloc, "cuMemHostAlloc", (void** memory, size_t bytes, unsigned flags))                                 \
  X(cuMemFreeHost, "cuMemFreeHost", (void* memory))                                                                  \
  X(cuMemHostRegister, "cuMemHostRegister_v2", (void* memory, size_t bytes, unsigned flags))                         \
  X(cuMemHostUnregister, "cuMemHostUnregister", (void* memory))                                                      \
  X(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", (CUdeviceptr to, const void* from, size_t bytes, CUstream stream))    \
  X(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", (void* to, CUdeviceptr from, size_t bytes, CUstream stream))          \
  X(cuMemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2", (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))    \
  X(cuMemsetD8Async, "cuMemsetD8Async", (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream))        \
  X(cuStreamCreate, "cuStreamCreate", (CUstream * stream, unsigned flags))                                           \
  X(cuStreamDestroy, "cuStreamDestroy_v2", (CUstream stream))                                                        \
  X(cuStreamSynchronize, "cuStreamSynchronize", (CUstream stream))                                                   \
  X(cuStreamWaitEvent, "cuStreamWaitEvent", (CUstream stream, CUevent event, unsigned flags))                        \
  X(cuStreamBeginCapture, "cuStreamBeginCapture_v2", (CUstream stream, int mode))                                    \
  X(cuStreamEndCapture, "cuStreamEndCapture", (CUstream stream, CUgraph* graph))                                     \
  X(cuGraphInstantiate, "cuGraphInstantiateWithFlags", (CUgraphExec * exec, CUgraph graph, unsigned long long flags)) \
  X(cuGraphLaunch, "cuGraphLaunch", (CUgraphExec exec, CUstream stream))                                             \
  X(cuGraphDestroy, "cuGraphDestroy", (CUgraph graph))                                                               \
  X(cuGraphExecDestroy, "cuGraphExecDestroy", (CUgraphExec exec))                                                    \
  X(cuEventCreate, "cuEventCreate", (CUevent * event, unsigned flags))                                               \
  X(cuEventDestroy, "cuEventDestroy_v2", (CUevent event))                                                            \
  X(cuEventRecord, "cuEventRecord", (CUevent event, CUstream stream))                                                \
  X(cuEventQuery, "cuEventQuery", (CUevent event))                                                                   \
  X(cuEventSynchronize, "cuEventSynchronize", (CUevent event))                                                       \
  X(cuEventElapsedTime, "cuEventElapsedTime", (float* milliseconds, CUevent begin, CUevent end))                     \
  X(cuIpcGetMemHandle, "cuIpcGetMemHandle", (CUipcMemHandle * handle, CUdeviceptr memory))                           \
  X(cuIpcOpenMemHandle, "cuIpcOpenMemHandle_v2", (CUdeviceptr * memory, CUipcMemHandle handle, unsigned flags))      \
  X(cuIpcCloseMemHandle, "cuIpcCloseMemHandle", (CUdeviceptr memory))

/** The driver's functions; all set once it is loaded. */
struct DriverFunctions {
#define VLLM_PD_DECLARE(name, symbol, parameters) CUresult(*name) parameters = nullptr;
  VLLM_PD_DRIVER_FUNCTIONS(VLLM_PD_DECLARE)
#undef VLLM_PD_DECLARE
};

}  // namespace vllm_pd::cuda
