// Fuzzes the owner's end of data connections: strangers, readers and replies in any order, over real sockets.
#include "data_channel.h"

#include <poll.h>
#include <sys/socket.h>

#include <vector>

#include "fuzz/target.h"

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

SendJob make_job(Input& input) {
  SendJob job{input.next<uint16_t>(), {}, {}};
  for (int i = input.byte() % 40; i > 0; --i) {
    const uint8_t which = input.byte();
    uint8_t hash[kHashBytes];
    hash_of(which % kNumBlocks + which / 128, hash);
    job.block_ids.push_back(which % kNumBlocks);
    job.hashes.insert(job.hashes.end(), hash, hash + kHashBytes);
  }
  return job;
}

/** One execution's server, and everybody who talks to it. */
class Scene {
 public:
  explicit Scene(std::shared_ptr<KvCache> cache) : cache_(std::move(cache)), server_(cache_, "127.0.0.1") { open_session(); }

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
        return reply(input);
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
  void open_session() {
    Session session;
    session.id = server_.open_session(&session.secret);
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

  void reply(Input& input) {
    const uint8_t which = input.byte();
    const SendJob job = make_job(input);
    if (connections_.empty()) {
      promise(!server_.send(0, which, job), "nothing is sent to a session that never was");
      return;
    }
    const Connection& to = connections_[which % connections_.size()];
    server_.send(to.session, to.lane, job);
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
