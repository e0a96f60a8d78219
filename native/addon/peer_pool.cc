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
#include "copy_choice.h"
#include "error.h"
#include "kv_cache.h"
#include "threads.h"
#include "transfer.h"

namespace vllm_pd::addon {
namespace {

struct PeerHandle {
  std::shared_ptr<KvRegion> region;
  bool is_touched = false;
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

/**
 * Up to here a read is done before another thread would have begun with it, and holds up the event loop for less than a
 * step of the smallest model takes.
 */
constexpr int64_t kShortReadBytes = 4 << 20;

// openPeerPool(pid, fd, layout) → handle
Napi::Value open_peer_pool(const Napi::CallbackInfo& info) {
  const KvRegion region = open_peer_region(static_cast<int>(to_int(info[0])),
                                           static_cast<int>(to_int(info[1])), to_layout(info[2]));
  return new_handle(info.Env(), new PeerHandle{std::make_shared<KvRegion>(region)});
}

/** Once a peer, behind what is queued on `transfers`: its first read does not compete with it. */
void touch_behind(Instance& instance, PeerHandle& peer) {
  if (peer.is_touched) return;
  peer.is_touched = true;
  // On a thread of its own, for the next read should not wait either.
  instance.transfers->submit([thread = instance.new_thread(), closing = instance.closing,
                              mapping = std::weak_ptr<Mapping>(peer.region->mapping)] {
    thread->submit([=] {
      find_long_copy(num_transfer_threads());
      touch_pages(mapping, *closing);
    });
    thread->stop();
  });
}

Napi::Value to_array(Napi::Env env, const std::vector<uint8_t>& bytes) {
  auto array = Napi::Uint8Array::New(env, bytes.size());
  std::copy(bytes.begin(), bytes.end(), array.Data());
  return array;
}

// peerPoolOnDevice(peer) → whether its blocks lie in a device's memory
Napi::Value peer_pool_on_device(const Napi::CallbackInfo& info) {
  const auto region = handle<PeerHandle>(info[0]).region;
  if (!region) throw Error("INVALID_ARGUMENT", "The peer's KV pool is closed.");
  return Napi::Boolean::New(info.Env(), region->device != nullptr);
}

// readPeerPool(peer, pool, remoteBlockIds, localBlockIds, hashes) → Uint8Array, or a promise of it
Napi::Value read_peer_pool(const Napi::CallbackInfo& info) {
  auto& peer = handle<PeerHandle>(info[0]);
  const auto remote = peer.region;
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
  auto& threads = instance.transfer_pool;
  auto hashes = to_bytes(info[4]);
  const bool on_device = remote->device || cache->region().device;
  const auto num_bytes = static_cast<int64_t>(remote_ids.size()) * remote->layout.block_bytes();
  // Nobody else uses the threads then, and nobody but this one could begin to.
  if (num_bytes <= kShortReadBytes && !on_device && *instance.num_reads == 0) {
    const auto valid = read_blocks(*threads, *remote, cache->region(), remote_ids, local_ids, hashes);
    touch_behind(instance, peer);
    return to_array(info.Env(), valid);
  }
  *instance.num_reads += 1;
  threads->rouse();
  const auto arrived = run_for_bytes(info.Env(), *instance.transfers,
                       [=, hashes = std::move(hashes), num_reads = instance.num_reads] {
                         struct Counted {
                           std::atomic<int>& count;
                           ~Counted() { count -= 1; }
                         } counted{*num_reads};
                         return read_blocks(*threads, *remote, cache->region(), remote_ids, local_ids, hashes);
                       });
  touch_behind(instance, peer);
  return arrived;
}

Napi::Value close_peer_pool(const Napi::CallbackInfo& info) {
  handle<PeerHandle>(info[0]).region.reset();
  return info.Env().Undefined();
}

}  // namespace

void add_peer_pool(Napi::Object exports) {
  add_function<count_transfer_threads>(exports, "numTransferThreads");
  add_function<open_peer_pool>(exports, "openPeerPool");
  add_function<peer_pool_on_device>(exports, "peerPoolOnDevice");
  add_function<read_peer_pool>(exports, "readPeerPool");
  add_function<close_peer_pool>(exports, "closePeerPool");
}

}  // namespace vllm_pd::addon
