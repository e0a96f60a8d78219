// Finds the driver's library and its functions.
#include "cuda/driver.h"

#include <dlfcn.h>

#include <cstdlib>

#include "error.h"

namespace vllm_pd::cuda {
namespace {

std::string words_of(const DriverFunctions& functions, CUresult result) {
  const char* name = nullptr;
  const char* text = nullptr;
  functions.cuGetErrorName(result, &name);
  functions.cuGetErrorString(result, &text);
  return std::string(name ? name : "error " + std::to_string(result)) + ": " + (text ? text : "unknown");
}

/** The library stays loaded: its threads may outlive us. */
struct LoadedDriver {
  DriverFunctions functions;
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
      why_not = "The CUDA driver does not start: " + words_of(functions, result) + ".";
    }
  }
};

const LoadedDriver& loaded_driver() {
  static const LoadedDriver loaded;
  return loaded;
}

/** Errors that stay with the context: every later call fails, too (cuda.h says which). */
bool is_final(CUresult result) {
  switch (result) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_CONTEXT_IS_DESTROYED:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_UNKNOWN: return true;
    default: return false;
  }
}

}  // namespace

const DriverFunctions& driver() {
  const LoadedDriver& loaded = loaded_driver();
  if (!loaded.why_not.empty()) throw Error("NOT_SUPPORTED", loaded.why_not);
  return loaded.functions;
}

const std::string& why_no_driver() { return loaded_driver().why_not; }

int driver_version() {
  int version = 0;
  const auto ask = loaded_driver().functions.cuDriverGetVersion;
  return ask && ask(&version) == CUDA_SUCCESS ? version : 0;
}

bool driver_is_emulated() { return loaded_driver().emulated; }

std::string driver_words(CUresult result) { return words_of(driver(), result); }

void check(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return;
  throw Error(is_final(result) ? "DEVICE_LOST" : "INTERNAL",
              std::string("The CUDA driver could not ") + what + ": " + driver_words(result) + ".");
}

}  // namespace vllm_pd::cuda
