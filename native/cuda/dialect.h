// The CUDA that our kernels are written in: nvcc's own, or for tests the same words for the host (emulated/grid.h).
//
// A kernel takes one struct (args.h) and is declared as
//   VLLM_PD_KERNEL(rms_norm_bf16, RmsNormArgs, 256) { rms_norm<BF16>(args); }
// 256 being its threads per block at most. All shared memory is dynamic: shared_memory<T>() is its beginning.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

#define VLLM_PD_DEVICE __device__ __forceinline__
#define VLLM_PD_KERNEL(name, Args, max_threads) \
  extern "C" __global__ void __launch_bounds__(max_threads) name(const __grid_constant__ Args args)

namespace vllm_pd::cuda {

template <typename T>
VLLM_PD_DEVICE T* shared_memory() {
  extern __shared__ uint4 bytes[];
  return reinterpret_cast<T*>(bytes);
}

VLLM_PD_DEVICE void barrier() { __syncthreads(); }
VLLM_PD_DEVICE void warp_barrier() { __syncwarp(); }

/** The value of lane ^ `mask`, of lane `lane`, or of the lane `delta` before this one (its own where none is). */
template <typename T>
VLLM_PD_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <typename T>
VLLM_PD_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
template <typename T>
VLLM_PD_DEVICE T shuffle_up(T value, int delta) {
  return __shfl_up_sync(0xffffffffu, value, delta);
}
VLLM_PD_DEVICE bool any_lane(bool value) { return __any_sync(0xffffffffu, value); }

VLLM_PD_DEVICE void atomic_add(uint64_t* sum, uint64_t value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(value));
}

VLLM_PD_DEVICE float as_float(uint32_t bits) { return __uint_as_float(bits); }
VLLM_PD_DEVICE uint32_t as_bits(float value) { return __float_as_uint(value); }
VLLM_PD_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
VLLM_PD_DEVICE float square_root(float x) { return __fsqrt_rn(x); }

/** 2^x, within 2 ulp; 2^-inf = 0. */
VLLM_PD_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/** e^x, within 1 ulp. */
VLLM_PD_DEVICE double exponential(double x) { return exp(x); }

VLLM_PD_DEVICE float negative_infinity() { return __uint_as_float(0xff800000u); }

}  // namespace vllm_pd::cuda

#else
#include "cuda/emulated/grid.h"
#endif
