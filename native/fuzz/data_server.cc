// Fuzzes the owner's end of data connections: strangers, readers and what they ask for in any order, over real sockets.
#include "data_channel.h"

#include <poll.h>
#include <sys/socket.h>

#include <vector>

#include "fuzz/target.h"
#include "sha256.h"

using namespace vllm_pd;
using namespace vllm_pd::fuzz;

namespace {

constexpr int kNumBlocks = 16;
constexpr KvLayout kLayout{kNumBlocks, 1, 1, 1, 4, KvDtype::kF32};
constexpr int kMaxSteps = 24;
constexpr int kWaitMs = 200;

struct Connection {
  Socket socket;
  /** Whether it may hear anything at all. */
  bool knows_secret;
  uint32_t session;
  int lane;
};

struct Session {
  uint32_t id;
  Secret secret;
  SealKey key;
  /** What a reader would send in place of what is put together here. */
  RequestWriter writer;
  uint64_t num_frames = 0;
};

void hash_of(int block, uint8_t* hash) { std::memset(hash, block + 1, kHashBytes); }

/** Closed without the wait that would use up this machine's ports. */
Socket connect_briefly(int port) {
  Socket socket = connect_to("127.0.0.1", port, kWaitMs);
  const linger none{1, 0};
  setsockopt(socket.fd(), SOL_SOCKET, SO_LINGER, &none, sizeof(none));
  return socket;
}

void tell(const Socket& socket, const uint8_t* bytes, size_t num_bytes) {
  // It may have been closed at the other end already.
  ::send(socket.fd(), bytes, num_bytes, MSG_NOSIGNAL);
}

void append_number(std::string& to, uint32_t number) {
  for (int shift = 24; shift >= 0; shift -= 8) to += static_cast<char>(number >> shift);
}

/** A read, most of them as they should be: no input would hit upon a seal. */
std::string make_request(Input& input, Session& session) {
  const uint8_t wrong = input.byte();
  ReadRequest request;
  std::string ids;
  std::string hashes;
  const int count = input.byte() % 40;
  for (int i = 0; i < count; ++i) {
    const uint8_t which = input.byte();
    uint8_t hash[kHashBytes];
    hash_of(which % kNumBlocks + which / 128, hash);
    request.block_ids.push_back(which % kNumBlocks + (wrong == 1 ? kNumBlocks : 0));
    append_number(ids, request.block_ids.back());
    hashes.append(reinterpret_cast<const char*>(hash), kHashBytes);
  }
  request.hashes.assign(hashes.begin(), hashes.end());
  request.hold_id = input.byte() % 4 == 0 ? "another" : "held";
  request.seq = input.next<uint16_t>();
  std::string body;
  append_number(body, request.seq);
  append_number(body, count + (wrong == 2));
  append_number(body, static_cast<uint32_t>(request.hold_id.size()) + (wrong == 3 ? input.next<uint32_t>() : 0));
  request.num_lanes = 1 + input.byte() % (kMaxLanes + 2);
  append_number(body, request.num_lanes);
  body += ids + hashes + request.hold_id;
  std::string message = std::to_string(++session.num_frames) + " read " + body;
  uint8_t seal[kHashBytes];
  hmac_sha256(session.key.data(), session.key.size(), reinterpret_cast<const uint8_t*>(message.data()), message.size(), seal);
  if (wrong == 4) seal[input.byte() % 16] ^= 1;
  std::string frame;
  append_number(frame, static_cast<uint32_t>(1 + body.size() + 16));
  frame += '\x04';
  int ones = 0;
  for (const char byte : frame) ones += __builtin_popcount(static_cast<uint8_t>(byte));
  if (ones % 2 != 0) frame.back() = static_cast<char>(0x84);
  frame += body + std::string(reinterpret_cast<const char*>(seal), 16);
  const std::vector<uint8_t> written = session.writer.next(request);
  const bool is_right = wrong < 2 || wrong > 4;
  promise(!is_right || frame == std::string(written.begin(), written.end()), "both ends have one form of a read");
  return frame;
}

/** One execution's server, and everybody who talks to it. */
class Scene {
 public:
  explicit Scene(std::shared_ptr<KvCache> cache) : cache_(std::move(cache)), server_(cache_, holds(), "127.0.0.1") {
    open_session();
  }

  void step(uint8_t what, Input& input) {
    switch (what % 9) {
      case 0:
        return enter(input);
      case 1:
        return intrude(input);
      case 2:
        return open_session();
      case 3:
      case 4:
        return ask(input);
      case 5:
        return server_.close_session(sessions_[input.byte() % sessions_.size()].id);
      case 6:
        if (!connections_.empty()) connections_.erase(connections_.begin() + input.byte() % connections_.size());
        return;
      case 7:
        return cache_->retract(input.byte() % kNumBlocks);
      default:
        return publish(input.byte() % kNumBlocks);
    }
  }

  void check() const {
    for (const Connection& connection : connections_) {
      uint8_t byte = 0;
      const bool heard = recv(connection.socket.fd(), &byte, 1, MSG_DONTWAIT | MSG_PEEK) > 0;
      promise(connection.knows_secret || !heard, "who does not know the secret hears nothing");
    }
  }

 private:
  /** The first half of the pool. */
  static std::shared_ptr<const Holds> holds() {
    const auto holds = std::make_shared<Holds>();
    std::vector<int32_t> ids;
    for (int id = 0; id < kNumBlocks / 2; ++id) ids.push_back(id);
    holds->grant("held", ids, std::chrono::hours(1));
    return holds;
  }

  void open_session() {
    SealKey key;
    key.fill(static_cast<uint8_t>(sessions_.size() + 1));
    Session session{0, {}, key, RequestWriter(key)};
    session.id = server_.open_session(&session.secret, key);
    sessions_.push_back(session);
  }

  void publish(int block) {
    uint8_t hash[kHashBytes];
    hash_of(block, hash);
    cache_->publish(block, hash);
  }

  /** The right secret, perhaps in two pieces, perhaps for a connection that is taken or does not exist. */
  void enter(Input& input) {
    const Session& session = sessions_[input.byte() % sessions_.size()];
    const uint8_t lane = input.byte() % (kMaxLanes + 2);
    const size_t cut = input.byte() % kSecretBytes;
    uint8_t greeting[kSecretBytes + 1];
    std::memcpy(greeting, session.secret.data(), kSecretBytes);
    greeting[kSecretBytes] = lane;
    Connection connection{connect_briefly(server_.port()), true, session.id, lane};
    if (cut > 0) tell(connection.socket, greeting, cut);
    tell(connection.socket, greeting + cut, sizeof(greeting) - cut);
    pollfd waiting{connection.socket.fd(), POLLIN, 0};
    uint8_t welcome = 1;
    if (poll(&waiting, 1, kWaitMs) > 0 && recv(connection.socket.fd(), &welcome, 1, 0) == 1) {
      promise(welcome == 1 && lane < kMaxLanes, "a welcome is one byte, on a connection that can be");
    }
    connections_.push_back(std::move(connection));
  }

  /** Bytes of the input, or a secret with one bit turned. */
  void intrude(Input& input) {
    const uint8_t how = input.byte();
    Connection connection{connect_briefly(server_.port()), false, 0, 0};
    if (how % 2 == 0) {
      uint8_t greeting[kSecretBytes + 1] = {};
      std::memcpy(greeting, sessions_.front().secret.data(), kSecretBytes);
      greeting[how / 2 % kSecretBytes] ^= 1 << how / 64 * 2;
      tell(connection.socket, greeting, sizeof(greeting));
    } else {
      const std::string noise = input.text(how / 2);
      if (!noise.empty()) tell(connection.socket, reinterpret_cast<const uint8_t*>(noise.data()), noise.size());
    }
    connections_.push_back(std::move(connection));
  }

  void ask(Input& input) {
    if (connections_.empty()) return;
    const Connection& from = connections_[input.byte() % connections_.size()];
    for (Session& session : sessions_) {
      if (session.id != from.session) continue;
      const std::string frame = make_request(input, session);
      tell(from.socket, reinterpret_cast<const uint8_t*>(frame.data()), frame.size());
    }
  }

  std::shared_ptr<KvCache> cache_;
  DataServer server_;
  std::vector<Session> sessions_;
  std::vector<Connection> connections_;
};

}  // namespace

// | step, its own bytes | … |
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  static const auto cache = std::make_shared<KvCache>(kLayout);
  for (int id = 0; id < kNumBlocks; ++id) {
    uint8_t hash[kHashBytes];
    hash_of(id, hash);
    cache->publish(id, hash);
  }
  Scene scene(cache);
  Input input(data, num_bytes);
  for (int i = 0; i < kMaxSteps && input.num_left() > 0; ++i) scene.step(input.byte(), input);
  scene.check();
  return 0;
}
