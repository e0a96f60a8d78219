// The parts of the module's face, one file each: what each of them adds to the exports.
#pragma once

#include <napi.h>

#include "addon/errors.h"

namespace vllm_pd::addon {

void add_facts(Napi::Object exports);
void add_checksums(Napi::Object exports);
void add_pool(Napi::Object exports);
void add_peer_pool(Napi::Object exports);
void add_data_server(Napi::Object exports);
void add_data_lanes(Napi::Object exports);
void add_model(Napi::Object exports);
void add_probe(Napi::Object exports);

template <Napi::Value (*function)(const Napi::CallbackInfo&)>
void add_function(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<guarded<function>>(exports.Env()));
}

}  // namespace vllm_pd::addon
