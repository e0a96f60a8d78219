// Pools of other processes on this machine, mapped and read.
#include <algorithm>
#include <memory>
#include <string>
#include <thread>

#include "addon/arguments.h"
#include "addon/exports.h"
#include "addon/instance.h"
#include "addon/pool.h"
#include "addon/promise.h"
#include "error.h"
#include "kv_cache.h"
#include "threads.h"
#include "transfer.h"

namespace vllm_pd::addon {
namespace {

struct PeerHandle {
  std::shared_ptr<KvRegion> region;
};

/**
 * More copy no faster: two or so fill a memory channel's share, and the engine computes beside them. The
 * thread that reads are queued on is one of them.
 */
int num_transfer_threads() {
  const int num_cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::clamp(num_cores / 2, 2, 4);
}

Napi::Value count_transfer_threads(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), num_transfer_threads());
}

// openPeerPool(pid, fd, layout) → handle
Napi::Value open_peer_pool(const Napi::CallbackInfo& info) {
  const KvRegion region = open_peer_region(static_cast<int>(to_int(info[0])),
                                           static_cast<int>(to_int(info[1])), to_layout(info[2]));
  return new_handle(info.Env(), new PeerHandle{std::make_shared<KvRegion>(region)});
}

// readPeerPool(peer, pool, remoteBlockIds, localBlockIds, hashes) → Promise<Uint8Array>
Napi::Value read_peer_pool(const Napi::CallbackInfo& info) {
  const auto remote = handle<PeerHandle>(info[0]).region;
  if (!remote) throw Error("INVALID_ARGUMENT", "The peer's KV pool is closed.");
  const auto cache = open_cache(info[1]);
  const auto remote_ids = to_ints(info[2]);
  const auto local_ids = to_ints(info[3]);
  check_block_ids(remote->layout, remote_ids);
  check_block_ids(cache->layout(), local_ids);
  if (remote->layout.block_bytes() != cache->layout().block_bytes()) {
    throw Error("INVALID_ARGUMENT", "Expected a local KV pool with blocks of " +
                                        std::to_string(remote->layout.block_bytes()) +
                                        " bytes but received one of " + cache->layout().to_string() + ".");
  }
  auto& instance = *info.Env().GetInstanceData<Instance>();
  if (!instance.transfers) {
    instance.transfers = instance.new_thread();
    instance.transfer_pool = std::make_shared<ThreadPool>(num_transfer_threads());
  }
  return run_for_bytes(info.Env(), *instance.transfers,
                       [=, threads = instance.transfer_pool, hashes = to_bytes(info[4])] {
                         return read_blocks(*threads, *remote, cache->region(), remote_ids, local_ids, hashes);
                       });
}

Napi::Value close_peer_pool(const Napi::CallbackInfo& info) {
  handle<PeerHandle>(info[0]).region.reset();
  return info.Env().Undefined();
}

}  // namespace

void add_peer_pool(Napi::Object exports) {
  add_function<count_transfer_threads>(exports, "numTransferThreads");
  add_function<open_peer_pool>(exports, "openPeerPool");
  add_function<read_peer_pool>(exports, "readPeerPool");
  add_function<close_peer_pool>(exports, "closePeerPool");
}

}  // namespace vllm_pd::addon
