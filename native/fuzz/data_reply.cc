// Fuzzes the reader's end of a data connection: whatever an owner sends, only the blocks that were asked for change, and
// one that counts as intact holds the bytes whose checksum came with them.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vector>

#include "data_channel.h"
#include "fuzz/target.h"

using namespace vllm_pd;
using namespace vllm_pd::fuzz;

namespace {

using Bytes = std::vector<uint8_t>;

constexpr int kNumBlocks = 48;
constexpr KvLayout kLayout{kNumBlocks, 1, 1, 1, 4, KvDtype::kF32};
constexpr size_t kBlockBytes = 32;
/** More than that does not fit a socket's buffer, and nobody would read on. */
constexpr size_t kMaxStream = 64 << 10;

struct Question {
  uint32_t seq;
  std::vector<int32_t> block_ids;
  Bytes hashes;
};

void append(Bytes& to, const void* data, size_t num_bytes) {
  const auto* const bytes = static_cast<const uint8_t*>(data);
  to.insert(to.end(), bytes, bytes + num_bytes);
}

void append_number(Bytes& to, uint32_t number) {
  const uint32_t swapped = htonl(number);
  append(to, &swapped, sizeof(swapped));
}

Bytes flags_of(Input& input, size_t count) {
  Bytes flags(count);
  // Nearly always one that can be.
  for (uint8_t& flag : flags) flag = input.byte() % 32 == 31 ? 2 : input.byte() % 2;
  return flags;
}

/** A reply with the right checks, whatever else is in it: no input would hit upon those. */
Bytes compose(Input& input, const Question& asked) {
  const size_t count = asked.block_ids.size();
  const uint8_t wrong = input.byte();
  Bytes reply;
  append_number(reply, asked.seq + (wrong == 1));
  append_number(reply, static_cast<uint32_t>(count + (wrong == 2)));
  const Bytes offered = flags_of(input, count);
  append(reply, offered.data(), count);
  const uint32_t head_sum = crc32c(0, reply.data(), reply.size());
  append_number(reply, head_sum + (wrong == 3));
  Bytes tail = flags_of(input, count);
  for (size_t i = 0; i < count; ++i) {
    // Else the tail would be refused whole.
    if (tail[i] == 1 && wrong != 4) tail[i] = offered[i];
    uint8_t block[kBlockBytes];
    input.take(block, sizeof(block));
    if (offered[i] == 1) append(reply, block, sizeof(block));
    const uint32_t crc = crc32c(begin_block_crc(&asked.hashes[i * kHashBytes]), block, sizeof(block));
    append_number(tail, offered[i] == 1 ? crc ^ (input.byte() % 8 == 7) : 0);
  }
  append(reply, tail.data(), tail.size());
  append_number(reply, crc32c(head_sum, tail.data(), tail.size()) + (wrong == 5));
  if (wrong > 200) reply.resize(reply.size() * (wrong - 200) / 64);
  return reply;
}

/** Whether what a block holds is what the reply's checksum for it names; both lie where a whole reply has them. */
bool is_as_sent(const Question& asked, const Bytes& stream, size_t i, const uint8_t* block) {
  const size_t count = asked.block_ids.size();
  size_t at = 8 + count + 4;
  for (size_t k = 0; k < i; ++k) at += stream[8 + k] * kBlockBytes;
  size_t num_offered = 0;
  for (size_t k = 0; k < count; ++k) num_offered += stream[8 + k];
  uint32_t crc;
  std::memcpy(&crc, &stream[8 + count + 4 + num_offered * kBlockBytes + count + 4 * i], sizeof(crc));
  return std::memcmp(&stream[at], block, kBlockBytes) == 0 &&
         ntohl(crc) == crc32c_portable(crc32c_portable(0, &asked.hashes[i * kHashBytes], kHashBytes), block, kBlockBytes);
}

void check_untouched(const KvRegion& region, const Bytes& before, const std::vector<int32_t>& asked) {
  const uint8_t* const after = region.mapping->data();
  promise(std::memcmp(before.data(), after, region.block(0) - after) == 0, "header and rows are left alone");
  for (int id = 0; id < kNumBlocks; ++id) {
    if (std::find(asked.begin(), asked.end(), id) != asked.end()) continue;
    const int64_t at = region.block(id) - after;
    promise(std::memcmp(before.data() + at, after + at, kBlockBytes) == 0, "other blocks are left alone");
  }
}

}  // namespace

// | number of blocks asked for | sequence number | composed or not | stream, or what it is composed from |
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  if (num_bytes > kMaxStream) return -1;
  static KvCache cache(kLayout);
  Input input(data, num_bytes);
  Question asked{0, {}, {}};
  for (int i = input.byte() % (kNumBlocks / 2 + 1); i > 0; --i) asked.block_ids.push_back((i * 7 + 3) % kNumBlocks);
  asked.hashes.assign(asked.block_ids.size() * kHashBytes, 0x5a);
  asked.seq = input.byte();
  const bool is_composed = input.byte() % 2 == 1;
  const Bytes stream = is_composed ? compose(input, asked) : Bytes(input.data(), input.data() + input.num_left());
  const KvRegion& region = cache.region();
  const Bytes before(region.mapping->data(), region.mapping->data() + region.mapping->num_bytes());

  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return -1;
  const Socket owner(ends[1]);
  std::vector<Socket> sockets;
  sockets.emplace_back(ends[0]);
  const DataLanes lanes(std::move(sockets));
  if (!stream.empty()) send_all(owner, stream.data(), stream.size());
  shutdown(owner.fd(), SHUT_WR);

  Bytes arrivals;
  const auto receive = [&] { arrivals = lanes.receive(0, asked.seq, region, asked.block_ids, asked.hashes); };
  if (succeeds_or_fails_with("PEER_FAILED", receive)) {
    promise(arrivals.size() == asked.block_ids.size(), "one verdict a block");
    for (size_t i = 0; i < arrivals.size(); ++i) {
      promise(arrivals[i] <= kDamaged, "a block is there, damaged or gone");
      const bool is_intact = arrivals[i] == kIntact;
      promise(!is_intact || is_as_sent(asked, stream, i, region.block(asked.block_ids[i])), "what is intact is what was sent");
    }
  }
  check_untouched(region, before, asked.block_ids);
  return 0;
}
