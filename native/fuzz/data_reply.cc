// Fuzzes the reader's end of a data connection: whatever an owner sends, only the blocks that were asked for change.
#include <sys/socket.h>
#include <unistd.h>

#include <vector>

#include "data_channel.h"
#include "fuzz/target.h"

using namespace vllm_pd;
using namespace vllm_pd::fuzz;

namespace {

constexpr int kNumBlocks = 48;
/** 32 bytes a block. */
constexpr KvLayout kLayout{kNumBlocks, 1, 1, 1, 4, KvDtype::kF32};
/** More than that does not fit a socket's buffer, and nobody would read on. */
constexpr size_t kMaxStream = 64 << 10;

}  // namespace

// | number of blocks asked for | sequence number | stream |
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  if (num_bytes > kMaxStream) return -1;
  static KvCache cache(kLayout);
  Input input(data, num_bytes);
  const int num_asked = input.byte() % (kNumBlocks / 2 + 1);
  const uint32_t seq = input.byte();
  std::vector<int32_t> ids;
  for (int i = 0; i < num_asked; ++i) ids.push_back((i * 7 + 3) % kNumBlocks);
  const KvRegion& region = cache.region();
  const std::vector<uint8_t> before(region.mapping->data(), region.mapping->data() + region.mapping->num_bytes());

  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return -1;
  const Socket owner(ends[1]);
  std::vector<Socket> sockets;
  sockets.emplace_back(ends[0]);
  const DataLanes lanes(std::move(sockets));
  if (input.num_left() > 0) send_all(owner, input.data(), input.num_left());
  shutdown(owner.fd(), SHUT_WR);

  std::vector<uint8_t> valid;
  if (succeeds_or_fails_with("PEER_FAILED", [&] { valid = lanes.receive(0, seq, region, ids); })) {
    promise(valid.size() == ids.size(), "one verdict a block");
    for (const uint8_t flag : valid) promise(flag <= 1, "a block arrived or did not");
  }
  const uint8_t* const after = region.mapping->data();
  const auto end = region.block(0) - after;
  promise(std::memcmp(before.data(), after, end) == 0, "header and rows are left alone");
  for (int id = 0; id < kNumBlocks; ++id) {
    if (std::find(ids.begin(), ids.end(), id) != ids.end()) continue;
    const int64_t at = region.block(id) - after;
    promise(std::memcmp(before.data() + at, after + at, kLayout.block_bytes()) == 0, "other blocks are left alone");
  }
  return 0;
}
