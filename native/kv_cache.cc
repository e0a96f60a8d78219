// The memfd behind a KV pool: made and sealed by its owner, checked and mapped by peers.
#include "kv_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "cuda/device_blocks.h"
#include "error.h"

namespace vllm_pd {
namespace {

constexpr int64_t kPageBytes = 4096;
constexpr char kMagic[8] = {'V', 'L', 'L', 'M', 'P', 'D', 'K', 'V'};
constexpr uint64_t kVersion = 2;
constexpr char kMemfdName[] = "vllm-pd-kv";
/** A peer that could shrink its pool could kill its readers. */
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

struct Header {
  char magic[8];
  uint64_t version;
  KvLayout layout;
  KvPlace place;
  /** Of the blocks, where they lie on a device. */
  cuda::CUipcMemHandle device_memory;
};

int64_t align_to_page(int64_t num_bytes) { return (num_bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

int64_t blocks_offset(const KvLayout& layout) {
  return kPageBytes + align_to_page(layout.num_blocks * static_cast<int64_t>(sizeof(KvRow)));
}

int64_t region_bytes(const KvLayout& layout, KvPlace place) {
  return blocks_offset(layout) + (place == KvPlace::kHost ? layout.num_blocks * layout.block_bytes() : 0);
}

std::string system_error() { return std::strerror(errno); }

int64_t available_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  std::string unit;
  while (meminfo >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    std::getline(meminfo, unit);
  }
  struct sysinfo info;
  return sysinfo(&info) == 0 ? static_cast<int64_t>(info.totalram) * info.mem_unit : INT64_MAX;
}

constexpr int64_t kHugeBytes = 2 << 20;

/**
 * Addresses at which a file's huge pages can be mapped as such, reserved; null where there are none, or for less than one
 * huge page.
 */
uint8_t* reserve_for_huge_pages(int64_t num_bytes) {
  if (num_bytes < kHugeBytes) return nullptr;
  void* const room = mmap(nullptr, num_bytes + kHugeBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<uint8_t*>(room);
  const uintptr_t above = reinterpret_cast<uintptr_t>(room) + kHugeBytes - 1;
  auto* const aligned = reinterpret_cast<uint8_t*>(above / kHugeBytes * kHugeBytes);
  auto* const end = aligned + align_to_page(num_bytes);
  if (aligned > begin) munmap(begin, aligned - begin);
  if (end < begin + num_bytes + kHugeBytes) munmap(end, begin + num_bytes + kHugeBytes - end);
  return aligned;
}

/**
 * Asks the system to put the memfd, mapped writable at `aligned`, on huge pages. Systems rarely give shared memory huge
 * pages of themselves (shmem_enabled is mostly "never"), but they do when asked to collapse what is there, one page of
 * each. What stays on small pages is only slower.
 */
void collapse_to_huge_pages(int fd, uint8_t* aligned, int64_t num_bytes) {
#if !defined(MADV_COLLAPSE)
  constexpr int MADV_COLLAPSE = 25;
#endif
  const char zero = 0;
  for (int64_t at = 0; at + kHugeBytes <= num_bytes; at += kHugeBytes) {
    if (pwrite(fd, &zero, 1, at) != 1 || madvise(aligned + at, kHugeBytes, MADV_COLLAPSE) != 0) break;
  }
}

/** The descriptor is closed when opening or checking fails half-way. */
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

}  // namespace

const char* name_of(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kBF16: return "bfloat16";
    case KvDtype::kF16: return "float16";
    case KvDtype::kE4M3: return "fp8";
    default: return "float32";
  }
}

bool KvLayout::operator==(const KvLayout& other) const {
  return std::memcmp(this, &other, sizeof(KvLayout)) == 0;
}

std::string KvLayout::to_string() const {
  return std::to_string(num_blocks) + " blocks of " + std::to_string(num_layers) + " layers, " +
         std::to_string(num_kv_heads) + " KV heads, " + std::to_string(block_size) + " slots, head size " +
         std::to_string(head_dim) + ", " + name_of(dtype);
}

uint64_t KvRow::begin_read(const uint8_t* expected) const {
  const uint64_t before = generation.load(std::memory_order_acquire);
  if (before % 2 != 0 || std::memcmp(hash, expected, kHashBytes) != 0) return 0;
  return before;
}

bool KvRow::end_read(uint64_t before) const {
  std::atomic_thread_fence(std::memory_order_acquire);
  return generation.load(std::memory_order_relaxed) == before;
}

Mapping::Mapping(int fd, int64_t num_bytes, bool writable) : num_bytes_(num_bytes) {
  const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
  const auto map = [&](void* at, int flags) {
    void* const mapped = mmap(at, num_bytes, protection, MAP_SHARED | (at ? MAP_FIXED : 0) | flags, fd, 0);
    if (mapped != MAP_FAILED) return static_cast<uint8_t*>(mapped);
    const std::string why = system_error();
    if (at) munmap(at, num_bytes);
    throw Error("INTERNAL", "Could not map " + std::to_string(num_bytes) + " bytes: " + why + ".");
  };
  // A peer whose mapping of huge pages does not begin where they do would see small ones.
  uint8_t* const aligned = reserve_for_huge_pages(num_bytes);
  data_ = map(aligned, 0);
  if (!writable) return;
  if (aligned) collapse_to_huge_pages(fd, aligned, num_bytes);
  // The owner takes the pages at once: a pool that does not fit fails here and not in the middle of a step,
  // and no load or prefill pays for the first touch of its blocks.
  data_ = map(data_, MAP_POPULATE);
}

void touch_pages(const std::weak_ptr<Mapping>& mapping, const std::atomic<bool>& closing) {
  // Not MADV_POPULATE_READ: it takes page by page what a fault does for its neighbours too, four times as long.
  constexpr int64_t kStepBytes = 8 << 20;
  for (int64_t begin = 0; !closing; begin += kStepBytes) {
    const auto open = mapping.lock();
    if (!open || begin >= open->num_bytes()) return;
    const int64_t end = std::min(begin + kStepBytes, open->num_bytes());
    for (int64_t at = begin; at < end; at += kPageBytes) (void)*static_cast<const volatile uint8_t*>(open->data() + at);
  }
}

Mapping::~Mapping() { munmap(data_, num_bytes_); }

KvRow& KvRegion::row(int64_t block_id) const {
  return reinterpret_cast<KvRow*>(mapping->data() + kPageBytes)[block_id];
}

uint8_t* KvRegion::block(int64_t block_id) const {
  return mapping->data() + blocks_offset(layout) + block_id * layout.block_bytes();
}

KvCache::KvCache(const KvLayout& layout, KvPlace place) : fd_(-1) {
  const int64_t num_bytes = region_bytes(layout, place);
  const int64_t available = available_bytes();
  if (num_bytes > available) {
    throw Error("INVALID_ARGUMENT", "Expected a KV pool of at most " + std::to_string(available >> 20) +
                                        " MiB, the memory available here, but " + layout.to_string() +
                                        " need " + std::to_string(num_bytes >> 20) + " MiB.");
  }
  Descriptor memfd{memfd_create(kMemfdName, MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  // A memfd is open to everybody by its mode; without this only the way through /proc is closed to other users.
  if (memfd.fd < 0 || fchmod(memfd.fd, S_IRUSR | S_IWUSR) != 0 || ftruncate(memfd.fd, num_bytes) != 0 ||
      fcntl(memfd.fd, F_ADD_SEALS, kSeals) != 0) {
    throw Error("INTERNAL",
                "Could not make a memfd of " + std::to_string(num_bytes) + " bytes: " + system_error() + ".");
  }
  region_ = {layout, std::make_shared<Mapping>(memfd.fd, num_bytes, true), nullptr};
  if (place == KvPlace::kDevice) region_.device = cuda::DeviceBlocks::allocate(layout);
  for (int64_t id = 0; id < layout.num_blocks; ++id)
    region_.row(id).generation.store(1, std::memory_order_relaxed);
  auto* header = reinterpret_cast<Header*>(region_.mapping->data());
  header->version = kVersion;
  header->layout = layout;
  header->place = place;
  if (region_.device) header->device_memory = region_.device->ipc_handle();
  std::memcpy(header->magic, kMagic, sizeof(kMagic));
  fd_ = std::exchange(memfd.fd, -1);
}

KvCache::~KvCache() { close(fd_); }

void KvCache::publish(int64_t block_id, const uint8_t* hash) {
  KvRow& row = region_.row(block_id);
  const uint64_t generation = row.generation.load(std::memory_order_relaxed);
  if (generation % 2 == 0) row.generation.store(generation + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  std::memcpy(row.hash, hash, kHashBytes);
  row.generation.store(generation % 2 == 0 ? generation + 2 : generation + 1, std::memory_order_release);
}

void KvCache::retract(int64_t block_id) {
  KvRow& row = region_.row(block_id);
  const uint64_t generation = row.generation.load(std::memory_order_relaxed);
  row.generation.store(generation % 2 == 0 ? generation + 1 : generation + 2, std::memory_order_relaxed);
  // Whatever is written to the block from here on is seen by nobody who has not seen the odd generation.
  std::atomic_thread_fence(std::memory_order_release);
  std::memset(row.hash, 0, kHashBytes);
}

KvRegion open_peer_region(int pid, int fd, const KvLayout& layout) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  const std::string who =
      "The KV pool of process " + std::to_string(pid) + " (descriptor " + std::to_string(fd) + ")";
  char target[256] = {};
  if (readlink(path.c_str(), target, sizeof(target) - 1) < 0) {
    throw Error("PEER_FAILED", who + " cannot be reached: " + system_error() + ".");
  }
  // Opening anything else could block, or have effects of its own.
  if (std::string(target).rfind("/memfd:" + std::string(kMemfdName), 0) != 0) {
    throw Error("PEER_FAILED", who + " is not a KV pool but " + target + ".");
  }
  Descriptor memfd{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  struct stat status;
  if (memfd.fd < 0 || fstat(memfd.fd, &status) != 0) {
    throw Error("PEER_FAILED", who + " cannot be opened: " + system_error() + ".");
  }
  const int seals = fcntl(memfd.fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || status.st_size < kPageBytes) {
    throw Error("PEER_FAILED", who + " is not sealed as a KV pool is.");
  }
  Header header;
  if (pread(memfd.fd, &header, sizeof(header), 0) != static_cast<ssize_t>(sizeof(header)) ||
      std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0 || header.version != kVersion) {
    throw Error("PEER_FAILED", who + " does not begin as a KV pool of this version.");
  }
  if (header.place != KvPlace::kHost && header.place != KvPlace::kDevice) {
    throw Error("PEER_FAILED", who + " does not say where its blocks lie.");
  }
  if (header.layout != layout || status.st_size != region_bytes(layout, header.place)) {
    throw Error("PEER_FAILED", who + " was expected to have " + layout.to_string() + ", but has " +
                                   header.layout.to_string() + ".");
  }
  return {layout, std::make_shared<Mapping>(memfd.fd, status.st_size, false),
          header.place == KvPlace::kDevice ? cuda::DeviceBlocks::open_peer(layout, header.device_memory) : nullptr};
}

}  // namespace vllm_pd
