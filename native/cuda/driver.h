// The CUDA driver, found at run time: the addon is built, loads and works where there is none. What the driver refuses
// is thrown as Error with its own words.
#pragma once

#include <string>

#include "cuda/driver_api.h"

namespace vllm_pd::cuda {

/**
 * Loads `libcuda.so.1`, or what VLLM_PD_LIBCUDA names, on the first call. Throws NOT_SUPPORTED, each time with the
 * same sentence, where it is missing, too old or refuses to start.
 */
const DriverFunctions& driver();

/** Empty, or the sentence that driver() throws. */
const std::string& why_no_driver();

/** 13000 = CUDA 13.0; 0 without a driver. */
int driver_version();

/** The tests' driver brings the kernels itself, compiled for the host. */
bool driver_is_emulated();

/** Its name and words for a result, e.g. `CUDA_ERROR_NOT_FOUND: named symbol not found`. */
std::string driver_words(CUresult result);

/**
 * Throws for any result but success: what was tried, and the driver's words for what happened. DEVICE_LOST where nothing
 * on the device can succeed any more in this process, INTERNAL otherwise.
 */
void check(CUresult result, const char* what);

}  // namespace vllm_pd::cuda
