// A pool's blocks in device memory, this process's own or a peer's, and how they get from there to elsewhere.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/device_memory.h"
#include "cuda/stream.h"
#include "cuda/launch.h"
#include "kv_cache.h"

namespace vllm_pd::cuda {

/** Copies run on a stream of their own, beside what is computed, and have ended when they return. Any thread. */
class DeviceBlocks {
 public:
  /** Zeros. Throws INVALID_ARGUMENT where they do not fit, NOT_SUPPORTED without a device. */
  static std::shared_ptr<DeviceBlocks> allocate(const KvLayout& layout);
  /** Also of blocks of this very process. Throws PEER_FAILED where it has no device that reaches them. */
  static std::shared_ptr<DeviceBlocks> open_peer(const KvLayout& layout, const CUipcMemHandle& handle);

  uint8_t* address() const { return reinterpret_cast<uint8_t*>(base_); }
  /** Of blocks made by `allocate`. */
  const CUipcMemHandle& ipc_handle() const { return ipc_handle_; }

  /** Block ids[i] → block_bytes at to[i]. */
  void to_host(const std::vector<int32_t>& ids, const std::vector<uint8_t*>& to);
  /** block_bytes at from[i] → block ids[i]. */
  void from_host(const std::vector<int32_t>& ids, const std::vector<const uint8_t*>& from);
  /** Block peer_ids[i] of `peer` → block ids[i]. */
  void copy_from(const DeviceBlocks& peer, const std::vector<int32_t>& peer_ids, const std::vector<int32_t>& ids);

 private:
  DeviceBlocks(std::shared_ptr<Device> device, int64_t block_bytes);
  CUdeviceptr block(int32_t id) const { return base_ + static_cast<CUdeviceptr>(id * block_bytes_); }
  PinnedMemory& staging();

  std::shared_ptr<Device> device_;
  int64_t block_bytes_;
  DeviceMemory memory_;
  CUipcMemHandle ipc_handle_{};
  std::unique_ptr<PeerMemory> peer_memory_;
  /** Whose memory this is, where that is this process. */
  std::shared_ptr<DeviceBlocks> owner_;
  CUdeviceptr base_ = 0;
  Kernels kernels_;
  Stream stream_;
  std::mutex mutex_;
  std::unique_ptr<PinnedMemory> staging_;
  /** Ids of a copy between devices, (2, num_ids): the peer's, then ours. */
  std::unique_ptr<PinnedMemory> host_ids_;
  DeviceMemory ids_;
};

}  // namespace vllm_pd::cuda
