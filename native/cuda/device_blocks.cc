// A pool's blocks in device memory.
#include "cuda/device_blocks.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "error.h"

namespace vllm_pd::cuda {
namespace {

/** Pinned memory that a copy to or from the host goes through; as many whole blocks as fit, one at least. */
constexpr int64_t kStagingBytes = 16 << 20;

/** The driver cuts smaller allocations out of pieces of this size, and an IPC handle opens the whole piece. */
constexpr int64_t kSharedGranularity = 2 << 20;

/** Where the driver shares no memory, one that nobody else can open: peers read over tcp then. */
CUipcMemHandle handle_of(const DeviceMemory& memory) {
  try {
    return memory.ipc_handle();
  } catch (const Error&) {
    CUipcMemHandle handle{};
    const uint64_t name[] = {static_cast<uint64_t>(getpid()), memory.address()};
    std::memcpy(handle.reserved, name, sizeof name);
    return handle;
  }
}

/** What this process has allocated: CUDA opens a handle in other processes only. */
struct OwnBlocks {
  std::mutex mutex;
  std::vector<std::weak_ptr<DeviceBlocks>> all;

  void add(const std::shared_ptr<DeviceBlocks>& blocks) {
    const std::lock_guard<std::mutex> guard(mutex);
    const auto gone = [](const std::weak_ptr<DeviceBlocks>& weak) { return weak.expired(); };
    all.erase(std::remove_if(all.begin(), all.end(), gone), all.end());
    all.push_back(blocks);
  }

  /** Null where they are another process's. */
  std::shared_ptr<DeviceBlocks> find(const CUipcMemHandle& handle) {
    const std::lock_guard<std::mutex> guard(mutex);
    for (const auto& weak : all) {
      const std::shared_ptr<DeviceBlocks> blocks = weak.lock();
      if (blocks && std::memcmp(&blocks->ipc_handle(), &handle, sizeof handle) == 0) return blocks;
    }
    return nullptr;
  }
};

OwnBlocks& own_blocks() {
  static OwnBlocks blocks;
  return blocks;
}

std::shared_ptr<Device> device_for_peer() {
  try {
    return shared_device();
  } catch (const Error& error) {
    throw Error("PEER_FAILED", std::string("The peer's blocks lie on a device. ") + error.what());
  }
}

}  // namespace

DeviceBlocks::DeviceBlocks(std::shared_ptr<Device> device, int64_t block_bytes)
    : device_(std::move(device)),
      block_bytes_(block_bytes),
      kernels_(device_, ElementType::kBF16, KvType::kBF16),
      stream_(device_) {}

std::shared_ptr<DeviceBlocks> DeviceBlocks::allocate(const KvLayout& layout) {
  std::shared_ptr<DeviceBlocks> blocks(new DeviceBlocks(shared_device(), layout.block_bytes()));
  const int64_t pieces = (layout.num_blocks * layout.block_bytes() + kSharedGranularity - 1) / kSharedGranularity;
  blocks->memory_ = DeviceMemory(blocks->device_, pieces * kSharedGranularity);
  blocks->base_ = blocks->memory_.address();
  blocks->ipc_handle_ = handle_of(blocks->memory_);
  own_blocks().add(blocks);
  blocks->stream_.fill(blocks->base_, 0, blocks->memory_.num_bytes());
  blocks->stream_.synchronize();
  return blocks;
}

std::shared_ptr<DeviceBlocks> DeviceBlocks::open_peer(const KvLayout& layout, const CUipcMemHandle& handle) {
  std::shared_ptr<DeviceBlocks> blocks(new DeviceBlocks(device_for_peer(), layout.block_bytes()));
  blocks->owner_ = own_blocks().find(handle);
  if (blocks->owner_) {
    blocks->base_ = blocks->owner_->base_;
  } else {
    blocks->peer_memory_ = std::make_unique<PeerMemory>(blocks->device_, handle);
    blocks->base_ = blocks->peer_memory_->address();
  }
  return blocks;
}

PinnedMemory& DeviceBlocks::staging() {
  if (!staging_) {
    const int64_t num_blocks = std::max<int64_t>(1, kStagingBytes / block_bytes_);
    staging_ = std::make_unique<PinnedMemory>(device_, num_blocks * block_bytes_);
  }
  return *staging_;
}

void DeviceBlocks::to_host(const std::vector<int32_t>& ids, const std::vector<uint8_t*>& to) {
  const std::lock_guard<std::mutex> guard(mutex_);
  device_->bind();
  const PinnedMemory& pinned = staging();
  const size_t num_slots = static_cast<size_t>(pinned.num_bytes() / block_bytes_);
  for (size_t begin = 0; begin < ids.size(); begin += num_slots) {
    const size_t count = std::min(num_slots, ids.size() - begin);
    for (size_t i = 0; i < count; ++i)
      stream_.to_host(pinned.data() + i * block_bytes_, block(ids[begin + i]), block_bytes_);
    stream_.synchronize();
    for (size_t i = 0; i < count; ++i) std::memcpy(to[begin + i], pinned.data() + i * block_bytes_, block_bytes_);
  }
}

void DeviceBlocks::from_host(const std::vector<int32_t>& ids, const std::vector<const uint8_t*>& from) {
  const std::lock_guard<std::mutex> guard(mutex_);
  device_->bind();
  const PinnedMemory& pinned = staging();
  const size_t num_slots = static_cast<size_t>(pinned.num_bytes() / block_bytes_);
  for (size_t begin = 0; begin < ids.size(); begin += num_slots) {
    const size_t count = std::min(num_slots, ids.size() - begin);
    // The device copies a block while the next one is brought to pinned memory.
    for (size_t i = 0; i < count; ++i) {
      std::memcpy(pinned.data() + i * block_bytes_, from[begin + i], block_bytes_);
      stream_.to_device(block(ids[begin + i]), pinned.data() + i * block_bytes_, block_bytes_);
    }
    stream_.synchronize();
  }
}

void DeviceBlocks::copy_from(const DeviceBlocks& peer, const std::vector<int32_t>& peer_ids,
                             const std::vector<int32_t>& ids) {
  if (ids.empty()) return;
  const std::lock_guard<std::mutex> guard(mutex_);
  device_->bind();
  const auto num_bytes = static_cast<int64_t>(ids.size() * sizeof(int32_t));
  if (ids_.num_bytes() < 2 * num_bytes) {
    host_ids_ = std::make_unique<PinnedMemory>(device_, 4 * num_bytes);
    ids_ = DeviceMemory(device_, 4 * num_bytes);
  }
  std::memcpy(host_ids_->data(), peer_ids.data(), num_bytes);
  std::memcpy(host_ids_->data() + num_bytes, ids.data(), num_bytes);
  // Read by every block of threads: over the bus that would take longer than the copy.
  stream_.to_device(ids_.address(), host_ids_->data(), 2 * num_bytes);
  CopyBlocksArgs args{};
  args.from = peer.address();
  args.to = address();
  args.from_ids = ids_.as<int32_t>();
  args.to_ids = ids_.as<int32_t>() + ids.size();
  args.num_blocks = static_cast<int64_t>(ids.size());
  args.block_bytes = block_bytes_;
  kernels_.copy_blocks(args, stream_.get());
  stream_.synchronize();
}

}  // namespace vllm_pd::cuda
