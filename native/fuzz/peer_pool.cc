// Fuzzes what a peer's KV pool says of itself: its header is checked, its rows are believed only where they name what
// was asked for, and a read writes to the blocks it was told and nowhere else.
#include <unistd.h>

#include <vector>

#include "fuzz/memory_file.h"
#include "fuzz/target.h"
#include "kv_cache.h"
#include "threads.h"
#include "transfer.h"

using namespace vllm_pd;
using namespace vllm_pd::fuzz;

namespace {

constexpr int64_t kPageBytes = 4096;
constexpr int64_t kMaxFileBytes = 64 << 10;
constexpr KvLayout kOwn{32, 1, 1, 2, 4, KvDtype::kF32};

struct Header {
  char magic[8];
  uint64_t version;
  KvLayout layout;
};

/** Of the pool that a layout asks for. */
int64_t expected_bytes(const KvLayout& layout) {
  const int64_t rows = (layout.num_blocks * 64 + kPageBytes - 1) / kPageBytes * kPageBytes;
  return kPageBytes + rows + layout.num_blocks * layout.block_bytes();
}

void complete(Header& header, uint8_t what, const KvLayout& layout) {
  if (what & 1) std::memcpy(header.magic, "VLLMPDKV", 8);
  if (what & 2) header.version = 2;
  if (what & 4) header.layout = layout;
}

void read_all(const KvRegion& remote, Input& input) {
  static KvCache own(kOwn);
  static ThreadPool threads(1);
  const KvRegion& local = own.region();
  std::memset(local.block(0), 0xaa, kOwn.num_blocks * kOwn.block_bytes());
  std::vector<int32_t> remote_ids;
  std::vector<int32_t> local_ids;
  std::vector<uint8_t> hashes;
  for (int i = input.byte() % 16; i > 0; --i) {
    remote_ids.push_back(static_cast<int32_t>(input.next<uint32_t>() % remote.layout.num_blocks));
    local_ids.push_back(static_cast<int32_t>(remote_ids.size()) * 2 - 1);
    // What the row says, or something else.
    const uint8_t* const hash = remote.row(remote_ids.back()).hash;
    const size_t at = hashes.size();
    hashes.insert(hashes.end(), hash, hash + kHashBytes);
    if (input.byte() % 4 == 0) hashes[at + 5] ^= 1;
  }
  const std::vector<uint8_t> valid = read_blocks(threads, remote, local, remote_ids, local_ids, hashes);
  const auto block_bytes = static_cast<size_t>(kOwn.block_bytes());
  for (size_t i = 0; i < valid.size(); ++i) {
    const KvRow& row = remote.row(remote_ids[i]);
    const bool is_there = row.generation != 0 && row.generation % 2 == 0 &&
                          std::memcmp(row.hash, &hashes[i * kHashBytes], kHashBytes) == 0;
    promise(valid[i] == (is_there ? 1 : 0), "a block is valid where its row names it, and only there");
    if (valid[i] == 0) continue;
    promise(std::memcmp(local.block(local_ids[i]), remote.block(remote_ids[i]), block_bytes) == 0, "it is copied whole");
  }
  for (int64_t id = 0; id < kOwn.num_blocks; ++id) {
    if (std::find(local_ids.begin(), local_ids.end(), id) != local_ids.end()) continue;
    for (size_t i = 0; i < block_bytes; ++i) promise(local.block(id)[i] == 0xaa, "other blocks are left alone");
  }
}

}  // namespace

// | what is made right | blocks | size | header | reads | rows and blocks |
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  Input input(data, num_bytes);
  const uint8_t what = input.byte();
  KvLayout layout = kOwn;
  // What a peer says in its welcome, within the bound that is checked there.
  layout.num_blocks = what & 64 ? input.byte() + 1 : input.next<uint32_t>() % (int64_t{1} << 31) + 1;
  const int64_t right_size = expected_bytes(layout);
  const int64_t other_size = input.next<uint16_t>();
  const int64_t file_bytes = what & 8 && right_size <= kMaxFileBytes ? right_size : other_size;
  auto header = input.next<Header>();
  complete(header, what, layout);
  uint8_t reads[96];
  input.take(reads, sizeof(reads));

  MemoryFile file(what & 16 ? "vllm-pd-kv" : "another");
  if (!file.resize(file_bytes)) return -1;
  const auto num_header = std::min<int64_t>(file_bytes, sizeof(header));
  if (!file.write_at(0, &header, num_header)) return -1;
  if (file_bytes > kPageBytes && input.num_left() > 0) {
    const auto num_rows = std::min<int64_t>(file_bytes - kPageBytes, static_cast<int64_t>(input.num_left()));
    if (!file.write_at(kPageBytes, input.data(), num_rows)) return -1;
  }
  if (what & 32) file.seal(F_SEAL_SHRINK | F_SEAL_GROW);

  KvRegion region;
  const bool opened = succeeds_or_fails_with("PEER_FAILED", [&] { region = open_peer_region(getpid(), file.fd(), layout); });
  const bool is_right = std::memcmp(header.magic, "VLLMPDKV", 8) == 0 && header.version == 2 &&
                        header.layout == layout && file_bytes == right_size && (what & 48) == 48;
  promise(opened == is_right, "a pool is mapped if it is one of this layout that cannot shrink, and only then");
  if (!opened) return 0;
  Input read_input(reads, sizeof(reads));
  read_all(region, read_input);
  return 0;
}
