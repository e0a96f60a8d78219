// The reader's end of the data channel.
#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "crc32c.h"
#include "cuda/device_blocks.h"
#include "data_channel.h"
#include "error.h"

namespace vllm_pd {
namespace {

constexpr int kConnectMs = 5'000;
/** An owner that sends nothing for this long is given up. */
constexpr int kStuckMs = 10'000;
constexpr size_t kCheckBytes = sizeof(uint32_t);

[[noreturn]] void nonsense(const std::string& what) {
  throw Error("PEER_FAILED", "Expected the blocks that were asked for but received " + what + ".");
}

/** The offered blocks' bytes, and `tail`, which follows them; returns the checksum of each block. */
std::vector<uint32_t> receive_bytes(const Socket& socket, const KvRegion& into, const std::vector<int32_t>& block_ids,
                                    const std::vector<uint8_t>& hashes, const std::vector<uint8_t>& offered,
                                    std::vector<uint8_t>& tail) {
  const auto block_bytes = static_cast<size_t>(into.layout.block_bytes());
  std::vector<uint32_t> crcs(block_ids.size());
  std::vector<uint32_t*> arriving;
  std::vector<int32_t> ids;
  for (size_t i = 0; i < block_ids.size(); ++i) {
    if (!offered[i]) continue;
    crcs[i] = begin_block_crc(&hashes[i * kHashBytes]);
    arriving.push_back(&crcs[i]);
    ids.push_back(block_ids[i]);
  }
  // A device's blocks arrive on the host first.
  const std::unique_ptr<uint8_t[]> staged(into.device ? new uint8_t[ids.size() * block_bytes] : nullptr);
  Scatter scatter;
  for (size_t k = 0; k < ids.size(); ++k)
    scatter.add(staged ? staged.get() + k * block_bytes : into.block(ids[k]), block_bytes);
  scatter.add(tail.data(), tail.size());
  size_t num_arrived = 0;
  scatter.receive(socket, [&](const void* data, size_t num_bytes) {
    auto at = static_cast<const uint8_t*>(data);
    while (num_bytes > 0 && num_arrived < ids.size() * block_bytes) {
      const size_t taken = std::min(num_bytes, block_bytes - num_arrived % block_bytes);
      uint32_t& crc = *arriving[num_arrived / block_bytes];
      crc = crc32c(crc, at, taken);
      at += taken;
      num_arrived += taken;
      num_bytes -= taken;
    }
  });
  if (staged) {
    std::vector<const uint8_t*> from;
    for (size_t k = 0; k < ids.size(); ++k) from.push_back(staged.get() + k * block_bytes);
    into.device->from_host(ids, from);
  }
  return crcs;
}

/** `crc`: of everything before it. */
void check(uint32_t crc, const uint8_t* received) {
  uint32_t expected = 0;
  std::memcpy(&expected, received, sizeof(expected));
  if (ntohl(expected) != crc) nonsense("a reply that was damaged on its way");
}

}  // namespace

DataLanes::DataLanes(const std::string& host, int port, const Secret& secret, int num_lanes) {
  for (int lane = 0; lane < num_lanes; ++lane) {
    sockets_.push_back(connect_to(host, port, kConnectMs));
    const Socket& socket = sockets_.back();
    make_blocking(socket, kConnectMs);
    uint8_t greeting[kSecretBytes + 1];
    std::memcpy(greeting, secret.data(), kSecretBytes);
    greeting[kSecretBytes] = static_cast<uint8_t>(lane);
    send_all(socket, greeting, sizeof(greeting));
  }
  for (const Socket& socket : sockets_) {
    uint8_t welcome = 0;
    receive_all(socket, &welcome, 1);
    make_blocking(socket, kStuckMs);
  }
}

std::vector<uint8_t> DataLanes::receive(int lane, uint32_t seq, const KvRegion& into,
                                        const std::vector<int32_t>& block_ids,
                                        const std::vector<uint8_t>& hashes) const {
  const Socket& socket = sockets_[lane];
  const size_t num_blocks = block_ids.size();
  uint32_t head[2];
  std::vector<uint8_t> begin(sizeof(head) + num_blocks + kCheckBytes);
  // What it says first may mean that the rest never comes.
  const size_t num_there = receive_some(socket, begin.data(), sizeof(head), begin.size());
  std::memcpy(head, begin.data(), sizeof(head));
  if (ntohl(head[0]) != seq) nonsense("reply number " + std::to_string(ntohl(head[0])));
  if (ntohl(head[1]) != num_blocks) nonsense("a reply of " + std::to_string(ntohl(head[1])) + " blocks");
  receive_all(socket, begin.data() + num_there, begin.size() - num_there);
  const uint32_t head_sum = crc32c(0, begin.data(), begin.size() - kCheckBytes);
  check(head_sum, &begin[begin.size() - kCheckBytes]);
  const std::vector<uint8_t> offered(begin.begin() + sizeof(head), begin.end() - kCheckBytes);
  for (const uint8_t flag : offered) {
    if (flag > 1) nonsense("a block that is neither there nor not there");
  }
  // Whether each block is valid, its checksum, and a check.
  std::vector<uint8_t> tail(num_blocks * (1 + sizeof(uint32_t)) + kCheckBytes);
  const std::vector<uint32_t> crcs = receive_bytes(socket, into, block_ids, hashes, offered, tail);
  check(crc32c(head_sum, tail.data(), tail.size() - kCheckBytes), &tail[tail.size() - kCheckBytes]);
  std::vector<uint32_t> sent_crcs(num_blocks);
  for (size_t i = 0; i < num_blocks; ++i)
    std::memcpy(&sent_crcs[i], &tail[num_blocks + i * sizeof(uint32_t)], sizeof(uint32_t));
  std::vector<uint8_t> arrivals(num_blocks, kGone);
  for (size_t i = 0; i < num_blocks; ++i) {
    if (tail[i] > offered[i]) nonsense("a valid block without its bytes");
    if (tail[i]) arrivals[i] = ntohl(sent_crcs[i]) == crcs[i] ? kIntact : kDamaged;
  }
  return arrivals;
}

void DataLanes::shut_down() const {
  for (const Socket& socket : sockets_) socket.shut_down();
}

}  // namespace vllm_pd
