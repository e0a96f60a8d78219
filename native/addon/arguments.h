// Arguments of exported functions as C++ values, and handles: objects of ours that JavaScript only passes around.
#pragma once

#include <napi.h>

#include <cstdint>
#include <vector>

namespace vllm_pd::addon {

inline int64_t to_int(const Napi::Value& value) { return value.As<Napi::Number>().Int64Value(); }

inline std::vector<int32_t> to_ints(const Napi::Value& value) {
  const auto array = value.As<Napi::Int32Array>();
  return std::vector<int32_t>(array.Data(), array.Data() + array.ElementLength());
}

inline std::vector<uint8_t> to_bytes(const Napi::Value& value) {
  const auto array = value.As<Napi::Uint8Array>();
  return std::vector<uint8_t>(array.Data(), array.Data() + array.ElementLength());
}

template <typename Handle>
Handle& handle(const Napi::Value& value) {
  return *value.As<Napi::External<Handle>>().Data();
}

template <typename Handle>
Napi::Value new_handle(Napi::Env env, Handle* handle) {
  return Napi::External<Handle>::New(env, handle, [](Napi::Env, Handle* dead) { delete dead; });
}

}  // namespace vllm_pd::addon
