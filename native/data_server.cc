// The owner's end of the data channel.
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <functional>
#include <system_error>

#include "data_channel.h"
#include "error.h"

namespace vllm_pd {
namespace {

using Clock = std::chrono::steady_clock;

/** A connection that has not named a session by then is closed. */
constexpr auto kGreetingTime = std::chrono::seconds(5);
/** A reader that takes nothing for this long is given up. */
constexpr int kStuckMs = 10'000;
/** The oldest gives way: strangers must not keep readers out. */
constexpr size_t kMaxStrangers = 64;
/** Replies that wait on one connection. */
constexpr int kMaxQueued = 1024;
/** So much is sent before the connection's thread would have woken up. */
constexpr size_t kShortReplyBytes = 512 << 10;
constexpr size_t kGreetingBytes = kSecretBytes + 1;

/** Takes as long for any two. */
bool same_secret(const Secret& a, const uint8_t* b) {
  uint8_t difference = 0;
  for (size_t i = 0; i < kSecretBytes; ++i) difference |= a[i] ^ b[i];
  return difference == 0;
}

}  // namespace

struct DataServer::Lane {
  Socket socket;
  /** With the one that is being sent. Grows on the thread that answers only. */
  std::atomic<int> num_queued{0};
  std::atomic<bool> failed{false};
  /** Last, so that it has ended before the socket is closed. */
  JobThread thread;

  explicit Lane(Socket own) : socket(std::move(own)) {}

  /** True when there is nothing left to do for it, which includes that nobody takes it. */
  bool send(DataReply& reply, Wait wait) {
    if (failed) return true;
    return reply.send(socket, wait);
  }

  /** Sends later, on the connection's thread; a reply that cannot be made or taken fails the connection. */
  void queue(std::function<void()> sending) {
    num_queued += 1;
    thread.submit([this, sending = std::move(sending)] {
      try {
        if (!failed) sending();
      } catch (const std::exception&) {
        // The reader sees its end, and asks for nothing here any more.
        failed = true;
        socket.shut_down();
      }
      num_queued -= 1;
    });
  }
};

struct DataServer::Session {
  Secret secret;
  SealKey key;
  /** Under the server's mutex; one that is there stays. */
  std::array<std::unique_ptr<Lane>, kMaxLanes> lanes;
  /** From the first connection on; last, so that it has ended before they go. */
  std::unique_ptr<JobThread> reads;

  void shut_down() const {
    for (const auto& lane : lanes) {
      if (lane) lane->socket.shut_down();
    }
  }
};

struct DataServer::Stranger {
  Socket socket;
  Clock::time_point deadline;
  std::array<uint8_t, kGreetingBytes> greeting{};
  size_t num_bytes = 0;
};

DataServer::DataServer(std::shared_ptr<KvCache> cache, std::shared_ptr<const Holds> holds, const std::string& host)
    : cache_(std::move(cache)),
      holds_(std::move(holds)),
      listener_(listen_on(host, &port_)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { greet_strangers(); }) {}

DataServer::~DataServer() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  const uint64_t one = 1;
  // An eventfd takes it, or has been woken before.
  if (write(wake_.fd(), &one, sizeof(one)) < 0) listener_.shut_down();
  thread_.join();
  for (const auto& [id, session] : sessions_) session->shut_down();
  // Their threads end while what they use is still there.
  sessions_.clear();
}

uint32_t DataServer::open_session(Secret* secret, const SealKey& key) {
  if (getrandom(secret->data(), kSecretBytes, 0) != static_cast<ssize_t>(kSecretBytes)) {
    throw Error("INTERNAL", "The system gave no random bytes.");
  }
  const auto session = std::make_shared<Session>();
  session->secret = *secret;
  session->key = key;
  std::lock_guard<std::mutex> lock(mutex_);
  sessions_.emplace(next_session_, session);
  return next_session_++;
}

void DataServer::close_session(uint32_t id) {
  std::shared_ptr<Session> session;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) return;
    session = std::move(found->second);
    sessions_.erase(found);
  }
  // Its threads end here, at once: what they wait for has failed.
  session->shut_down();
}

void DataServer::answer_reads(Session& session) {
  try {
    RequestReader requests(session.key, cache_->layout());
    for (;;) answer(session, requests.next(session.lanes[0]->socket));
  } catch (const std::exception&) {
    // The reader sees its end, and asks for nothing here any more.
    const std::lock_guard<std::mutex> lock(mutex_);
    session.shut_down();
  }
}

void DataServer::answer(Session& session, ReadRequest request) {
  // No block is ever published under a hash of zeros, so the reply says that none is what was asked for.
  if (!holds_->cover(request.hold_id, request.block_ids)) std::fill(request.hashes.begin(), request.hashes.end(), 0);
  const size_t num_blocks = request.block_ids.size();
  const size_t share = blocks_a_lane(num_blocks, request.num_lanes);
  // The first one last: what is short is sent here, while other connections' threads wake up.
  for (size_t index = blocks_a_lane(num_blocks, share); index-- > 0;) {
    Lane* lane = nullptr;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      lane = session.lanes[index].get();
    }
    const size_t begin = index * share;
    const size_t end = std::min(num_blocks, begin + share);
    SendJob job{request.seq,
                {request.block_ids.begin() + begin, request.block_ids.begin() + end},
                {request.hashes.begin() + begin * kHashBytes, request.hashes.begin() + end * kHashBytes}};
    if (lane == nullptr || !send(*lane, std::move(job), index == 0))
      throw Error("PEER_FAILED", "Expected connections that can take a reply.");
  }
}

bool DataServer::send(Lane& lane, SendJob job, bool here) {
  if (lane.failed || lane.num_queued >= kMaxQueued) return false;
  const KvRegion& region = cache_->region();
  const bool is_short = job.block_ids.size() * region.layout.block_bytes() <= kShortReplyBytes && !region.device;
  if (here && is_short && lane.num_queued == 0) {
    const auto reply = std::make_shared<DataReply>(region, std::move(job), num_bytes_sent_);
    if (!lane.send(*reply, Wait::kNone)) lane.queue([=, &lane] { lane.send(*reply, Wait::kYes); });
  } else {
    lane.queue([this, &lane, &region, job = std::move(job)]() mutable {
      DataReply reply(region, std::move(job), num_bytes_sent_);
      lane.send(reply, Wait::kYes);
    });
  }
  return true;
}

void DataServer::greet_strangers() {
  std::vector<Stranger> strangers;
  std::vector<pollfd> waiting;
  for (;;) {
    waiting.assign({{listener_.fd(), POLLIN, 0}, {wake_.fd(), POLLIN, 0}});
    for (const Stranger& stranger : strangers) waiting.push_back({stranger.socket.fd(), POLLIN, 0});
    int timeout_ms = -1;
    if (!strangers.empty()) {
      // They came one after the other, so the first is the first to go.
      const auto left = strangers.front().deadline - Clock::now();
      timeout_ms = std::max<int>(0, std::chrono::duration_cast<std::chrono::milliseconds>(left).count() + 1);
    }
    poll(waiting.data(), waiting.size(), timeout_ms);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (closing_) return;
    }
    std::vector<Stranger> left;
    for (size_t i = 0; i < strangers.size(); ++i) {
      Stranger& stranger = strangers[i];
      const bool done = waiting[i + 2].revents != 0 && greet(stranger);
      if (!done && Clock::now() < stranger.deadline) left.push_back(std::move(stranger));
    }
    strangers = std::move(left);
    if (waiting[0].revents != 0) accept_all(strangers);
  }
}

void DataServer::accept_all(std::vector<Stranger>& strangers) {
  for (;;) {
    Socket socket(accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket.fd() < 0) {
      // Without descriptors the connection stays in the queue, and would wake this thread again at once.
      if (errno == EMFILE || errno == ENFILE) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      return;
    }
    if (strangers.size() >= kMaxStrangers) strangers.erase(strangers.begin());
    strangers.push_back({std::move(socket), Clock::now() + kGreetingTime});
  }
}

bool DataServer::greet(Stranger& stranger) {
  const size_t num_missing = kGreetingBytes - stranger.num_bytes;
  const ssize_t num_bytes =
      recv(stranger.socket.fd(), stranger.greeting.data() + stranger.num_bytes, num_missing, 0);
  if (num_bytes < 0) return errno != EAGAIN && errno != EINTR;
  if (num_bytes == 0) return true;
  stranger.num_bytes += num_bytes;
  if (stranger.num_bytes < kGreetingBytes) return false;
  enter(stranger);
  return true;
}

void DataServer::enter(Stranger& stranger) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::shared_ptr<Session> session;
  for (const auto& [id, candidate] : sessions_) {
    if (same_secret(candidate->secret, stranger.greeting.data())) session = candidate;
  }
  const size_t lane = stranger.greeting[kSecretBytes];
  if (!session || lane >= session->lanes.size() || session->lanes[lane]) return;
  make_blocking(stranger.socket, kStuckMs);
  try {
    session->lanes[lane] = std::make_unique<Lane>(std::move(stranger.socket));
    if (lane == 0) session->reads = std::make_unique<JobThread>();
  } catch (const std::system_error&) {
    // There are no threads to be had: the reader sees its connection's end.
    session->lanes[lane] = nullptr;
    return;
  }
  // The reader waits for it before it asks for anything on the other connection.
  const uint8_t welcome = 1;
  ::send(session->lanes[lane]->socket.fd(), &welcome, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (lane == 0) session->reads->submit([this, &session = *session] { answer_reads(session); });
}

}  // namespace vllm_pd
