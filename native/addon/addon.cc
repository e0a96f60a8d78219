// The module's face towards Node: only this folder knows Node-API. src/native/ has checked the types of all arguments;
// ranges that only the C++ side knows are checked behind this folder.
#include <napi.h>

#include "addon/exports.h"
#include "addon/instance.h"

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  using namespace vllm_pd::addon;
  env.SetInstanceData(new Instance);
  add_facts(exports);
  add_checksums(exports);
  add_pool(exports);
  add_peer_pool(exports);
  add_data_server(exports);
  add_data_lanes(exports);
  add_model(exports);
  add_probe(exports);
  return exports;
}
NODE_API_MODULE(vllm_pd, initialize)
