// The reader's end of the data channel.
#include <arpa/inet.h>

#include <cstring>

#include "data_channel.h"
#include "error.h"

namespace vllm_pd {
namespace {

constexpr int kConnectMs = 5'000;
/** An owner that sends nothing for this long is given up. */
constexpr int kStuckMs = 10'000;

[[noreturn]] void nonsense(const std::string& what) {
  throw Error("PEER_FAILED", "Expected the blocks that were asked for but received " + what + ".");
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
                                        const std::vector<int32_t>& block_ids) const {
  const Socket& socket = sockets_[lane];
  const size_t num_blocks = block_ids.size();
  uint32_t head[2];
  receive_all(socket, head, sizeof(head));
  if (ntohl(head[0]) != seq) nonsense("reply number " + std::to_string(ntohl(head[0])));
  if (ntohl(head[1]) != num_blocks) nonsense("a reply of " + std::to_string(ntohl(head[1])) + " blocks");
  std::vector<uint8_t> offered(num_blocks);
  receive_all(socket, offered.data(), num_blocks);
  Scatter scatter;
  for (size_t i = 0; i < num_blocks; ++i) {
    if (offered[i] > 1) nonsense("a block that is neither there nor not there");
    if (offered[i] == 1) scatter.add(into.block(block_ids[i]), into.layout.block_bytes());
  }
  scatter.receive(socket);
  std::vector<uint8_t> valid(num_blocks);
  receive_all(socket, valid.data(), num_blocks);
  for (size_t i = 0; i < num_blocks; ++i) {
    if (valid[i] > offered[i]) nonsense("a valid block without its bytes");
  }
  return valid;
}

void DataLanes::shut_down() const {
  for (const Socket& socket : sockets_) socket.shut_down();
}

}  // namespace vllm_pd
