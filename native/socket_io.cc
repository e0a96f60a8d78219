// Stream sockets with timeouts.
#include "socket_io.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "error.h"

namespace vllm_pd {
namespace {

constexpr int kBacklog = 128;
/** Pieces handed to the kernel at once. */
constexpr size_t kMaxPieces = 256;
/** Received at once where somebody looks at it then: as much as is still in the cache. */
constexpr size_t kMaxArrivingBytes = 256 << 10;

using Addresses = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

/** Throws `code` when the name stands for nothing. */
Addresses resolve(const std::string& host, int port, int flags, const char* code) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  const int failure = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (failure != 0) {
    throw Error(code, "The address " + host + " is not known: " + gai_strerror(failure) + ".");
  }
  return {found, freeaddrinfo};
}

/** What a system call that moved nothing means; `errno` is still that call's. */
[[noreturn]] void fail(ssize_t num_moved) {
  if (num_moved == 0) throw Error("PEER_FAILED", "The data connection was closed.");
  const bool stuck = errno == EAGAIN || errno == EWOULDBLOCK;
  throw Error("PEER_FAILED", stuck ? "Nothing moves on the data connection any more."
                                   : std::string("The data connection failed: ") + std::strerror(errno) + ".");
}

bool finish_connecting(int fd, int timeout_ms) {
  pollfd waiting{fd, POLLOUT, 0};
  int num_ready;
  do {
    num_ready = poll(&waiting, 1, timeout_ms);
  } while (num_ready < 0 && errno == EINTR);
  if (num_ready <= 0) {
    errno = ETIMEDOUT;
    return false;
  }
  int failure = 0;
  socklen_t size = sizeof(failure);
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size) != 0) return false;
  errno = failure;
  return failure == 0;
}

}  // namespace

Socket::~Socket() {
  if (fd_ >= 0) close(fd_);
}

void Socket::shut_down() const { shutdown(fd_, SHUT_RDWR); }

Socket listen_on(const std::string& host, int* port) {
  const Addresses addresses = resolve(host, 0, AI_PASSIVE, "INVALID_ARGUMENT");
  const addrinfo& first = *addresses;
  Socket socket(::socket(first.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  if (socket.fd() < 0 || bind(socket.fd(), first.ai_addr, first.ai_addrlen) != 0 ||
      listen(socket.fd(), kBacklog) != 0 ||
      getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&bound), &size) != 0) {
    throw Error("INVALID_ARGUMENT",
                "KV blocks cannot be served on " + host + ": " + std::strerror(errno) + ".");
  }
  *port = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(bound).sin6_port
                                            : reinterpret_cast<sockaddr_in&>(bound).sin_port);
  return socket;
}

Socket connect_to(const std::string& host, int port, int timeout_ms) {
  const Addresses addresses = resolve(host, port, AI_NUMERICSERV, "PEER_FAILED");
  for (const addrinfo* address = addresses.get(); address != nullptr; address = address->ai_next) {
    Socket socket(::socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (socket.fd() < 0) continue;
    if (connect(socket.fd(), address->ai_addr, address->ai_addrlen) == 0) return socket;
    if (errno == EINPROGRESS && finish_connecting(socket.fd(), timeout_ms)) return socket;
  }
  throw Error("PEER_FAILED",
              "No data connection to " + host + ":" + std::to_string(port) + ": " + std::strerror(errno) + ".");
}

void make_blocking(const Socket& socket, int timeout_ms) {
  const int fd = socket.fd();
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
  const timeval limit{timeout_ms / 1000, timeout_ms % 1000 * 1000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

void wait_readable(const Socket& socket) {
  pollfd waiting{socket.fd(), POLLIN, 0};
  while (poll(&waiting, 1, -1) < 0 && errno == EINTR) {
  }
}

void Scatter::add(void* data, size_t num_bytes) {
  if (num_bytes == 0) return;
  if (!pieces_.empty()) {
    iovec& last = pieces_.back();
    if (static_cast<uint8_t*>(last.iov_base) + last.iov_len == data) {
      last.iov_len += num_bytes;
      return;
    }
  }
  pieces_.push_back({data, num_bytes});
}

template <typename Transfer, typename Moved>
bool Scatter::move_all(Transfer&& transfer, Moved&& moved, size_t max_bytes, Wait wait) {
  for (size_t at = 0; at < pieces_.size();) {
    msghdr message{};
    message.msg_iov = &pieces_[at];
    size_t num_bytes = 0;
    for (; num_bytes < max_bytes && message.msg_iovlen < kMaxPieces && at + message.msg_iovlen < pieces_.size();
         ++message.msg_iovlen)
      num_bytes += pieces_[at + message.msg_iovlen].iov_len;
    // The last one is cut for this call.
    const size_t excess = num_bytes > max_bytes ? num_bytes - max_bytes : 0;
    iovec& last = pieces_[at + message.msg_iovlen - 1];
    last.iov_len -= excess;
    const ssize_t num_moved = transfer(&message);
    last.iov_len += excess;
    if (num_moved < 0 && errno == EINTR) continue;
    if (num_moved < 0 && wait == Wait::kNone && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      pieces_.erase(pieces_.begin(), pieces_.begin() + static_cast<std::ptrdiff_t>(at));
      return false;
    }
    if (num_moved <= 0) fail(num_moved);
    size_t left = static_cast<size_t>(num_moved);
    while (left > 0) {
      iovec& piece = pieces_[at];
      const size_t taken = std::min(left, piece.iov_len);
      moved(piece.iov_base, taken);
      piece.iov_base = static_cast<uint8_t*>(piece.iov_base) + taken;
      piece.iov_len -= taken;
      left -= taken;
      if (piece.iov_len == 0) ++at;
    }
  }
  pieces_.clear();
  return true;
}

bool Scatter::send(const Socket& socket, Wait wait) {
  const int flags = MSG_NOSIGNAL | (wait == Wait::kNone ? MSG_DONTWAIT : 0);
  return move_all([&](const msghdr* message) { return sendmsg(socket.fd(), message, flags); },
                  [](const void*, size_t) {}, SIZE_MAX, wait);
}

void Scatter::receive(const Socket& socket, const std::function<void(const void*, size_t)>& arrived) {
  move_all([&](msghdr* message) { return recvmsg(socket.fd(), message, 0); },
           [&](const void* data, size_t num_bytes) {
             if (arrived) arrived(data, num_bytes);
           },
           arrived ? kMaxArrivingBytes : SIZE_MAX, Wait::kYes);
}

void send_all(const Socket& socket, const void* data, size_t num_bytes) {
  Scatter scatter;
  scatter.add(const_cast<void*>(data), num_bytes);
  scatter.send(socket);
}

void receive_all(const Socket& socket, void* data, size_t num_bytes) {
  Scatter scatter;
  scatter.add(data, num_bytes);
  scatter.receive(socket);
}

size_t receive_some(const Socket& socket, void* data, size_t min_bytes, size_t max_bytes) {
  size_t num_bytes = 0;
  while (num_bytes < min_bytes) {
    const ssize_t num_moved = recv(socket.fd(), static_cast<uint8_t*>(data) + num_bytes, max_bytes - num_bytes, 0);
    if (num_moved > 0) {
      num_bytes += static_cast<size_t>(num_moved);
    } else if (num_moved == 0 || errno != EINTR) {
      fail(num_moved);
    }
  }
  return num_bytes;
}

}  // namespace vllm_pd
