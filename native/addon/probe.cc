// Pieces of native work for micro-benchmarks.
#include <memory>
#include <string>
#include <vector>

#include "addon/arguments.h"
#include "addon/exports.h"
#include "error.h"
#include "probe/probe.h"

namespace vllm_pd::addon {
namespace {

struct ProbeHandle {
  std::unique_ptr<Probe> probe;
};

// createProbe(kind, sizes) → handle
Napi::Value create_probe(const Napi::CallbackInfo& info) {
  const auto array = info[1].As<Napi::Array>();
  std::vector<int64_t> sizes;
  for (uint32_t i = 0; i < array.Length(); ++i) sizes.push_back(to_int(array.Get(i)));
  return new_handle(info.Env(), new ProbeHandle{make_probe(info[0].As<Napi::String>(), sizes)});
}

Napi::Value run_probe(const Napi::CallbackInfo& info) {
  const auto& probe = handle<ProbeHandle>(info[0]).probe;
  if (!probe) throw Error("INVALID_ARGUMENT", "The probe is closed.");
  probe->run();
  return info.Env().Undefined();
}

Napi::Value close_probe(const Napi::CallbackInfo& info) {
  handle<ProbeHandle>(info[0]).probe.reset();
  return info.Env().Undefined();
}

}  // namespace

void add_probe(Napi::Object exports) {
  add_function<create_probe>(exports, "createProbe");
  add_function<run_probe>(exports, "runProbe");
  add_function<close_probe>(exports, "closeProbe");
}

}  // namespace vllm_pd::addon
