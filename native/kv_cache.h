// A node's KV blocks and the table that says what each one holds, in a memfd that peers map read-only.
//
//   | header, one page | table: one row a block | blocks: (num_blocks, block_bytes) |
//                       page aligned             page aligned
//
// The blocks of a GPU's node lie in device memory instead; the header then names that memory to peers.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

namespace vllm_pd {

namespace cuda {
class DeviceBlocks;
}

constexpr int kHashBytes = 32;

/** What the pool's elements are; the numbers are part of the memfd's header. Float16 and fp8 (e4m3) are the GPU's. */
enum class KvDtype : int64_t { kF32 = 0, kBF16 = 1, kF16 = 2, kE4M3 = 3 };

constexpr int64_t element_bytes_of(KvDtype dtype) {
  return dtype == KvDtype::kF32 ? 4 : dtype == KvDtype::kE4M3 ? 1 : 2;
}

/** As in `--kv-cache-dtype`. */
const char* name_of(KvDtype dtype);

/** Where a pool's blocks lie; the numbers are part of the memfd's header. */
enum class KvPlace : int64_t { kHost = 0, kDevice = 1 };

/** `(num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim)` of `dtype`; index 1 of the third is V. */
struct KvLayout {
  int64_t num_blocks;
  int64_t num_layers;
  int64_t num_kv_heads;
  int64_t block_size;
  int64_t head_dim;
  KvDtype dtype;

  int64_t element_bytes() const { return element_bytes_of(dtype); }
  /** Bytes of one layer's K (or V) in one block. */
  int64_t kv_bytes() const { return num_kv_heads * block_size * head_dim * element_bytes(); }
  int64_t block_bytes() const { return num_layers * 2 * kv_bytes(); }
  bool operator==(const KvLayout& other) const;
  bool operator!=(const KvLayout& other) const { return !(*this == other); }
  std::string to_string() const;
};

/**
 * One block's row: a sequence lock. The generation is even while `hash` names what the block holds and odd
 * while it holds nothing that may be read; it grows with every change, so a reader that sees the same even
 * number before and after its copy has copied exactly what `hash` names.
 */
struct KvRow {
  std::atomic<uint64_t> generation;
  uint8_t hash[kHashBytes];
  uint8_t padding[64 - sizeof(uint64_t) - kHashBytes];

  /** The even generation if the row says `expected`, else 0. */
  uint64_t begin_read(const uint8_t* expected) const;
  /** Whether what was copied since `begin_read` returned `generation` was left alone. */
  bool end_read(uint64_t generation) const;
};
static_assert(sizeof(KvRow) == 64, "a row is one cache line");
static_assert(std::atomic<uint64_t>::is_always_lock_free, "rows are shared between processes");

/** A mapped region; unmapped with its last owner, be it a pool, a running job or a view held by JavaScript.
 */
class Mapping {
 public:
  Mapping(int fd, int64_t num_bytes, bool writable);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  uint8_t* data() const { return data_; }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  uint8_t* data_;
  int64_t num_bytes_;
};

/**
 * Looks at every page of the mapping, until the mapping is gone or `closing`. Otherwise the first read of each block
 * would do so: it takes two to three times as long as the next one.
 */
void touch_pages(const std::weak_ptr<Mapping>& mapping, const std::atomic<bool>& closing);

/** Rows and blocks within a mapping of a pool's memfd, this node's own or a peer's. */
struct KvRegion {
  KvLayout layout;
  std::shared_ptr<Mapping> mapping;
  /** Null where the blocks lie in the mapping. */
  std::shared_ptr<cuda::DeviceBlocks> device;

  KvRow& row(int64_t block_id) const;
  /** Not for blocks on a device. */
  uint8_t* block(int64_t block_id) const;
};

class KvCache {
 public:
  /** Throws INVALID_ARGUMENT when the machine or its device has not got that much memory, NOT_SUPPORTED without one. */
  explicit KvCache(const KvLayout& layout, KvPlace place = KvPlace::kHost);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  const KvRegion& region() const { return region_; }
  const KvLayout& layout() const { return region_.layout; }
  int fd() const { return fd_; }

  void publish(int64_t block_id, const uint8_t* hash);
  void retract(int64_t block_id);

 private:
  int fd_;
  KvRegion region_;
};

/** Maps the pool that process `pid` has open as `fd`, and its device memory where its blocks lie there. Throws
 * PEER_FAILED if it is not there, not of this layout, or out of this process's reach. */
KvRegion open_peer_region(int pid, int fd, const KvLayout& layout);

}  // namespace vllm_pd
