// Sockets of the data channel: owned descriptors, and sending and receiving whole pieces of memory.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace vllm_pd {

/** Closed with its owner. */
class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  ~Socket();
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int fd() const { return fd_; }
  /** Whoever sends or receives on it stops at once; the descriptor stays this owner's. From any thread. */
  void shut_down() const;

 private:
  int fd_;
};

/** Listens on any free port. Throws INVALID_ARGUMENT when the host is not this machine's. */
Socket listen_on(const std::string& host, int* port);

/** Throws PEER_FAILED, also when it takes longer than `timeout_ms`. */
Socket connect_to(const std::string& host, int port, int timeout_ms);

/** For sockets with a thread of their own: blocks, gives up when nothing moves for `timeout_ms`, sends at once. */
void make_blocking(const Socket& socket, int timeout_ms);

/** Until there is something to receive, or the other end is gone. */
void wait_readable(const Socket& socket);

enum class Wait { kYes, kNone };

/** Memory in several pieces, sent or received in order; neighbours are joined. */
class Scatter {
 public:
  void add(void* data, size_t num_bytes);
  void clear() { pieces_.clear(); }
  bool empty() const { return pieces_.empty(); }
  /**
   * True when all of it is sent, and used up. Without waiting also false: the socket takes no more for now, and the rest is
   * what is left here. Throws PEER_FAILED when the other end is gone or nothing moves any more.
   */
  bool send(const Socket& socket, Wait wait = Wait::kYes);
  /** `arrived` is called with the bytes of each piece in order, while they are in the cache. */
  void receive(const Socket& socket, const std::function<void(const void*, size_t)>& arrived = nullptr);

 private:
  template <typename Transfer, typename Moved>
  bool move_all(Transfer&& transfer, Moved&& moved, size_t max_bytes, Wait wait);

  std::vector<iovec> pieces_;
};

void send_all(const Socket& socket, const void* data, size_t num_bytes);
void receive_all(const Socket& socket, void* data, size_t num_bytes);
/** At least `min_bytes`, and up to `max_bytes` if they are there already; returns how many. */
size_t receive_some(const Socket& socket, void* data, size_t min_bytes, size_t max_bytes);

}  // namespace vllm_pd
