// convert: between float32 and the model's element types, at load and for what leaves the device. Grid-stride,
// 256 threads.
#include "cuda/args.h"
#include "cuda/element.h"

namespace vllm_pd::cuda {

template <typename From, typename To>
VLLM_PD_DEVICE void convert(const ConvertArgs& args) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < args.count; i += step)
    static_cast<To*>(args.to)[i] = from_float<To>(to_float(static_cast<const From*>(args.from)[i]));
}

VLLM_PD_KERNEL(convert_f32_to_bf16, ConvertArgs, 256) { convert<float, BF16>(args); }
VLLM_PD_KERNEL(convert_f32_to_f16, ConvertArgs, 256) { convert<float, F16>(args); }
VLLM_PD_KERNEL(convert_f32_to_e4m3, ConvertArgs, 256) { convert<float, E4M3>(args); }
VLLM_PD_KERNEL(convert_bf16_to_f32, ConvertArgs, 256) { convert<BF16, float>(args); }
VLLM_PD_KERNEL(convert_f16_to_f32, ConvertArgs, 256) { convert<F16, float>(args); }
VLLM_PD_KERNEL(convert_e4m3_to_f32, ConvertArgs, 256) { convert<E4M3, float>(args); }

}  // namespace vllm_pd::cuda
