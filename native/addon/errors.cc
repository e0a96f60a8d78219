// Exceptions as JavaScript errors with a code.
#include "addon/errors.h"

#include <new>
#include <string>

#include "error.h"

namespace vllm_pd::addon {
namespace {

Napi::Error with_code(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

}  // namespace

Napi::Error to_js(Napi::Env env, const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    return with_code(env, error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return with_code(env, "INTERNAL", "Out of memory.");
  } catch (const std::exception& error) {
    return with_code(env, "INTERNAL", error.what());
  }
}

}  // namespace vllm_pd::addon
