// How C++ exceptions reach JavaScript.
#pragma once

#include <napi.h>

#include <exception>

namespace vllm_pd::addon {

/** With the `code` of an Error, or INTERNAL. */
Napi::Error to_js(Napi::Env env, const std::exception_ptr& exception);

/** Wraps an exported function: C++ exceptions become errors with a `code`. */
template <Napi::Value (*function)(const Napi::CallbackInfo&)>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  try {
    return function(info);
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js(info.Env(), std::current_exception());
  }
}

}  // namespace vllm_pd::addon
