// What this build and this machine are.
#include <string>

#include "addon/exports.h"
#include "cpu/isa.h"
#include "cuda/cublaslt.h"
#include "cuda/cuda_model.h"
#include "cuda/device_memory.h"
#include "cuda/facts.h"
#include "model.h"

namespace vllm_pd::addon {
namespace {

Napi::Value isa(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), cpu::chosen_kernels().isa);
}

// defaultDtype() → 'float32' or 'bfloat16'
Napi::Value default_dtype(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(),
                           cpu::default_weight_type() == WeightType::kBFloat16 ? "bfloat16" : "float32");
}

// cudaFacts() → what src/native/ declares as CudaFacts
Napi::Value cuda_facts(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const cuda::CudaFacts facts = cuda::cuda_facts();
  auto object = Napi::Object::New(env);
  auto devices = Napi::Array::New(env, facts.devices.size());
  for (uint32_t i = 0; i < facts.devices.size(); ++i) {
    const cuda::DeviceInfo& device = facts.devices[i];
    auto entry = Napi::Object::New(env);
    entry.Set("name", device.name);
    entry.Set("capability",
              std::to_string(device.capability_major) + "." + std::to_string(device.capability_minor));
    entry.Set("numMultiprocessors", device.num_multiprocessors);
    entry.Set("memoryBytes", static_cast<double>(device.memory_bytes));
    devices.Set(i, entry);
  }
  object.Set("driverVersion", facts.driver_version);
  object.Set("devices", devices);
  object.Set("fatbinBytes", static_cast<double>(facts.fatbin_bytes));
  object.Set("whyNot", facts.why_not);
  object.Set("whyNoCublasLt", cuda::why_no_cublaslt());
  return object;
}

// buildFacts() → { compiler, nvcc }, nvcc being empty where the kernels were left out
Napi::Value build_facts(const Napi::CallbackInfo& info) {
  auto object = Napi::Object::New(info.Env());
  object.Set("compiler", VLLM_PD_COMPILER);
  object.Set("nvcc", VLLM_PD_NVCC_VERSION);
  return object;
}

// cudaMemory() → { free, own, total } bytes of the device
Napi::Value cuda_memory(const Napi::CallbackInfo& info) {
  const auto [free, total] = cuda::shared_device()->memory();
  auto object = Napi::Object::New(info.Env());
  object.Set("free", static_cast<double>(free));
  object.Set("own", static_cast<double>(cuda::allocated_bytes()));
  object.Set("total", static_cast<double>(total));
  return object;
}

}  // namespace

void add_facts(Napi::Object exports) {
  add_function<isa>(exports, "isa");
  add_function<default_dtype>(exports, "defaultDtype");
  add_function<cuda_facts>(exports, "cudaFacts");
  add_function<build_facts>(exports, "buildFacts");
  add_function<cuda_memory>(exports, "cudaMemory");
}

}  // namespace vllm_pd::addon
