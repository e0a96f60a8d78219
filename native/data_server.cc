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
#include <functional>

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
/** So much is sent before the connection's thread would have woken up; the event loop is held up for a tenth of a millisecond. */
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
  /** With the one that is being sent. Grows on the caller's thread only. */
  std::atomic<int> num_queued{0};
  std::atomic<bool> failed{false};
  /** Last, so that it has ended before the socket is closed. */
  JobThread thread;

  explicit Lane(Socket own) : socket(std::move(own)) {}

  /** True when there is nothing left to do for it, which includes that nobody takes it. */
  bool send(DataReply& reply, Wait wait) {
    if (failed) return true;
    try {
      return reply.send(socket, wait);
    } catch (const Error&) {
      // The reader sees its end, and asks for nothing here any more.
      failed = true;
      socket.shut_down();
      return true;
    }
  }

  void queue(std::function<void()> sending) {
    num_queued += 1;
    thread.submit([this, sending = std::move(sending)] {
      sending();
      num_queued -= 1;
    });
  }
};

struct DataServer::Session {
  Secret secret;
  std::array<std::unique_ptr<Lane>, kMaxLanes> lanes;

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

DataServer::DataServer(std::shared_ptr<KvCache> cache, const std::string& host)
    : cache_(std::move(cache)),
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
}

uint32_t DataServer::open_session(Secret* secret) {
  if (getrandom(secret->data(), kSecretBytes, 0) != static_cast<ssize_t>(kSecretBytes)) {
    throw Error("INTERNAL", "The system gave no random bytes.");
  }
  const auto session = std::make_shared<Session>();
  session->secret = *secret;
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

bool DataServer::send(uint32_t session_id, int lane_index, SendJob job, bool here) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = sessions_.find(session_id);
  if (found == sessions_.end() || lane_index < 0 || lane_index >= kMaxLanes) return false;
  Lane* const lane = found->second->lanes[lane_index].get();
  if (lane == nullptr || lane->failed || lane->num_queued >= kMaxQueued) return false;
  const KvRegion& region = cache_->region();
  const bool is_short = job.block_ids.size() * region.layout.block_bytes() <= kShortReplyBytes && !region.device;
  if (here && is_short && lane->num_queued == 0) {
    const auto reply = std::make_shared<DataReply>(region, std::move(job), num_bytes_sent_);
    if (!lane->send(*reply, Wait::kNone)) lane->queue([=] { lane->send(*reply, Wait::kYes); });
  } else {
    lane->queue([this, lane, &region, job = std::move(job)]() mutable {
      DataReply reply(region, std::move(job), num_bytes_sent_);
      lane->send(reply, Wait::kYes);
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
  session->lanes[lane] = std::make_unique<Lane>(std::move(stranger.socket));
  // The reader waits for it before it asks for anything on the other connection.
  const uint8_t welcome = 1;
  ::send(session->lanes[lane]->socket.fd(), &welcome, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace vllm_pd
