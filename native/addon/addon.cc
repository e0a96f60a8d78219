// The module's face towards Node: only this folder knows Node-API. src/native/ has checked the types of all arguments;
// ranges that only the C++ side knows are checked behind this folder.
#include <napi.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "addon/exports.h"
#include "addon/instance.h"

/**
 * Bodies and answers of some hundred kilobytes come and go with every turn. By default the system gets each back when it
 * is freed, and the next one is faulted in page by page: a third of the time of a cache query of 32k tokens.
 */
static void keep_freed_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 4 << 20);
  mallopt(M_TRIM_THRESHOLD, 64 << 20);
#endif
}

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  using namespace vllm_pd::addon;
  keep_freed_memory();
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
